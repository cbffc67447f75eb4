"""The paper's claims and our differences: as a table, for other programs, and as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vgg_dist.paper import AnyView
from vgg_dist.reporting.intervals import Interval, interval_chart
from vgg_dist.reporting.paper_tables.claims import CheckedClaim, Comparison
from vgg_dist.reporting.paper_tables.layout import VIEW_NAMES

HEADINGS = ("claim", "verdict", "first", "second", "the paper", "ours", "95 % interval", "trainings", "this pair")
LEFT = {0, 1, 2, 3, 8}
"""The columns of words."""


def cells(checked: Sequence[CheckedClaim]) -> list[tuple[str, ...]]:
    """A row for each comparison, the claim and its verdict in the first of them; differences in points."""
    return [
        (
            each.planned.text if number == 0 else "",
            each.verdict if number == 0 else "",
            comparison.first,
            comparison.second,
            f"{comparison.published:+.1f}",
            f"{found.mean:+.2f}",
            f"{found.low:+.2f} to {found.high:+.2f}",
            str(len(found.by_seed)),
            verdict,
        )
        for each in checked
        for number, (comparison, found, verdict) in enumerate(
            zip(each.planned.comparisons, each.differences, each.verdicts, strict=True)
        )
    ]


def data_rows(checked: Sequence[CheckedClaim]) -> tuple[list[str], list[list[str]]]:
    """The table for other programs: headings and rows; a cell without a value is empty."""
    names = [
        "claim", "first", "second", "paper difference", "difference", "sd over trainings", "standard error of trainings",
        "standard error over images", "low", "high", "trainings", "verdict of the pair", "verdict",
    ]  # fmt: skip
    rows = []
    for each in checked:
        for comparison, found, verdict in zip(each.planned.comparisons, each.differences, each.verdicts, strict=True):
            numbers = found.mean, found.sd, found.training_error, found.image_error, found.low, found.high
            rows.append([
                each.planned.text, comparison.first, comparison.second, f"{comparison.published:g}",
                *("" if number is None else f"{number:.6g}" for number in numbers),
                str(len(found.by_seed)), verdict, each.verdict,
            ])  # fmt: skip
    return names, rows


def chart(checked: Sequence[CheckedClaim]) -> dict[str, Any] | None:
    """The differences with their intervals, and the paper's beside them; None without a comparison."""
    intervals = [
        Interval(
            name=_pair(comparison, each.planned.view),
            remark=verdict,
            mean=found.mean,
            low=found.low,
            high=found.high,
            parts=list(found.by_seed.values()) if found.sd is not None else [],
            is_full=found.training_error is not None,
            mark=comparison.published,
        )
        for each in checked
        for comparison, found, verdict in zip(each.planned.comparisons, each.differences, each.verdicts, strict=True)
    ]
    return interval_chart("Differences of top-1 errors", "points; left of 0 the first is better", intervals)


def _pair(comparison: Comparison, view: AnyView | None) -> str:
    """Both sides in a line; the second without its nets where they are the first's."""
    nets = comparison.first.partition(",")[0]
    pair = f"{comparison.first} vs {comparison.second.removeprefix(f'{nets}, ')}"
    return f"{pair}, {VIEW_NAMES[view]}" if view else pair
