"""From the output of a DALI graph to normalised crops.

`WindowOutputs`, on a CPU: threads resize each decoded window with torch's antialiasing uint8 kernel (PIL's arithmetic,
vectorised; four times as fast as DALI's resize on a CPU) and normalise it. `CropOutputs`, on a GPU: torch normalises the
crops on the loader's stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali.plugin.pytorch import feed_ndarray
from nvidia.dali.tensors import TensorListCPU
from PIL import Image
from torch import Tensor

from pipelines.loading.buffers import BatchBuffers
from pipelines.loading.dali_inputs import PreparedBatch
from pipelines.loading.device import LoaderStream
from pipelines.loading.preprocessing import Preprocessing
from pipelines.loading.readers import in_chunks
from pipelines.loading.rescale import resize_box, resize_window, with_border


class Outputs(ABC):
    """Turns what a graph returns into the images of a batch."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    @abstractmethod
    def finish(self, prepared: PreparedBatch, decoded: Any, workers: ThreadPoolExecutor) -> Tensor:
        """Normalised images (n, C, H, W), channels last; zero where an image cannot be read.

        `decoded` is not used after the call, so DALI may have its memory back.
        """

    @abstractmethod
    def blank(self, count: int) -> Tensor:
        """The images (count, C, H, W) of a batch in which no image can be read: zeros."""


class WindowOutputs(Outputs):
    """Crops from the output of a `WindowGraph`. `max_batch`: the largest batch, in images."""

    def __init__(self, preprocessing: Preprocessing, max_batch: int) -> None:
        super().__init__(preprocessing)
        size = preprocessing.image_size
        self._buffers = BatchBuffers((max_batch, size, size, preprocessing.channels))

    def finish(self, prepared: PreparedBatch, decoded: Any, workers: ThreadPoolExecutor) -> Tensor:
        """Resizes and normalises in threads, into reused memory."""
        n = len(prepared.samples)
        images = self._buffers.take(n)
        out = images.numpy()
        bad = np.ones(n, np.bool_)
        bad[prepared.rows] = False
        out[bad] = 0.0
        offsets = self.preprocessing.row_offsets(prepared.samples.shift)

        def crop(k: int) -> None:
            row = prepared.rows[k]
            pixels = self._crop(prepared, k, np.asarray(decoded[k]), bool(prepared.samples.flip[row]))
            self.preprocessing.normalize_into(pixels, offsets[row], out[row])

        in_chunks(workers, crop, range(len(prepared.rows)))
        return images.permute(0, 3, 1, 2)

    def blank(self, count: int) -> Tensor:
        """Black images."""
        size = self.preprocessing.image_size
        return torch.zeros((count, size, size, self.preprocessing.channels)).permute(0, 3, 1, 2)

    def _crop(self, prepared: PreparedBatch, k: int, pixels: NDArray[np.uint8], flip: bool) -> NDArray[np.uint8]:
        """Image k's crop (size, size, 3) from its decoded window."""
        size, window = self.preprocessing.image_size, prepared.window
        if not self.preprocessing.pad:
            return resize_window(pixels, window, k, size, flip)
        inside = prepared.inside[k]
        part = resize_box(Image.fromarray(pixels), window.roi_start[k], window.roi_end[k], inside[1] - inside[0])
        crop = with_border(part, inside[0] - prepared.corner[k], (size, size))
        return np.ascontiguousarray(crop[:, ::-1] if flip else crop)


class CropOutputs(Outputs):
    """Normalised crops from the output of a `CropGraph`. `dtype`: of the images."""

    def __init__(self, preprocessing: Preprocessing, stream: LoaderStream, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(preprocessing)
        self.stream = stream
        self.dtype = dtype

    def finish(self, prepared: PreparedBatch, decoded: Any, workers: ThreadPoolExecutor) -> Tensor:
        """Normalises on the device."""
        with self.stream.use():
            pixels = self._copied(decoded)
            shift = self.stream.upload(prepared.samples.shift[prepared.rows])
            images = self.preprocessing.normalize(pixels, shift, self.dtype)
            if len(prepared.rows) < len(prepared.samples):
                readable, images = images, self._zeros(len(prepared.samples))
                images.index_copy_(0, self.stream.upload(prepared.rows), readable)
            self.stream.synchronize()  # before DALI reuses its memory
        return images.permute(0, 3, 1, 2)

    def blank(self, count: int) -> Tensor:
        """Zeros on the device."""
        with self.stream.use():
            return self._zeros(count).permute(0, 3, 1, 2)

    def _copied(self, decoded: Any) -> Tensor:
        """DALI's output as a tensor (m, size, size, 3) that owns its memory."""
        dense = decoded.as_tensor()
        if isinstance(decoded, TensorListCPU):
            return torch.from_numpy(np.array(dense)).to(self.stream.device)
        pixels = torch.empty(dense.shape(), dtype=torch.uint8, device=self.stream.device)
        feed_ndarray(dense, pixels, cuda_stream=self.stream.cuda_stream)
        return pixels

    def _zeros(self, count: int) -> Tensor:
        size = self.preprocessing.image_size
        shape = (count, size, size, self.preprocessing.channels)
        return torch.zeros(shape, dtype=self.dtype, device=self.stream.device)
