"""Whole images for testing (paper, section 3.2): rescaled to smallest side Q, neither cropped nor padded, any aspect ratio.

Images of the same size after the rescale are batched together, up to a limit on the pixels of a batch. Pillow decodes and
rescales them, bit-equal to torchvision's transforms; its speed is enough, because a net needs far longer for a whole image.

An image with more than MAX_BATCHED_PIXELS after the rescale is never held as a whole: its pixels are read part by part, so
memory is bounded for strips, too. A strip of 3000 x 1 pixels has 196 million pixels at Q = 256.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipelines.loading.crop_geometry import resized_shape
from pipelines.loading.prefetch import prefetch
from pipelines.loading.preprocessing import Preprocessing
from pipelines.loading.rescale import crop_of_rescaled
from pipelines.pixels import decoded
from pipelines.quoting import one_line, quoted
from pipelines.stores.image_header import image_size
from pipelines.stores.sample_store import SampleStore

_logger = logging.getLogger(__name__)

MAX_BATCHED_PIXELS = 2**21  # after the rescale; a larger image is a LargeImage


@dataclass(frozen=True)
class SizedBatch:
    """Images (n, C, H, W) float32, normalised, on the device; rows (n,) int64: their positions in the requested indices."""

    rows: NDArray[np.int64]
    images: Tensor


class Rescaled:
    """A rescaled image that can be read part by part, normalised. `shape`: (height, width) in px."""

    def __init__(self, image: Image.Image, shape: tuple[int, int], whole: WholeImages) -> None:
        self.shape = shape
        self._image = image
        self._whole = whole

    def part(self, top: int, left: int, height: int, width: int, *, mirrored: bool = False) -> Tensor:
        """A part of the image, or of its mirror image if `mirrored`: (1, C, height, width), as in a SizedBatch."""
        if mirrored:
            left = self.shape[1] - left - width
        pixels = crop_of_rescaled(self._image, self.shape, (top, left), (height, width))
        return self._whole.normalized(torch.from_numpy(pixels[:, ::-1].copy() if mirrored else pixels.copy())[None])


@dataclass(frozen=True)
class LargeImage:
    """An image with more than MAX_BATCHED_PIXELS at its rescaled `shape` (height, width); `rows` (1,) as in a SizedBatch."""

    rows: NDArray[np.int64]
    shape: tuple[int, int]
    index: int
    whole: WholeImages

    @contextmanager
    def open(self) -> Iterator[Rescaled]:
        """Decodes the image. Raises OSError with the image's name if that fails."""
        with self.whole.decoded(self.index) as image:
            yield Rescaled(image, self.shape, self.whole)


class WholeImages:
    """The images of a store at any scale. Raises OSError with the image's name if one cannot be decoded."""

    def __init__(
        self, store: SampleStore, preprocessing: Preprocessing, num_threads: int, device: torch.device, max_pixels: int
    ) -> None:
        self.store = store
        self.preprocessing = preprocessing
        self.num_threads = num_threads
        self.device = device
        self.max_pixels = max_pixels

    def batches(self, indices: NDArray[np.int64], scale: int) -> Iterator[SizedBatch | LargeImage]:
        """Each image of `indices` once, at smallest side `scale` (Q), in an order that suits batching.

        A batch has at most `max_pixels` pixels, or a single image. Large images come one by one, and are read when opened.
        """
        return prefetch(self._batches(indices, scale), self.device)

    def _batches(self, indices: NDArray[np.int64], scale: int) -> Iterator[SizedBatch | LargeImage]:
        with ThreadPoolExecutor(self.num_threads) as workers:
            source = np.array(list(workers.map(self._size, indices.tolist())), np.int64).reshape(-1, 2)
            shapes = resized_shape(source, np.full(len(indices), scale))
            for rows in group_by_size(shapes, self.max_pixels):
                height, width = shapes[rows[0]].tolist()
                if height * width > MAX_BATCHED_PIXELS:
                    yield from self._large(indices, rows, (height, width))
                    continue

                def resized(row: int, size: tuple[int, int] = (width, height)) -> NDArray[np.uint8]:
                    return self._resized(int(indices[row]), size)

                pixels = torch.from_numpy(np.stack(list(workers.map(resized, rows.tolist()))))
                yield SizedBatch(rows, self.normalized(pixels))

    def _large(self, indices: NDArray[np.int64], rows: NDArray[np.int64], shape: tuple[int, int]) -> Iterator[LargeImage]:
        for row in rows.tolist():
            index, crops = int(indices[row]), shape[0] * shape[1] // self.preprocessing.image_size**2
            name, (height, width) = quoted(self.store.name(index)), shape
            _logger.warning("%s: %d x %d pixels after the rescale, as many as %d crops", name, width, height, crops)
            yield LargeImage(np.array([row]), shape, index, self)

    def normalized(self, pixels: Tensor) -> Tensor:
        """The net's input (n, C, H, W) on the device, from uint8 (n, H, W, 3)."""
        no_shift = torch.zeros((len(pixels), 3), device=self.device)
        return self.preprocessing.normalize(pixels.to(self.device), no_shift).permute(0, 3, 1, 2)

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
        """The image (height, width, 3) rescaled to `size` (width, height)."""
        with self.decoded(index) as image:
            return np.asarray(image.resize(size, Image.Resampling.BILINEAR))

    @contextmanager
    def decoded(self, index: int) -> Iterator[Image.Image]:
        """The image as stored. Raises OSError with the image's name if it cannot be decoded."""
        encoded = self.store.read(index)
        with ExitStack() as stack:
            try:
                image = stack.enter_context(decoded(encoded, self.preprocessing.max_pixels))
            except OSError as error:
                raise self._undecodable(index, error) from error
            yield image

    def _undecodable(self, index: int, error: Exception) -> OSError:
        return OSError(f"{quoted(self.store.name(index))}: cannot be decoded: {one_line(error)}")


def group_by_size(shapes: NDArray[np.int64], max_pixels: int) -> Iterator[NDArray[np.int64]]:
    """Groups of rows with equal shapes (n, 2), of at most `max_pixels` pixels together or one row; every row once."""
    distinct, group = np.unique(shapes, axis=0, return_inverse=True)
    for number, (height, width) in enumerate(distinct.tolist()):
        rows = np.flatnonzero(group.ravel() == number)
        most = max(1, max_pixels // (height * width))
        yield from (rows[start : start + most] for start in range(0, len(rows), most))
