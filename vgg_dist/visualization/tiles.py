"""Small pictures side by side as one: with transparent gaps, so that it fits a light and a dark page."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def grey_level(values: NDArray[np.floating], axis: tuple[int, ...] | None = None) -> Pixels:
    """Signed values as grey levels: 0 is 128, the largest magnitude 1 or 255. `axis`: over which the largest is taken."""
    largest = np.abs(values).max(axis=axis, keepdims=True)
    scaled = np.divide(values, largest, out=np.zeros(values.shape), where=largest > 0)
    return (128 + 127 * scaled).round().astype(np.uint8)


def opaque(pixels: Pixels) -> Pixels:
    """RGBA (H, W, 4) of RGB (H, W, 3) or grey (H, W, 1)."""
    rgb = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return np.dstack([rgb, np.full(pixels.shape[:2], 255, np.uint8)])


def placed(pixels: Pixels, top: int, left: int, side: int) -> Pixels:
    """RGBA (side, side, 4): the pixels at (top, left), transparent around them."""
    canvas = np.zeros((side, side, 4), np.uint8)
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = opaque(pixels)
    return canvas


def resized(tile: Pixels, side: int) -> Pixels:
    """A square RGBA tile with another side: smoothly if smaller, pixel by pixel if larger."""
    how = Image.Resampling.NEAREST if side >= tile.shape[0] else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(tile).resize((side, side), how))


def mosaic(tiles: Sequence[Pixels], columns: int, gap: int = 2) -> Pixels:
    """RGBA tiles of one shape in rows of `columns`, from the top left."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for number, tile in enumerate(tiles):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return canvas


def png(pixels: Pixels) -> bytes:
    """The content of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()
