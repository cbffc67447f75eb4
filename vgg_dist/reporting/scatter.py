"""Scatter charts as inline SVG: the geometry that templates/charts.html draws, with a label at each point, none on another.

x is logarithmic. The colours are classes of charts.css, as for line charts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vgg_dist.reporting.charts import round_ticks

WIDTH, HEIGHT = 420, 300  # of the SVG's own coordinates; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 50, 408, 12, 262  # the plotted area
RADIUS = 3.6  # of a point
LETTER, LINE = 7.0, 13.0  # the width of a letter and the height of a line of a label
NEAR = 6.0  # a label further than this from its point has a line to it
STEP = 3.0  # between the places that are tried for a label
CROSSING = 1.5  # how much further away a label may be, for each point of a line that it would cover


@dataclass(frozen=True)
class Point:
    """A point of a scatter chart."""

    name: str
    """Its label."""
    look: str
    """Its CSS class."""
    x: float
    y: float
    spread: float | None = None
    """Half the length of its vertical error bar."""
    twin: str | None = None
    """The name of another point, to which a thin line is drawn."""


def scatter_chart(title: str, x_label: str, y_label: str, points: Sequence[Point]) -> dict[str, Any] | None:
    """What templates/charts.html needs for one chart; None if no point has a finite y and a finite x above 0.

    A label for which there is no room is left out; a reader still sees it when she points at its point.
    """
    points = [point for point in points if math.isfinite(point.y) and math.isfinite(point.x) and point.x > 0]
    if not points:
        return None
    x_ticks, x_low, x_high = log_axis(min(point.x for point in points), max(point.x for point in points))
    spreads = [point.spread or 0.0 for point in points]
    y_ticks, y_low, y_high = round_ticks(
        min(point.y - spread for point, spread in zip(points, spreads, strict=True)),
        max(point.y + spread for point, spread in zip(points, spreads, strict=True)),
    )

    def across(x: float) -> float:
        return LEFT + (RIGHT - LEFT) * (math.log10(x) - x_low) / (x_high - x_low)

    def up(y: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (y - y_low) / (y_high - y_low)

    at = {point.name: (across(point.x), up(point.y)) for point in points}
    twins = [(*at[point.name], *at[point.twin]) for point in points if point.twin in at]
    bars = [
        (at[point.name][0], up(point.y - spread), at[point.name][0], up(point.y + spread))
        for point, spread in zip(points, spreads, strict=True)
        if spread
    ]
    sizes = np.array([(LETTER * len(point.name) + 2, LINE) for point in points])
    labels = place_labels(np.array(list(at.values())), sizes, (LEFT + 2, TOP, RIGHT, BOTTOM - 2), [*twins, *bars])
    return {
        "title": title,
        "x_label": x_label,
        "y_label": y_label,
        "x_ticks": [(across(10**tick), text) for tick, text in x_ticks],
        "y_ticks": [(up(tick), text) for tick, text in y_ticks],
        "twins": twins,
        "bars": bars,
        "points": [
            {"name": point.name, "look": point.look, "at": at[point.name], **_label(at[point.name], corner, size)}
            for point, corner, size in zip(points, labels, sizes.tolist(), strict=True)
        ],
    }


def _label(at: tuple[float, float], corner: tuple[float, float] | None, size: list[float]) -> dict[str, Any]:
    """Where a label's text begins (its baseline), and the line from its point to it; None where there is none."""
    if corner is None:
        return {"label": None, "leader": None}
    left, top = corner
    nearest = min(max(at[0], left), left + size[0]), min(max(at[1], top), top + size[1])
    far = math.dist(at, nearest) > NEAR
    return {"label": (left + 1, top + 0.78 * size[1]), "leader": (*at, *nearest) if far else None}


Segment = tuple[float, float, float, float]
"""x and y of one end, x and y of the other."""


def place_labels(
    points: NDArray[np.float64], sizes: NDArray[np.float64], area: Segment, lines: Sequence[Segment] = ()
) -> list[tuple[float, float] | None]:
    """The upper left corners of labels of `sizes` (n, 2) near their points (n, 2), none on another, on a point or outside.

    Each takes the free place nearest to its point, of a grid over the `area` (left, top, right, bottom), those with most
    neighbours first. A place on one of the `lines` counts as further away. None for a label without a free place.
    """
    corners: list[tuple[float, float] | None] = [None] * len(points)
    left, top, right, bottom = area
    on_lines = np.concatenate([_along(line) for line in lines]) if lines else np.empty((0, 2))
    taken: list[NDArray[np.float64]] = [np.concatenate([point - RADIUS - 1, point + RADIUS + 1]) for point in points]
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    for number in np.argsort(-(distances < 40).sum(axis=1), kind="stable").tolist():
        width, height = sizes[number]
        xs, ys = np.meshgrid(np.arange(left, right - width, STEP), np.arange(top, bottom - height, STEP))
        low = np.column_stack([xs.ravel(), ys.ravel()])
        high = low + sizes[number]
        boxes = np.array(taken)
        overlaps = (low[:, None] < boxes[None, :, 2:]).all(axis=2) & (high[:, None] > boxes[None, :, :2]).all(axis=2)
        free = ~overlaps.any(axis=1)
        if not free.any():
            continue
        low, high = low[free], high[free]
        point = points[number]
        gaps = np.linalg.norm(np.maximum(np.maximum(low - point, point - high), 0), axis=1)
        off_centre = 0.1 * np.abs((low + high) / 2 - point)[:, 1]  # beside its point rather than above or below it
        crossed = ((low[:, None] < on_lines) & (high[:, None] > on_lines)).all(axis=2).sum(axis=1)
        best = int(np.argmin(gaps + off_centre + CROSSING * crossed))
        corners[number] = (float(low[best, 0]), float(low[best, 1]))
        taken.append(np.concatenate([low[best], high[best]]))
    return corners


def _along(line: Segment) -> NDArray[np.float64]:
    """(m, 2) points every two pixels of a line."""
    count = max(2, int(math.dist(line[:2], line[2:]) / 2))
    return np.linspace(line[:2], line[2:], count)


def log_axis(low: float, high: float) -> tuple[list[tuple[float, str]], float, float]:
    """Ticks of a logarithmic axis with their texts, and its range; positions are logarithms to base ten.

    Powers of ten where the range is long, 1, 2 and 5 of each where it is shorter, and about five round numbers where it
    has not even two of those.
    """
    first, last = math.log10(low), math.log10(high)
    pad = max(0.06 * (last - first), 0.06)
    first, last = first - pad, last + pad
    factors = (1, 2, 5) if last - first < 2 else (1,)
    every = max(1, math.ceil((last - first) / 6))
    values = [
        factor * 10.0**power
        for power in range(math.floor(first), math.ceil(last) + 1)
        for factor in factors
        if power % every == 0 and first <= math.log10(factor) + power <= last
    ]
    if len(values) < 2:
        values = [value for value, _ in round_ticks(10**first, 10**last, outward=False)[0]]
    return [(math.log10(value), f"{value:g}" if value < 1e6 else f"{value:,.0f}") for value in values], first, last
