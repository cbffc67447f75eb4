"""The DALI graphs: which operators turn encoded images into pixels, on a CPU and on a GPU, and which inputs they take.

`WindowGraph`, for a CPU: DALI only decodes, of each image the window that its crop is made of. `CropGraph`, for a GPU: DALI
decodes (nvJPEG or the hardware decoder) and resizes, and returns whole crops. It can also run with the decoder on the CPU,
which is how it is tested without a GPU.

What happens to a graph's output is in `pipelines.loading.dali_outputs`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import nvidia.dali.fn as fn
from nvidia.dali import types

from pipelines.loading.dali_inputs import PreparedBatch
from pipelines.loading.preprocessing import Preprocessing


@dataclass(frozen=True)
class Decoding:
    """How a GPU's graph decodes. `pipelines.loading.decoder_choice` measures which setting is correct and fastest.

    `regions`: decode only the window under a crop; otherwise the whole image is decoded, and the resize reads the window.
    The hardware decoder cannot decode regions. `cut_outs`: where the store can cut the window out of an image, decode only
    that. `hw_load`: the share of a batch's images that is offered to the hardware decoder. `smooth_chroma`: interpolate
    chroma samples as libjpeg does, instead of repeating them.
    """

    device: Literal["mixed", "cpu"] = "mixed"
    regions: bool = False
    cut_outs: bool = False
    hw_load: float = 0.65
    smooth_chroma: bool = True

    @property
    def is_deterministic(self) -> bool:
        """Whether the decoder of an image depends on the image alone, and not on the batch that it is in."""
        return self.hw_load in (0.0, 1.0)

    def decode(self, encoded: Any, start: Any = None, shape: Any = None) -> Any:
        """The decoder's node in a graph. EXIF orientation is ignored, as by PIL, torchvision and the paper's tools."""
        options: dict[str, Any] = {"adjust_orientation": False, "device": self.device}
        if self.device == "mixed":
            options |= {"hw_decoder_load": self.hw_load, "jpeg_fancy_upsampling": self.smooth_chroma}
            # Allocates memory for images of ImageNet's usual size up front; larger images make it grow.
            options |= {"preallocate_width_hint": 640, "preallocate_height_hint": 640}
        if not self.regions:
            return fn.decoders.image(encoded, **options)
        return fn.decoders.image_slice(encoded, start=start, shape=shape, axis_names="HW", **options)


GraphInputs = dict[str, tuple[Any, Any, int]]
"""A graph's inputs for one batch: name -> (values, DALI type, dimensions of one sample)."""


class Graph(ABC):
    """A DALI graph from encoded images to uint8 pixels."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    @abstractmethod
    def inputs(self, prepared: PreparedBatch) -> GraphInputs:
        """The graph's inputs for a batch. Their names, types and order are the same for every batch."""

    @abstractmethod
    def build(self, nodes: dict[str, Any]) -> Any:
        """The graph's output node, from the node of each input by name."""


class WindowGraph(Graph):
    """Decodes the window of each image, on the CPU."""

    def inputs(self, prepared: PreparedBatch) -> GraphInputs:
        """Encoded images and windows."""
        return _encoded(prepared) | _window(prepared)

    def build(self, nodes: dict[str, Any]) -> Any:
        """Uint8 (height, width, 3) for each window."""
        return Decoding("cpu", regions=True).decode(nodes["encoded"], nodes["start"], nodes["shape"])


class CropGraph(Graph):
    """Decodes, resizes and crops, on a GPU unless `decoding.device` is "cpu"."""

    def __init__(self, preprocessing: Preprocessing, decoding: Decoding) -> None:
        super().__init__(preprocessing)
        self.decoding = decoding

    def inputs(self, prepared: PreparedBatch) -> GraphInputs:
        """Encoded images, and the crop's exact edges within the pixels that are decoded: a window or the whole image."""
        window = prepared.window
        inputs = _encoded(prepared)
        decoded_from = np.zeros(2, np.float32)
        if self.decoding.regions:
            inputs |= _window(prepared)
        else:
            decoded_from = window.start.astype(np.float32)
        roi_start, roi_end = window.roi_start + decoded_from, window.roi_end + decoded_from
        # DALI mirrors a region whose start lies beyond its end.
        flip = prepared.samples.flip[prepared.rows, None] & np.array([False, True])
        inputs["roi_start"] = (np.where(flip, roi_end, roi_start), types.FLOAT, 1)
        inputs["roi_end"] = (np.where(flip, roi_start, roi_end), types.FLOAT, 1)
        if self.preprocessing.pad:
            top_left, bottom_right = prepared.inside[:, 0], prepared.inside[:, 1]
            before = prepared.corner - top_left
            after = bottom_right - self.preprocessing.image_size - prepared.corner
            inputs["corner"] = (np.where(flip, after, before).astype(np.int32), types.INT32, 1)
            inputs["inside"] = ((bottom_right - top_left).astype(np.float32), types.FLOAT, 1)
        return inputs

    def build(self, nodes: dict[str, Any]) -> Any:
        """Uint8 (size, size, 3) for each crop."""
        size = self.preprocessing.image_size
        resized = fn.resize(
            self.decoding.decode(nodes["encoded"], nodes.get("start"), nodes.get("shape")),
            size=nodes.get("inside", [size, size]),
            roi_start=nodes["roi_start"],
            roi_end=nodes["roi_end"],
            interp_type=types.INTERP_LINEAR,
            antialias=True,
        )
        if not self.preprocessing.pad:
            return resized
        window = {"start": nodes["corner"], "shape": [size, size], "axis_names": "HW"}
        return fn.slice(resized, **window, out_of_bounds_policy="pad", fill_values=0)


def _encoded(prepared: PreparedBatch) -> GraphInputs:
    return {"encoded": (prepared.encoded, types.UINT8, 1)}


def _window(prepared: PreparedBatch) -> GraphInputs:
    window = prepared.window
    return {
        "start": (window.start.astype(np.int32), types.INT32, 1),
        "shape": (window.shape.astype(np.int32), types.INT32, 1),
    }
