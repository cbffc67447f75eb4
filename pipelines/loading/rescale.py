"""Crops of rescaled images on a CPU, in bounded memory: with Pillow, bit-equal to torchvision's transforms, and with torch.

A strip of 3000 x 1 pixels has 196 million pixels when rescaled to a smallest side of 256. An image with more than
MAX_WHOLE_PIXELS after the rescale is therefore never rescaled as a whole, only the part under the crop is. Pillow then takes
the crop's position in single precision, which shifts it by at most a thousandth of a source pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipelines.loading.crop_geometry import DecodeWindow

MAX_WHOLE_PIXELS = 2**22  # of an image that is rescaled as a whole
_SMALL_FOR_TORCH = 32768  # elements; torch divides larger tensors between threads (at::internal::GRAIN_SIZE)
_resize = torch.ops.aten._upsample_bilinear2d_aa.default  # looking it up takes as long as Python's part of the call


def crop_of_rescaled(
    image: Image.Image, resized: Sequence[int], corner: Sequence[int], size: Sequence[int]
) -> NDArray[np.uint8]:
    """The crop of `size` (height, width) at `corner` (y, x) of an RGB image rescaled to `resized` (height, width).

    Returns uint8 (height, width, 3), black outside the image.
    """
    (height, width), (first, last) = resized, clipped(np.array(resized), np.array(corner), np.array(size))
    if height * width <= MAX_WHOLE_PIXELS:
        whole = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        part = whole[first[0] : last[0], first[1] : last[1]]
    else:
        source = np.array([image.height, image.width])
        part = resize_box(image, first * source / resized, np.minimum(last * source / resized, source), last - first)
    return with_border(part, first - corner, size)


def clipped(
    resized: NDArray[np.int64], corner: NDArray[np.int64], size: NDArray[np.int64] | int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last corners (..., 2) of the part of each crop inside the image; one pixel at the edge if there is none."""
    first = np.clip(corner, 0, resized - 1)
    return first, np.clip(corner + size, first + 1, resized)


def resize_box(
    image: Image.Image, start: NDArray[np.floating], end: NDArray[np.floating], size: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """The region from `start` to `end` (y, x), in source pixels, resized to `size` (height, width)."""
    (top, left), (bottom, right), (height, width) = start.tolist(), end.tolist(), size.tolist()
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=(left, top, right, bottom)))


def with_border(part: NDArray[np.uint8], at: Sequence[int] | NDArray[np.int64], size: Sequence[int]) -> NDArray[np.uint8]:
    """A black image of `size` (height, width) with `part` (h, w, 3) at (y, x) `at`; what lies outside is cut off."""
    if part.shape[:2] == tuple(size) and not np.any(at):
        return part
    canvas = np.zeros((*size, 3), np.uint8)
    (top, left), (height, width) = (max(0, int(at[0])), max(0, int(at[1]))), part.shape[:2]
    inside = canvas[top : max(0, int(at[0]) + height), left : max(0, int(at[1]) + width)]
    skipped = part[max(0, -int(at[0])) :, max(0, -int(at[1])) :]
    inside[...] = skipped[: inside.shape[0], : inside.shape[1]]
    return canvas


def resize_window(pixels: NDArray[np.uint8], window: DecodeWindow, k: int, size: int, flip: bool) -> NDArray[np.uint8]:
    """The k-th window's crop (size, size, 3), mirrored if `flip`, from its decoded pixels (h, w, 3)."""
    (down, right), (top, left) = window.padding_before[k].tolist(), window.skip[k].tolist()
    height, width, _ = pixels.shape
    if not window.is_aligned[k] or down + height == top + size or right + width == left + size:
        # torch's kernel is a no-op where input and output sizes are equal, whatever the ratio.
        exact = resize_box(Image.fromarray(pixels), window.roi_start[k], window.roi_end[k], np.array([size, size]))
        return np.ascontiguousarray(exact[:, ::-1]) if flip else exact
    canvas = pixels
    if down or right:
        canvas = np.empty((down + height, right + width, 3), np.uint8)
        canvas[down:, right:] = pixels
    # The kernel needs no copy with the strides of a channels-last batch, which `canvas[None]` and `unsqueeze` do not give.
    planes = torch.from_numpy(canvas.reshape(1, *canvas.shape)).permute(0, 3, 1, 2)
    zoom = (1.0 / window.ratio[k]).tolist()
    resized = _resize(planes, [top + size, left + size], False, *zoom)
    crop = resized[:, :, top:, left:]
    return _mirrored(crop) if flip else crop[0].permute(1, 2, 0).numpy()


def _mirrored(crop: Tensor) -> NDArray[np.uint8]:
    """The mirror image (h, w, 3) of a crop (1, 3, h, w).

    Made in parts that are too small for torch to share them with OpenMP's threads: their barriers take longer than the work.
    """
    _, _, height, width = crop.shape
    rows = max(1, _SMALL_FOR_TORCH // (3 * width))
    mirrored = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        mirrored[top : top + rows] = crop[:, :, top : top + rows].flip(3)[0].permute(1, 2, 0).numpy()
    return mirrored
