"""The contract of a loader: it turns the samples of a plan into normalised batches on the device.

There are two implementations. `dali_loader.DaliLoader` is the fast one, for CPU and GPU. `reference_loader.ReferenceLoader`
uses Pillow: it is the oracle in tests, and the loader where DALI has no build. Both take every random choice from the plan,
so they produce the same crops.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.loading.device import LoaderStream
from pipelines.loading.epoch_plan import Samples
from pipelines.loading.preprocessing import Preprocessing
from pipelines.quoting import one_line, quoted
from pipelines.stores.image_header import image_size
from pipelines.stores.sample_store import SampleStore

_logger = logging.getLogger(__name__)

IGNORED_LABEL = -100  # torch's default ignore_index of cross_entropy; the label of an image that cannot be decoded


@dataclass(frozen=True)
class Batch:
    """Images (n, C, H, W), normalised and channels-last in memory, and labels (n,) int64, both on the loader's device.

    Images are float32 on a CPU, and on a GPU of the dtype that the loader was given. An image that cannot be decoded has
    the label IGNORED_LABEL and pixels of zero.
    """

    images: Tensor
    labels: Tensor


class Loader(ABC):
    """Turns samples into batches.

    `bad_images` maps the index of each image that could not be decoded to its name and the reason. A sample of index -1 is
    a dummy: a black image with IGNORED_LABEL.
    """

    def __init__(self, store: SampleStore, preprocessing: Preprocessing, num_threads: int, device: torch.device) -> None:
        self.store = store
        self.preprocessing = preprocessing
        self.num_threads = num_threads
        self.device = device
        self.stream = LoaderStream(device)
        self.bad_images: dict[int, str] = {}

    @abstractmethod
    def batches(self, micro_batches: Iterable[Samples]) -> Iterator[Batch]:
        """One batch for each element of `micro_batches`, in order, prepared ahead in the background."""

    def read(self, index: int) -> tuple[bytes, tuple[int, int]]:
        """The encoded image and the (height, width) of its pixels as stored; EXIF orientation is not applied.

        Raises OSError if the image cannot be read or is not an image.
        """
        encoded = self.store.read(index)
        return encoded, self.store.size(index) or image_size(encoded)

    def skip(self, index: int, reason: object) -> None:
        """Records an image that cannot be decoded, and logs it."""
        self.bad_images[index] = f"{quoted(self.store.name(index))}: {one_line(reason)}"
        _logger.warning("left out: %s", self.bad_images[index])

    def labels(self, samples: Samples, decoded: NDArray[np.bool_]) -> Tensor:
        """Labels (n,) on the device; IGNORED_LABEL where the image was not decoded."""
        return self.stream.upload(np.where(decoded, self.store.labels[samples.index], IGNORED_LABEL))
