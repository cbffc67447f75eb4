"""What a loader is: from a plan's samples to normalised batches on the device.

Two loaders keep this contract: `dali.DaliLoader` (fast; CPU and GPU) and `reference.ReferenceLoader` (torchvision and PIL:
the oracle in tests, and the loader where DALI has no build). Both take all randomness from the plan, so they give the same
crops.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.loading.crop_geometry import center_corner, crop_corner, resized_shape
from pipelines.loading.device import DeviceSide, bind_thread
from pipelines.loading.epoch_plan import Samples
from pipelines.pixels import MAX_PIXELS
from pipelines.quoting import one_line, quoted
from pipelines.stores.image_header import image_size
from pipelines.stores.sample_store import SampleStore

T = TypeVar("T")

_logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
IGNORED_LABEL = -100  # the default ignore_index of torch's cross_entropy: the sample of an image that cannot be decoded

# ITU-R 601 luma, the grey that PIL and the JPEG standard use.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Preprocessing:
    """From an image to the net's input: rescale, crop of `image_size` pixels, then (pixel + shift - mean) / std.

    `mean` and `std` in grey levels of 255, per channel: three for RGB nets, one for nets that take grey images. `center`
    crops at the centre instead of the plan's position; `pad` adds a black border of that many pixels before cropping. Images
    of more than `max_pixels` are not decoded.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    center: bool = False
    pad: int = 0
    max_pixels: int = MAX_PIXELS
    _on_device: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def geometry(self, source: NDArray[np.int64], samples: Samples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rescaled shapes and crop corners, both (n, 2) as (y, x), for source images of shape `source` (n, 2)."""
        resized = resized_shape(source, samples.scale)
        if self.center:
            return resized, center_corner(resized, self.image_size)
        return resized, crop_corner(resized, samples.position, self.image_size, self.pad)

    @property
    def channels(self) -> int:
        """Channels of the net's input: 3, or 1 for grey."""
        return len(self.mean)

    def normalize_into(self, pixels: NDArray[np.uint8], shift: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Writes one image, uint8 RGB (H, W, 3), to `out` float32 (H, W, C): (pixel + shift - mean) / std."""
        height, width, _ = pixels.shape
        luma = np.array(LUMA, np.float32)
        shift = shift if self.channels == 3 else np.array([shift @ luma], np.float32)
        values: NDArray[np.uint8] | NDArray[np.float32] = pixels if self.channels == 3 else (pixels @ luma)[..., None]
        # Whole rows at a time: NumPy is ten times slower with an innermost loop over three channels.
        offset = np.tile((np.array(self.mean, np.float32) - shift), width)
        rows = out.reshape(height, -1)
        np.subtract(values.reshape(height, -1), offset, out=rows, dtype=np.float32, casting="unsafe")
        if any(std != 1.0 for std in self.std):
            np.divide(rows, np.tile(np.array(self.std, np.float32), width), out=rows)

    def normalize(self, pixels: Tensor, shift: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The same for a batch on a device: uint8 (n, H, W, 3) and shifts (n, 3) to (n, H, W, C) of `dtype`.

        Computed in fp32 and rounded once. Nothing is copied to the device but at the first call there.
        """
        mean, std, luma = self._constants(pixels.device)
        values = pixels
        if self.channels == 1:
            values, shift = (pixels.float() @ luma)[..., None], (shift @ luma)[..., None]
        offset = (mean - shift)[:, None, None, :]
        if all(value == 1.0 for value in self.std):
            return torch.sub(values, offset, out=torch.empty(values.shape, dtype=dtype, device=pixels.device))
        return torch.sub(values, offset).div_(std).to(dtype)

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        if device not in self._on_device:
            values = (self.mean, self.std, LUMA)
            self._on_device[device] = tuple(torch.tensor(each, device=device) for each in values)  # type: ignore[assignment]
        return self._on_device[device]


@dataclass(frozen=True)
class Batch:
    """images (n, C, H, W), normalised, channels-last in memory; labels (n,) int64, both on the loader's device.

    float32; on a GPU the dtype that the loader was asked for.

    The label of an image that could not be decoded is IGNORED_LABEL, its pixels are zero.
    """

    images: Tensor
    labels: Tensor


class Loader(ABC):
    """Turns samples into batches. `bad_images` maps the indices of images that cannot be decoded to name and reason.

    A sample of index -1 is a filler: it gives a black image with IGNORED_LABEL."""

    def __init__(self, store: SampleStore, preprocessing: Preprocessing, num_threads: int, device: torch.device) -> None:
        self.store = store
        self.preprocessing = preprocessing
        self.num_threads = num_threads
        self.device = device
        self.side = DeviceSide(device)
        self.bad_images: dict[int, str] = {}

    @abstractmethod
    def batches(self, micro_batches: Iterable[Samples]) -> Iterator[Batch]:
        """One batch for each element of `micro_batches`, in order, prepared ahead in the background."""

    def read(self, index: int) -> tuple[bytes, tuple[int, int]]:
        """The encoded image and (height, width) of its stored pixels, EXIF orientation not applied.

        OSError if it cannot be read or is not an image.
        """
        encoded = self.store.read(index)
        return encoded, self.store.size(index) or image_size(encoded)

    def skip(self, index: int, reason: object) -> None:
        """Notes, and says once, that an image cannot be decoded."""
        self.bad_images[index] = f"{quoted(self.store.name(index))}: {one_line(reason)}"
        _logger.warning("left out: %s", self.bad_images[index])

    def labels(self, samples: Samples, decoded: NDArray[np.bool_]) -> Tensor:
        """Labels (n,) on the device, IGNORED_LABEL where the image was not decoded."""
        return self.side.upload(np.where(decoded, self.store.labels[samples.index], IGNORED_LABEL))


def prefetch(iterator: Iterator[T], device: torch.device = CPU) -> Iterator[T]:
    """The same elements, the next one being made in a thread of its own, on `device`, while the caller uses the last."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch", initializer=bind_thread, initargs=(device,)) as pool:
        end = object()
        ahead = pool.submit(next, iterator, end)
        while (element := ahead.result()) is not end:
            ahead = pool.submit(next, iterator, end)
            yield element  # type: ignore[misc]
