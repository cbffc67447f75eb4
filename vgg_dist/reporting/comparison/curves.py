"""The charts of the comparison page: curves of the runs over their epochs, and the settings against the error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vgg_dist.reporting.charts import Line, line_chart
from vgg_dist.reporting.comparison.axes import number_axis, setting_axis
from vgg_dist.reporting.comparison.table import FIRST, Comparison, Row
from vgg_dist.tracking import Histories

NAMED = 10  # runs that are told apart by colour; the others are grey
GREY = 200  # of the others so many at most are drawn, the best of them
MOST_AXES = 8  # settings beside the error

CHARTS: tuple[tuple[str, str, float, dict[str, bool]], ...] = (
    ("train/loss", "Training loss", 1, {}),
    ("val/loss", "Validation loss", 1, {}),
    ("val/top1_error", "Validation top-1 error (%)", 1, {}),
    ("val/top5_error", "Validation top-5 error (%)", 1, {}),
    ("lr", "Learning rate", 1, {"log": True, "steps": True}),
    ("images_per_second", "Images/s", 1, {}),
    ("data_wait_share", "Time spent waiting for data (%)", 100, {}),
)
"""Of each chart: the metric, the title, what the values are multiplied by, and how `line_chart` draws it."""


def named_rows(comparison: Comparison) -> tuple[Row, ...]:
    """The runs that have a colour and a place in the legend: the best."""
    return comparison.rows[:NAMED]


def look(place: int) -> str:
    """The CSS class of the run at this place in the order."""
    return f"c{place}" if place < NAMED else "rest"


def curve_charts(comparison: Comparison, histories: Mapping[str, Histories]) -> list[dict[str, Any]]:
    """The charts that have a curve; the validations of all runs, the rest of those in `histories` (by run id)."""
    charts = []
    rows = list(enumerate(comparison.rows[: NAMED + GREY]))[::-1]  # the best is drawn last, over the others
    for metric, title, factor, form in CHARTS:
        lines = []
        for place, row in rows:
            points = row.run.validations.get(metric) or histories.get(row.run.run_id, {}).get(metric, [])
            if points:
                lines.append(Line(row.run.name, look(place), [(epoch, factor * value) for epoch, value in points]))
        if chart := line_chart(title, "epoch", lines, **form):
            charts.append(chart)
    return charts


COLUMN, TOP, BOTTOM, HEIGHT, MARGIN = 130, 40, 270, 285, 70  # of the SVG's own coordinates


def parallel_chart(comparison: Comparison) -> dict[str, Any] | None:
    """Parallel coordinates of the settings that differ and the error; None without two runs to compare by a setting."""
    rows = [(place, row) for place, row in enumerate(comparison.rows[: NAMED + GREY]) if row.best is not None][::-1]
    names = sorted(
        (name for column, name in enumerate(comparison.settings) if len({row.settings[column] for _, row in rows}) > 1),
        key=lambda name: name not in FIRST,
    )[:MOST_AXES]
    if not names:
        return None
    columns = [setting_axis([row.settings[comparison.settings.index(name)] for _, row in rows]) for name in names]
    columns.append(number_axis([row.best.top1 for _, row in rows if row.best]))
    return {
        "width": COLUMN * (len(columns) - 1) + 2 * MARGIN,
        "height": HEIGHT,
        "top": TOP,
        "bottom": BOTTOM,
        "axes": [
            {"name": name, "at": _across(column), "ticks": [(_up(at), text) for at, text in axis.ticks]}
            for column, (name, axis) in enumerate(zip([*_words(names), "top-1 error (%)"], columns, strict=True))
        ],
        "lines": [
            {
                "name": row.run.name,
                "look": look(place),
                "path": " ".join(
                    f"{_across(column)},{_up(float(axis.positions[number])):.1f}" for column, axis in enumerate(columns)
                ),
            }
            for number, (place, row) in enumerate(rows)
        ],
    }


def _words(names: Sequence[str]) -> list[str]:
    return [name.replace("_", " ") for name in names]


def _across(column: int) -> int:
    return MARGIN + COLUMN * column


def _up(position: float) -> float:
    return BOTTOM - (BOTTOM - TOP - 10) * position
