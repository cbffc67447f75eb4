"""Crop geometry: from (height, width, S, position) to the window of the source image that a crop is made from.

The paper rescales the whole image so that its smallest side is S, then cuts out a crop (section 2). Only the pixels under
the crop matter, so the loader decodes and resizes just the window of the source that the crop covers. This file computes
these windows in NumPy, for whole batches. Sizes and rounding follow torchvision's Resize, RandomCrop and CenterCrop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# How far the beginning of a resize may lie from its exact place, in source pixels; see `decode_window`. At 0.04, pixels of
# photographs differ by 0.15 grey levels on average.
TOLERANCE = 0.04
# At most this many output pixels before the crop may a resize begin; see `DecodeWindow.is_aligned`.
MAX_SKIP = 1024
_FEW = 32  # so many are tried first, which is enough for most images and takes a sixth of the time


def resized_shape(shape: IntArray, scale: NDArray[np.integer]) -> IntArray:
    """Shapes (n, 2) as (height, width) after an isotropic rescale that makes the smallest side `scale` (n,).

    The longer side is rounded down, as in torchvision's Resize.
    """
    short = shape.min(axis=1, keepdims=True)
    return (scale[:, None].astype(np.int64) * shape) // short


def crop_corner(resized: IntArray, position: FloatArray, size: int, pad: int = 0) -> IntArray:
    """Top-left corners (n, 2) as (y, x) of random crops in rescaled images of shape `resized` (n, 2).

    `position` (n, 2) in [0, 1) is a fraction of the range of possible corners; all whole-pixel corners are equally likely.
    With `pad` the image has a border of that many pixels, so a corner may be negative.
    """
    room = resized + 2 * pad - size + 1
    return np.floor(position * room).astype(np.int64) - pad


def center_corner(resized: IntArray, size: int) -> IntArray:
    """Top-left corners (n, 2) as (y, x) of the centre crops; halves round to even, as in torchvision's CenterCrop."""
    return np.rint((resized - size) / 2).astype(np.int64)


def grid_corners(resized: IntArray, size: int, grid: int = 5) -> IntArray:
    """Corners (n, grid * grid, 2) as (y, x) of the test crops (paper, section 3.2): a regular grid, row by row.

    The outermost crops touch the edges of the image; the others are evenly spaced between them. Corners are rounded to the
    nearest pixel, halves to even.
    """
    room = (resized - size)[:, None, :]
    steps = np.stack(np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij"), axis=-1).reshape(1, -1, 2)
    return np.rint(steps * room / (grid - 1)).astype(np.int64)


@dataclass(frozen=True)
class DecodeWindow:
    """Which rectangle of each source image to decode, and how to resize it to the crop. Arrays are (n, 2) as (y, x).

    `start`, `shape` (int64): the rectangle to decode. `roi_start`, `roi_end` (float32): the crop's exact edges within it,
    in source pixels.

    A resize that can only begin at a whole source pixel begins `padding_before` (int64) source pixels before the rectangle;
    that padding may have any content. The crop starts `skip` (int64) output pixels after the resize does. `ratio` (float64):
    source pixels per output pixel of this resize. `is_aligned` (n,): whether such a beginning exists at most MAX_SKIP output
    pixels before the crop; if not, these three have no meaning.
    """

    start: IntArray
    shape: IntArray
    roi_start: NDArray[np.float32]
    roi_end: NDArray[np.float32]
    ratio: FloatArray
    padding_before: IntArray
    skip: IntArray
    is_aligned: NDArray[np.bool_]


def decode_window(source: IntArray, resized: IntArray, corner: IntArray, size: int | IntArray) -> DecodeWindow:
    """The windows for crops of `size` pixels, or (n, 2), at `corner` (n, 2) >= 0 in images `source` rescaled to `resized`.

    A resize can begin at output pixel t of the rescaled image only if t * ratio is a whole source pixel. This takes the last
    such t before the crop, to within TOLERANCE; t = 0 is always exact. The ratio is then changed a little, so that the
    crop's middle is exact and its edges are off by less than the beginning. Time and memory do not depend on image sizes.
    """
    ratio = source / resized
    # How many output pixels the filter reaches beyond the crop's edge: 1 when shrinking, 1 source pixel when enlarging.
    reach = np.ceil(np.maximum(1.0, 1.0 / ratio)).astype(np.int64)
    first = np.maximum(corner - reach, 0)
    aligned = _last_whole_pixel(first, ratio, _FEW)
    far = (aligned < 0).any(axis=1)
    aligned[far] = _last_whole_pixel(first[far], ratio[far], MAX_SKIP)

    begin = np.rint(np.maximum(aligned, 0) * ratio).astype(np.int64)
    start = np.maximum(np.floor(first * ratio).astype(np.int64), begin)
    end = np.minimum(np.ceil((corner + size + reach) * ratio).astype(np.int64), source)
    roi_start, roi_end = ((edge * ratio - start).astype(np.float32) for edge in (corner, corner + size))
    is_aligned: NDArray[np.bool_] = np.all(aligned >= 0, axis=1)
    skip, middle = corner - aligned, size / 2
    resize_ratio = ((corner + middle) * ratio - begin) / (skip + middle)
    return DecodeWindow(start, end - start, roi_start, roi_end, resize_ratio, start - begin, skip, is_aligned)


def _last_whole_pixel(first: IntArray, ratio: FloatArray, most: int) -> IntArray:
    """The last output pixels (n, 2) up to `first` that lie at whole source pixels; -1 if none of the last `most` does."""
    candidates = first[..., None] - np.arange(min(first.max(initial=0), most), -1, -1)
    offset = candidates * ratio[..., None]
    fits = (np.abs(offset - np.rint(offset)) <= TOLERANCE) & (candidates >= 0)
    return np.where(fits, candidates, -1).max(axis=-1)
