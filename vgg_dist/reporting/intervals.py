"""Charts of differences with their intervals (dot and whiskers) as inline SVG: the geometry for templates/charts.html."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vgg_dist.reporting.charts import round_ticks

WIDTH, LEFT, RIGHT, TOP = 420, 14, 406, 6  # of the SVG's own coordinates
ROW = 40  # a line of text, and the interval below it


@dataclass(frozen=True)
class Interval:
    """A difference and its interval."""

    name: str
    remark: str
    """What it says, at the end of its line."""
    mean: float
    low: float
    high: float
    parts: Sequence[float]
    """The values that it is the mean of."""
    is_full: bool
    """Whether the interval has all sources of noise; else it is dashed."""
    mark: float | None = None
    """Another value, to compare with."""


def interval_chart(title: str, x_label: str, intervals: Sequence[Interval]) -> dict[str, Any] | None:
    """What templates/charts.html needs for one chart, with 0 in it; None without an interval."""
    if not intervals:
        return None
    values = [0.0, *(value for each in intervals for value in (each.low, each.high, *each.parts))]
    values += [each.mark for each in intervals if each.mark is not None]
    ticks, low, high = round_ticks(min(values), max(values))

    def across(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (value - low) / (high - low)

    bottom = TOP + ROW * len(intervals)
    return {
        "title": title,
        "x_label": x_label,
        "width": WIDTH,
        "height": bottom + 34,
        "left": LEFT,
        "right": RIGHT,
        "top": TOP,
        "bottom": bottom,
        "zero": across(0.0),
        "x_ticks": [(across(tick), text) for tick, text in ticks],
        "rows": [
            {
                "name": each.name,
                "remark": each.remark,
                "text": TOP + ROW * number + 14,
                "up": TOP + ROW * number + 27,
                "mean": across(each.mean),
                "ends": (across(each.low), across(each.high)),
                "parts": [across(value) for value in each.parts],
                "is_full": each.is_full,
                "mark": None if each.mark is None else across(each.mark),
            }
            for number, each in enumerate(intervals)
        ],
    }
