"""Preprocessing (paper, section 2): rescale, crop, subtract the mean RGB value; also colour shift and division by std.

One definition for training, validation and evaluation, in NumPy for one image and in torch for a batch on a device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.loading.crop_geometry import center_corner, crop_corner, resized_shape
from pipelines.loading.epoch_plan import Samples
from pipelines.pixels import MAX_PIXELS

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: how PIL and the JPEG standard convert RGB to grey


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the net's input: rescale, crop to `image_size` pixels, then (pixel + shift - mean) / std.

    `mean` and `std` are per channel, on the 0-255 scale: three values for RGB nets, one for greyscale nets. `center` takes
    the centre crop and ignores the plan's position. `pad` adds a black border of that many pixels before cropping. Images
    with more than `max_pixels` pixels are not decoded.
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

    def row_offsets(self, shift: NDArray[np.float32]) -> NDArray[np.float32]:
        """What to subtract from a row of each crop, (n, image_size * C): the mean minus the image's `shift` (n, 3)."""
        shift = shift if self.channels == 3 else shift @ np.array(LUMA, np.float32)[:, None]
        return np.tile(np.array(self.mean, np.float32) - shift, (1, self.image_size))

    def normalize_into(self, pixels: NDArray[np.uint8], offset: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Writes one crop, uint8 RGB (S, S, 3), to `out` float32 (S, S, C): (pixel + shift - mean) / std.

        `offset`: one row of `row_offsets`.
        """
        size = self.image_size
        values: NDArray[Any] = pixels if self.channels == 3 else pixels @ np.array(LUMA, np.float32)
        # Whole rows at a time: NumPy is ten times slower when its innermost loop runs over three channels only. Conversion
        # and subtraction at once would go through a buffer and take 1.6 times as long.
        rows = out.reshape(size, -1)
        np.copyto(rows, values.reshape(size, -1), casting="unsafe")
        np.subtract(rows, offset, out=rows)
        if any(std != 1.0 for std in self.std):
            np.divide(rows, np.tile(np.array(self.std, np.float32), size), out=rows)

    def normalize(self, pixels: Tensor, shift: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The same for a batch on a device: uint8 (n, H, W, 3) and shifts (n, 3) give (n, H, W, C) of `dtype`.

        Computed in fp32 and rounded once. The constants are copied to a device on the first call for it.
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
