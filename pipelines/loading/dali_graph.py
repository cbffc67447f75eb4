"""From encoded images to crops, in two ways: what DALI's graph does of it, and what is done with the graph's output.

`HostCrops`, on a CPU: DALI decodes the window of each image that its crop is made of; threads resize it with torch's uint8
antialiasing kernel (the arithmetic of PIL, vectorised; four times faster than DALI's resize on a CPU) and normalise it.
`DeviceCrops`, on a GPU: DALI decodes (nvJPEG or the hardware decoder) and resizes, giving whole crops; torch normalises them
on a stream of its own. Its graph also runs with the decoder on the CPU, which is how it is tested where there is no GPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import nvidia.dali.fn as fn
import torch
from numpy.typing import NDArray
from nvidia.dali import types
from nvidia.dali.plugin.pytorch import feed_ndarray
from PIL import Image
from torch import Tensor

from pipelines.loading.buffers import Buffers
from pipelines.loading.crop_geometry import DecodeWindow
from pipelines.loading.device import DeviceSide
from pipelines.loading.epoch_plan import Samples
from pipelines.loading.loader import Preprocessing
from pipelines.loading.readers import in_chunks
from pipelines.loading.rescale import resize_box, resize_window, with_border


@dataclass
class Prepared:
    """A batch as DALI is given it: one micro-batch, or several in a row.

    `counts`: the micro-batches' sizes. `rows` (m,) int: which of the n samples can be read; the other fields are for those.
    `corner` (m, 2): of the crops, as (y, x) in the rescaled images; `inside` (m, 2, 2): first and last corner of the part of
    a crop that lies in the image, all of it without padding. `window`: what that part is made of.
    """

    samples: Samples
    counts: list[int]
    rows: NDArray[np.int64]
    encoded: list[NDArray[np.uint8]]
    corner: NDArray[np.int64]
    inside: NDArray[np.int64]
    window: DecodeWindow


@dataclass(frozen=True)
class Decoding:
    """How DeviceCrops decodes; which is fastest, and right, on a GPU is measured (see `pipelines.loading.decoder_choice`).

    `regions`: decode only the window of a crop; else whole images, of which the resize reads the window. The hardware
    decoder knows no regions. `hw_load`: the share of a batch's images that is offered to the hardware decoder.
    `smooth_chroma`: interpolate colour between samples as libjpeg does, in place of repeating it.
    """

    device: Literal["mixed", "cpu"] = "mixed"
    regions: bool = False
    hw_load: float = 0.65
    smooth_chroma: bool = True

    @property
    def is_deterministic(self) -> bool:
        """Whether which decoder gets an image depends on the image alone, not on the batch that it is in."""
        return self.hw_load in (0.0, 1.0)

    def decode(self, encoded: Any, start: Any = None, shape: Any = None) -> Any:
        """The decoder's node in a DALI graph. Orientation tags are ignored, as by PIL, torchvision and the paper's tools."""
        options: dict[str, Any] = {"adjust_orientation": False, "device": self.device}
        if self.device == "mixed":
            options |= {"hw_decoder_load": self.hw_load, "jpeg_fancy_upsampling": self.smooth_chroma}
            # Memory for images of ImageNet's usual size, allocated once; larger ones grow it.
            options |= {"preallocate_width_hint": 640, "preallocate_height_hint": 640}
        if not self.regions:
            return fn.decoders.image(encoded, **options)
        return fn.decoders.image_slice(encoded, start=start, shape=shape, axis_names="HW", **options)


Inputs = dict[str, tuple[Any, Any, int]]
"""What a DALI graph is given of a batch: name -> (values, DALI type, dimensions of a sample)."""


class Crops(ABC):
    """One way from encoded images to normalised crops."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    @abstractmethod
    def inputs(self, prepared: Prepared) -> Inputs:
        """What the graph is given, in order; the names are the same for every batch."""

    @abstractmethod
    def graph(self, inputs: dict[str, Any]) -> Any:
        """The DALI graph behind these nodes."""

    @abstractmethod
    def finish(self, prepared: Prepared, decoded: Any, workers: ThreadPoolExecutor) -> Tensor:
        """The graph's output as normalised images (n, C, H, W), channels last; zero where an image cannot be read.

        Nothing of `decoded` is used after that.
        """

    @abstractmethod
    def blank(self, count: int) -> Tensor:
        """`count` images that cannot be read."""


