"""A store of images in memory that counts what is read, for `benchmark segments`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipelines.layouts.image_files import LeftOut
from pipelines.stores.image_header import image_size
from pipelines.stores.restart_table import CutOut, cut_out, cut_out_header
from pipelines.stores.sample_store import SampleStore


class ImagesInMemory(SampleStore):
    """Encoded images in memory. `reads` has the bytes of each read, and the pixels of the JPEG that it returned."""

    def __init__(self, encoded: list[bytes], names: list[str], can_cut: bool) -> None:
        self.encoded, self.names = encoded, names
        self.labels, self.class_names, self.left_out = np.zeros(len(encoded), np.int64), [""], LeftOut()
        self.sizes = [image_size(image) for image in encoded]
        self.headers = [cut_out_header(image) if can_cut else None for image in encoded]
        self.total_bytes, self.total_pixels = sum(map(len, encoded)), sum(map(math.prod, self.sizes))
        self.reads: list[tuple[int, int]] = []

    def read(self, index: int) -> bytes:
        """The whole image."""
        self.reads.append((len(self.encoded[index]), math.prod(self.sizes[index])))
        return self.encoded[index]

    def length(self, index: int) -> int:
        """Bytes."""
        return len(self.encoded[index])

    def name(self, index: int) -> str:
        """The name in the store that the image is from."""
        return self.names[index]

    def size(self, index: int) -> tuple[int, int]:
        """(height, width)."""
        return self.sizes[index]

    def can_cut_out(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which images have a restart table."""
        return np.array([self.headers[index] is not None for index in indices.tolist()], np.bool_)

    def cut_out(self, index: int, start: tuple[int, int], end: tuple[int, int]) -> CutOut:
        """Reads the header, then the rows of segments around the window at once, as `ShardStore` does."""
        if (span := self.headers[index]) is None:
            return super().cut_out(index, start, end)
        image, scan, lengths = self.encoded[index], span[1], [span[1] - span[0]]

        def read(at: int, count: int) -> bytes:
            lengths.append(count)
            return image[scan + at : scan + at + count]

        cut = cut_out(image[slice(*span)], self.sizes[index], start, end, read)
        self.reads.append((sum(lengths), math.prod(cut.shape)))
        return cut

    def subset(self, indices: np.ndarray) -> ImagesInMemory:
        """The images at `indices`."""
        chosen = [(self.encoded[index], self.names[index]) for index in indices.tolist()]
        return ImagesInMemory([image for image, _ in chosen], [name for _, name in chosen], any(self.headers))
