"""The comparison as one HTML page (templates/comparison.html): what the template is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vgg_dist.reporting.comparison.curves import GREY, MOST_AXES, NAMED, curve_charts, look, named_rows, parallel_chart
from vgg_dist.reporting.comparison.table import OUTCOMES, Comparison
from vgg_dist.reporting.html import render
from vgg_dist.tracking import Histories


def to_html(comparisons: Sequence[Comparison], title: str, histories: Mapping[str, Histories] | None = None) -> str:
    """The page: for each data location its curves, the settings against the error, and the table.

    `histories`: by run id, the metrics of the trainings themselves, for those of `leaders`; the validations are in the runs.
    """
    return render(
        "comparison.html",
        title=title,
        criterion=comparisons[0].criterion,
        order=comparisons[0].order,
        parts=[_part(comparison, histories or {}) for comparison in comparisons],
    )


def leaders(comparisons: Sequence[Comparison]) -> list[str]:
    """The ids of the runs whose histories the page shows: however many runs there are, NAMED for each data location."""
    return [row.run.run_id for comparison in comparisons for row in named_rows(comparison)]


def _part(comparison: Comparison, histories: Mapping[str, Histories]) -> dict[str, Any]:
    count, numbers = len(comparison.rows), set(OUTCOMES[:-1])
    others = count - NAMED
    drawn = f"{GREY} of " * (others > GREY)
    return {
        "heading": f"{count} run{'s' * (count != 1)} on {comparison.data}",
        "charts": curve_charts(comparison, histories),
        "legend": [{"name": row.run.name, "look": look(place)} for place, row in enumerate(named_rows(comparison))],
        "others": f"{drawn}{others} other{'s' * (others != 1)}" if others > 0 else "",
        "parallel": parallel_chart(comparison),
        "more_settings": max(0, len(comparison.settings) - MOST_AXES),
        "headings": [{"text": name.replace("_", " "), "number": name in numbers} for name in comparison.headings],
        "rows": [
            {
                "name": cells[0],
                "lowest": place == 0 and row.best is not None,
                "cells": [
                    {"text": text, "number": heading in numbers}
                    for heading, text in zip(comparison.headings[1:], cells[1:], strict=True)
                ],
            }
            for place, (row, cells) in enumerate(zip(comparison.rows, comparison.cells(), strict=True))
        ],
        "common": sorted(comparison.common.items()),
    }