class HostCrops(Crops):
    """See the module's docstring. `max_batch`: images at most in a batch."""

    def __init__(self, preprocessing: Preprocessing, max_batch: int) -> None:
        super().__init__(preprocessing)
        self._buffers = Buffers((max_batch, preprocessing.image_size, preprocessing.image_size, preprocessing.channels))

    def inputs(self, prepared: Prepared) -> Inputs:
        """The windows."""
        return _encoded(prepared) | _window(prepared)

    def graph(self, inputs: dict[str, Any]) -> Any:
        """Decodes the windows."""
        return Decoding("cpu", regions=True).decode(inputs["encoded"], inputs["start"], inputs["shape"])

    def finish(self, prepared: Prepared, decoded: Any, workers: ThreadPoolExecutor) -> Tensor:
        """Resizes and normalises in threads, into memory that is used again."""
        n = len(prepared.samples)
        out = self._buffers.take()[:n]
        bad = np.ones(n, np.bool_)
        bad[prepared.rows] = False
        out[bad] = 0.0

        def crop(k: int) -> None:
            row = prepared.rows[k]
            pixels = self._crop(prepared, k, np.asarray(decoded[k]), bool(prepared.samples.flip[row]))
            self.preprocessing.normalize_into(pixels, prepared.samples.shift[row], out[row])

        in_chunks(workers, crop, range(len(prepared.rows)))
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    def blank(self, count: int) -> Tensor:
        """Black images."""
        size = self.preprocessing.image_size
        return torch.zeros((count, size, size, self.preprocessing.channels)).permute(0, 3, 1, 2)

    def _crop(self, prepared: Prepared, k: int, pixels: NDArray[np.uint8], flip: bool) -> NDArray[np.uint8]:
        """Image k's crop (size, size, 3) from its decoded window."""
        size, window = self.preprocessing.image_size, prepared.window
        if not self.preprocessing.pad:
            return resize_window(pixels, window, k, size, flip)
        inside = prepared.inside[k]
        part = resize_box(Image.fromarray(pixels), window.roi_start[k], window.roi_end[k], inside[1] - inside[0])
        crop = with_border(part, inside[0] - prepared.corner[k], (size, size))
        return np.ascontiguousarray(crop[:, ::-1] if flip else crop)


class DeviceCrops(Crops):
    """See the module's docstring. `dtype`: of the images that come out."""

    def __init__(
        self, preprocessing: Preprocessing, side: DeviceSide, decoding: Decoding, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(preprocessing)
        self.side = side
        self.decoding = decoding
        self.dtype = dtype

    def inputs(self, prepared: Prepared) -> Inputs:
        """The crop's exact edges, in what is decoded: a window of the image, or all of it."""
        window = prepared.window
        inputs = _encoded(prepared)
        first = np.zeros(2, np.float32)
        if self.decoding.regions:
            inputs |= _window(prepared)
        else:
            first = window.start.astype(np.float32)
        roi_start, roi_end = window.roi_start + first, window.roi_end + first
        # A region whose start lies beyond its end comes out mirrored.
        flip = prepared.samples.flip[prepared.rows, None] & np.array([False, True])
        inputs["roi_start"] = (np.where(flip, roi_end, roi_start), types.FLOAT, 1)
        inputs["roi_end"] = (np.where(flip, roi_start, roi_end), types.FLOAT, 1)
        if self.preprocessing.pad:
            top_left, bottom_right = prepared.inside[:, 0], prepared.inside[:, 1]
            before = prepared.corner - top_left
            behind = bottom_right - self.preprocessing.image_size - prepared.corner
            inputs["corner"] = (np.where(flip, behind, before).astype(np.int32), types.INT32, 1)
            inputs["inside"] = ((bottom_right - top_left).astype(np.float32), types.FLOAT, 1)
        return inputs

    def graph(self, inputs: dict[str, Any]) -> Any:
        """Decodes, resizes and, with padding, cuts out: uint8 (size, size, 3) each."""
        size = self.preprocessing.image_size
        resized = fn.resize(
            self.decoding.decode(inputs["encoded"], inputs.get("start"), inputs.get("shape")),
            size=inputs.get("inside", [size, size]),
            roi_start=inputs["roi_start"],
            roi_end=inputs["roi_end"],
            interp_type=types.INTERP_LINEAR,
            antialias=True,
        )
        if not self.preprocessing.pad:
            return resized
        window = {"start": inputs["corner"], "shape": [size, size], "axis_names": "HW"}
        return fn.slice(resized, **window, out_of_bounds_policy="pad", fill_values=0)

    def finish(self, prepared: Prepared, decoded: Any, workers: ThreadPoolExecutor) -> Tensor:
        """Normalises on the device."""
        with self.side.stream():
            pixels = self._copied(decoded)
            shift = self.side.upload(prepared.samples.shift[prepared.rows])
            images = self.preprocessing.normalize(pixels, shift, self.dtype)
            if len(prepared.rows) < len(prepared.samples):
                good, images = images, self._zeros(len(prepared.samples))
                images.index_copy_(0, self.side.upload(prepared.rows), good)
            self.side.synchronize()  # before DALI may have its memory back
        return images.permute(0, 3, 1, 2)

    def blank(self, count: int) -> Tensor:
        """Zeros on the device."""
        with self.side.stream():
            return self._zeros(count).permute(0, 3, 1, 2)

    def _copied(self, decoded: Any) -> Tensor:
        """DALI's output as a tensor (m, size, size, 3) of our own."""
        dense = decoded.as_tensor()
        if self.decoding.device == "cpu":
            return torch.from_numpy(np.array(dense)).to(self.side.device)
        pixels = torch.empty(dense.shape(), dtype=torch.uint8, device=self.side.device)
        feed_ndarray(dense, pixels, cuda_stream=self.side.queue)
        return pixels

    def _zeros(self, count: int) -> Tensor:
        size = self.preprocessing.image_size
        shape = (count, size, size, self.preprocessing.channels)
        return torch.zeros(shape, dtype=self.dtype, device=self.side.device)


def _encoded(prepared: Prepared) -> Inputs:
    return {"encoded": (prepared.encoded, types.UINT8, 1)}


def _window(prepared: Prepared) -> Inputs:
    window = prepared.window
    return {
        "start": (window.start.astype(np.int32), types.INT32, 1),
        "shape": (window.shape.astype(np.int32), types.INT32, 1),
    }
