"""Line charts as inline SVG, which follows the page's colours and width: the geometry that templates/charts.html draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 420, 240  # of the SVG's own coordinates; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 50, 408, 10, 204  # the plotted area
FEW_POINTS = 30  # up to so many are marked each


@dataclass(frozen=True)
class Line:
    """One curve: its points in the order of x, a CSS class for its look, and what a reader sees when she points at it."""

    name: str
    look: str
    points: Sequence[tuple[float, float]]


def line_chart(
    title: str, x_label: str, lines: Sequence[Line], log: bool = False, steps: bool = False
) -> dict[str, Any] | None:
    """What templates/charts.html needs for one chart; None if no line has a finite point.

    `lines`: the last is drawn over the others; the range of y is that of the lines in front, those whose look is not "rest"
    (of all, if there are no others). `log`: a logarithmic y axis, without the values of 0 or less. `steps`: each value holds
    up to the next one.
    """
    curves = [(line, _finite(line.points, log)) for line in lines]
    curves = [(line, points) for line, points in curves if len(points)]
    if not curves:
        return None
    front = [points for line, points in curves if line.look != "rest"] or [points for _, points in curves]
    y = np.concatenate([points[:, 1] for points in front])
    y_ticks, y_low, y_high = _log_ticks(y.min(), y.max()) if log else round_ticks(y.min(), y.max())
    x = np.concatenate([points[:, 0] for _, points in curves])
    x_ticks, x_low, x_high = round_ticks(min(0.0, x.min()), x.max(), outward=False)

    def place(points: NDArray[np.float64]) -> NDArray[np.float64]:
        across = LEFT + (RIGHT - LEFT) * (points[:, 0] - x_low) / (x_high - x_low)
        up = BOTTOM - (BOTTOM - TOP) * (points[:, 1] - y_low) / (y_high - y_low)
        return np.column_stack([across, np.clip(up, TOP - HEIGHT, BOTTOM + HEIGHT)])

    drawn = []
    for line, points in curves:
        placed = place(_stepped(points) if steps else points)
        dots = place(points).tolist() if len(points) <= FEW_POINTS and line.look != "rest" and not steps else []
        drawn.append({"name": line.name, "look": line.look, "path": _path(placed), "dots": dots})
    across = place(np.array([[tick, y_low] for tick, _ in x_ticks]))[:, 0].tolist()
    up = place(np.array([[x_low, tick] for tick, _ in y_ticks]))[:, 1].tolist()
    return {
        "title": title,
        "x_label": x_label,
        "lines": drawn,
        "x_ticks": [(at, text) for at, (_, text) in zip(across, x_ticks, strict=True)],
        "y_ticks": [(at, text) for at, (_, text) in zip(up, y_ticks, strict=True)],
    }


def _finite(points: Sequence[tuple[float, float]], log: bool) -> NDArray[np.float64]:
    found = np.array(points, dtype=np.float64).reshape(-1, 2)
    if log:
        found = found[found[:, 1] > 0]
        found[:, 1] = np.log10(found[:, 1])
    return found[np.isfinite(found).all(axis=1)]


def _stepped(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """With the corner before each change."""
    corners = np.column_stack([points[1:, 0], points[:-1, 1]])
    both = np.empty((len(points) + len(corners), 2))
    both[::2], both[1::2] = points, corners
    return both


def _path(placed: NDArray[np.float64]) -> str:
    return " ".join(f"{across:.1f},{up:.1f}" for across, up in placed.tolist())


Ticks = tuple[list[tuple[float, str]], float, float]
"""Ticks with their texts, and the range of the axis."""


def round_ticks(low: float, high: float, outward: bool = True) -> Ticks:
    """About five round numbers. The range ends at ticks if `outward`, else at `low` and `high`."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - 0.5 * (abs(low) or 1.0) * outward, high + 0.5 * (abs(high) or 1.0)
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9) if outward else math.ceil(low / step - 1e-9)
    last = math.ceil(high / step - 1e-9) if outward else math.floor(high / step + 1e-9)
    ticks = [(k * step, f"{k * step:.6g}") for k in range(first, last + 1)]
    return (ticks, ticks[0][0], ticks[-1][0]) if outward else (ticks, low, high)


def _log_ticks(low: float, high: float) -> Ticks:
    """`low` and `high` are logarithms to base ten; so are the positions of the ticks, which are powers of ten."""
    first, last = math.floor(low + 1e-9), math.ceil(high - 1e-9)
    if first == last:
        first, last = first - 1, last + 1
    step = max(1, (last - first) // 5)
    return [(float(k), f"{10.0**k:g}") for k in range(first, last + 1, step)], float(first), float(last)
