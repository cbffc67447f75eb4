"""Matplotlib's part of the pictures: figures without background, which fit a light and a dark page, and colour maps."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray


def new_figure(width: float, height: float) -> Figure:
    """A figure of that size in inches."""
    return Figure(figsize=(width, height))


def figure_png(figure: Figure) -> bytes:
    """The content of a PNG file, transparent where nothing is drawn."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, transparent=True)
    return stream.getvalue()


def colored(values: NDArray[np.floating], name: str = "magma") -> NDArray[np.uint8]:
    """RGBA (H, W, 4) of values (H, W) from 0 to 1 in a colour map of matplotlib; transparent where a value is NaN."""
    colors = matplotlib.colormaps[name](np.nan_to_num(values), bytes=True)
    colors[np.isnan(values)] = 0
    return colors
