"""Drawings of receptive fields: those of a net inside each other, and three 3x3 layers beside one 7x7."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from vgg_dist.models.layers import Layer
from vgg_dist.visualization.plots import figure_png, new_figure


def draw_nested(found: Sequence[Layer], image_size: int) -> bytes:
    """The receptive fields of all layers with maps as squares around the middle of an image: a PNG file."""
    figure = new_figure(5, 5)
    axes = figure.add_axes((0, 0, 1, 1))
    half = image_size / 2
    axes.add_patch(_square(half, facecolor="0.5", alpha=0.25))
    shown = [layer for layer in found if layer.kind == "convolution"]
    reach = max([half, *(layer.field / 2 for layer in shown)])
    for number, layer in enumerate(shown):
        color = f"C{number % 10}"
        axes.add_patch(_square(layer.field / 2, fill=False, edgecolor=color, linewidth=1.4))
    last = reach / 6
    for layer in shown:  # labels where there is room for them, on the upper right edges
        if layer.field / 2 - last >= reach / 10:
            last = layer.field / 2
            _label(axes, f"{layer.name} {layer.field}", (0, last), 10, xytext=(0, -2), textcoords="offset points")
    axes.set(xlim=(-1.03 * reach, 1.03 * reach), ylim=(-1.03 * reach, 1.03 * reach), aspect="equal")
    axes.axis("off")
    return figure_png(figure)


def _square(half: float, **look: Any) -> Rectangle:
    return Rectangle((-half, -half), 2 * half, 2 * half, **look)


def draw_stacks() -> bytes:
    """Three 3x3 layers beside one 7x7 layer, along one axis: a PNG file."""
    figure = new_figure(9, 3.6)
    axes = figure.add_axes((0, 0, 1, 1))
    _stack(axes, 0, (7, 5, 3, 1), "3 layers, 27 C² weights")
    _stack(axes, 10, (7, 1), "1 layer, 49 C² weights")
    axes.set(xlim=(-4.2, 15.2), ylim=(-0.9, 3.6))
    axes.axis("off")
    return figure_png(figure)


def _stack(axes: Any, middle: float, sizes: Sequence[int], words: str) -> None:
    """Layers of `sizes` positions above each other, each position joined with the ends of its window below."""
    heights = np.linspace(0, 3, len(sizes)).tolist()
    for height, size in zip(heights, sizes, strict=True):
        for place in range(size):
            left = middle + place - size / 2 + 0.05
            axes.add_patch(Rectangle((left, height), 0.9, 0.4, facecolor="C0", alpha=0.45, edgecolor="C0"))
    for (low, high), (size, above) in zip(pairwise(heights), pairwise(sizes), strict=True):
        kernel = size - above + 1
        for place in range(above):
            at = middle + place - above / 2 + 0.5
            for sign in (-1, 1):
                ends = [at + sign * kernel / 2, at + sign * 0.45]
                axes.plot(ends, [low + 0.4, high], color="C0", linewidth=0.8, alpha=0.7)
        between = (middle + 4.1, (low + high + 0.4) / 2)
        axes.annotate(f"{kernel}x{kernel}", between, fontsize=13, color="0.5", va="center")
    _label(axes, words, (middle, -0.25), 14)


def _label(axes: Any, words: str, at: tuple[float, float], size: int, **place: Any) -> None:
    """Below a point, in a grey that can be read on light and dark pages."""
    axes.annotate(words, at, ha="center", va="top", fontsize=size, color="0.5", **place)
