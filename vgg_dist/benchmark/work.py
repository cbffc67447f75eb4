"""The work that every loader of `benchmark loader` does: which images, in which order, with which crops and flips."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.loading.epoch_plan import Samples
from pipelines.loading.preprocessing import Preprocessing
from pipelines.stores.open import SampleStore, open_store


@dataclass(frozen=True)
class Work:
    """The images, their order and their preprocessing, the same for all loaders.

    `data`: the location of `store`, a training split. `source`, `resized`, `corner`: int64 (n, 2) as (y, x), the shapes of
    the images before and after the rescale to smallest side S, and the top-left corners of the crops. Our loader computes
    these itself; all others are given them.
    """

    data: str
    store: SampleStore
    samples: Samples
    source: NDArray[np.int64]
    resized: NDArray[np.int64]
    corner: NDArray[np.int64]
    preprocessing: Preprocessing
    batch: int
    threads: int
    device: torch.device

    def parts(self) -> Iterator[slice]:
        """The slice of the samples for each batch."""
        return (
            slice(first, min(first + self.batch, len(self.samples))) for first in range(0, len(self.samples), self.batch)
        )

    def micro_batches(self) -> Iterator[Samples]:
        """The samples of each batch."""
        return (self.samples[part] for part in self.parts())

    def read(self, position: int) -> bytes:
        """The encoded image at this position in the epoch."""
        return self.store.read(int(self.samples.index[position]))

    def encoded(self, part: slice) -> list[NDArray[np.uint8]]:
        """The encoded images of a batch."""
        return [np.frombuffer(self.store.read(index), np.uint8) for index in self.samples.index[part].tolist()]

    def means(self, part: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, 3): the values to subtract from each image's pixels, which are the mean minus the random RGB shift."""
        return np.array(self.preprocessing.mean, np.float32) - self.samples.shift[part]

    def labels(self, part: slice) -> NDArray[np.int64]:
        """Labels (n,) of a batch."""
        return self.store.labels[self.samples.index[part]]

    def save(self, file: Path) -> None:
        """Writes everything except the images to an npz file, for a process in another environment."""
        samples, preprocessing = self.samples, self.preprocessing
        np.savez(
            file,
            data=self.data,
            index=samples.index,
            scale=samples.scale,
            position=samples.position,
            flip=samples.flip,
            shift=samples.shift,
            source=self.source,
            resized=self.resized,
            corner=self.corner,
            image_size=preprocessing.image_size,
            mean=preprocessing.mean,
            std=preprocessing.std,
            batch=self.batch,
            threads=self.threads,
            device=str(self.device),
        )

    @staticmethod
    def load(file: Path) -> Work:
        """Reads what `save` wrote, and opens the store again. Raises ValueError for data that cannot be read."""
        with np.load(file) as saved:
            kept = dict(saved)
        samples = Samples(*(kept[name] for name in ("index", "scale", "position", "flip", "shift")))
        mean, std = tuple(kept["mean"].tolist()), tuple(kept["std"].tolist())
        return Work(
            str(kept["data"]),
            open_store(str(kept["data"]), "train"),
            samples,
            kept["source"],
            kept["resized"],
            kept["corner"],
            Preprocessing(int(kept["image_size"]), mean, std),
            int(kept["batch"]),
            int(kept["threads"]),
            torch.device(str(kept["device"])),
        )


Epoch = Callable[[], Iterator[Tensor]]
"""Runs through the work once: yields images (n, 3, size, size) float32, normalised, on the device."""

PlacedEpoch = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""The same for a loader with another order: yields positions (n,) int64 in the work's order, and the images."""


def epoch_seconds(work: Work, epoch: Callable[[], Iterable[object]]) -> float:
    """Seconds of one epoch over the work, until its last batch is on the device."""
    start = time.perf_counter()
    for _ in epoch():
        pass
    if work.device.type == "cuda":
        torch.cuda.synchronize(work.device)
    return time.perf_counter() - start
