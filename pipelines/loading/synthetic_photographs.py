"""Synthetic JPEGs that cost as much to decode as ImageNet's photographs, on which `decoder_choice` measures decoders."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.stores.restart_table import CutOut, cut_out_of, with_table
from pipelines.stores.sample_store import SampleStore


class SyntheticPhotographs(SampleStore):
    """Synthetic JPEGs of ImageNet's usual size and level of detail: smooth noise at several scales; with restart tables."""

    def __init__(self, count: int, distinct: int = 16) -> None:
        self.labels = np.zeros(count, np.int64)
        self.class_names = ["drawn"]
        self._encoded = [_drawn(seed) for seed in range(distinct)]

    def read(self, index: int) -> bytes:
        """One of `distinct` images, repeated."""
        return self._encoded[index % len(self._encoded)]

    def length(self, index: int) -> int:
        """Size of the JPEG in bytes."""
        return len(self.read(index))

    def name(self, index: int) -> str:
        """For example `drawn-12`."""
        return f"drawn-{index}"

    def size(self, index: int) -> tuple[int, int] | None:
        """(height, width) in pixels."""
        return 375, 500

    def can_cut_out(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """All."""
        return np.ones(len(indices), np.bool_)

    def cut_out(self, index: int, start: tuple[int, int], end: tuple[int, int]) -> CutOut:
        """From memory."""
        return cut_out_of(self.read(index), (375, 500), start, end)

    def subset(self, indices: NDArray[np.int64]) -> SyntheticPhotographs:
        """A store with as many images as there are `indices`."""
        return SyntheticPhotographs(len(indices))


def _drawn(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    layers = []
    for cells, channels, weight in ((4, 3, 1.0), (16, 3, 0.6), (64, 1, 0.4), (250, 1, 0.25)):  # fine detail is grey
        noise = Image.fromarray(np.repeat(rng.integers(0, 256, (cells, cells, channels), dtype=np.uint8), 3 // channels, 2))
        layers.append(weight * np.asarray(noise.resize((500, 375), Image.Resampling.BICUBIC), np.float32))
    file = io.BytesIO()
    drawn = Image.fromarray((np.sum(layers, axis=0) / 2.25).astype(np.uint8))
    drawn.save(file, "JPEG", quality=92, restart_marker_blocks=4)  # 32 MCUs a row, segments of 64 px
    encoded = with_table(file.getvalue())
    assert encoded is not None
    return encoded
