"""Whole images for testing (paper, section 3.2): rescaled to smallest side Q, neither cropped nor padded, any aspect ratio.

Images that are of one size after the rescale come in one batch, within a bound on the pixels of a batch. They are decoded
and rescaled by Pillow, bit for bit as torchvision's transforms do it: a net takes far longer over a whole image.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipelines.batch import Preprocessing, prefetch
from pipelines.images import image_size
from pipelines.pixels import decode
from pipelines.samples import SampleStore
from pipelines.window import resized_shape


@dataclass(frozen=True)
class SizedBatch:
    """images (n, C, H, W) float32, normalised, on the device; rows (n,) int64: their places among those asked for."""

    rows: NDArray[np.int64]
    images: Tensor


class WholeImages:
    """Gives a store's images at any scale. OSError, with the image's name, for one that cannot be decoded."""

    def __init__(
        self, store: SampleStore, preprocessing: Preprocessing, num_threads: int, device: torch.device, max_pixels: int
    ) -> None:
        self.store = store
        self.preprocessing = preprocessing
        self.num_threads = num_threads
        self.device = device
        self.max_pixels = max_pixels

    def batches(self, indices: NDArray[np.int64], scale: int) -> Iterator[SizedBatch]:
        """All images of `indices` once, at smallest side `scale` (Q), in an order that suits batching.

        A batch has at most `max_pixels` pixels, or a single image.
        """
        return prefetch(self._batches(indices, scale), self.device)

    def _batches(self, indices: NDArray[np.int64], scale: int) -> Iterator[SizedBatch]:
        with ThreadPoolExecutor(self.num_threads) as workers:
            source = np.array(list(workers.map(self._size, indices.tolist())), np.int64).reshape(-1, 2)
            shapes = resized_shape(source, np.full(len(indices), scale))
            for rows in group_by_size(shapes, self.max_pixels):
                height, width = shapes[rows[0]].tolist()

                def resized(row: int, size: tuple[int, int] = (width, height)) -> NDArray[np.uint8]:
                    return self._resized(int(indices[row]), size)

                pixels = torch.from_numpy(np.stack(list(workers.map(resized, rows.tolist()))))
                no_shift = torch.zeros((len(rows), 3), device=self.device)
                images = self.preprocessing.normalize(pixels.to(self.device), no_shift)
                yield SizedBatch(rows, images.permute(0, 3, 1, 2))

    def _size(self, index: int) -> tuple[int, int]:
        size = self.store.size(index)
        if size is None:
            encoded = self.store.read(index)
            try:
                size = image_size(encoded)
            except OSError as error:
                raise self._undecodable(index, error) from error
        return size

    def _resized(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """(height, width, 3) for `size` (width, height)."""
        encoded = self.store.read(index)
        try:
            return np.asarray(Image.fromarray(decode(encoded)).resize(size, Image.Resampling.BILINEAR))
        except OSError as error:
            raise self._undecodable(index, error) from error

    def _undecodable(self, index: int, error: Exception) -> OSError:
        return OSError(f"{self.store.name(index)}: cannot be decoded: {' '.join(str(error).split())}")


def group_by_size(shapes: NDArray[np.int64], max_pixels: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers of equal shapes (n, 2), at most `max_pixels` pixels together but at least one; every row once."""
    distinct, group = np.unique(shapes, axis=0, return_inverse=True)
    for number, (height, width) in enumerate(distinct.tolist()):
        rows = np.flatnonzero(group.ravel() == number)
        most = max(1, max_pixels // (height * width))
        yield from (rows[start : start + most] for start in range(0, len(rows), most))
