"""The paper's claims beside our differences: as a table, for other programs, and as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vgg_dist.reporting.intervals import Interval, interval_chart
from vgg_dist.reporting.studies.claims import CheckedClaim

HEADINGS = [
    "claim", "nets", "the\npaper", "ours", "sd over\nseeds", "se of\ntrainings", "se over\nimages", "95 %\ninterval",
    "seeds", "verdict",
]  # fmt: skip
LEFT = {0, 1, 9}
"""The columns of words."""

NOT_RUN = "not trained"


def cells(checked: Sequence[CheckedClaim]) -> list[list[str]]:
    """A row for each claim; differences and errors in points."""
    rows = []
    for each in checked:
        claim, found = each.claim, each.difference
        ours = ["-"] * 5 + ["0"]
        if found is not None:
            ours = [
                signed(found.mean), _plain(found.sd), _plain(found.training_error), _plain(found.image_error),
                f"{signed(found.low)} to {signed(found.high)}", str(len(found.by_seed)),
            ]  # fmt: skip
        theirs = "-" if claim.paper is None else f"{claim.paper:+.1f}"
        rows.append([claim.text, pair(each), theirs, *ours, each.verdict or NOT_RUN])
    return rows


def pair(checked: CheckedClaim) -> str:
    """The two nets: the difference is the first's error minus the second's."""
    return f"{checked.claim.first} vs {checked.claim.second}"


def signed(value: float) -> str:
    """Such as +0.12."""
    return f"{value:+.2f}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def data_rows(checked: Sequence[CheckedClaim]) -> tuple[list[str], list[list[str]]]:
    """The table for other programs: headings and rows; a cell without a value is empty."""
    names = [
        "claim", "first", "second", "paper difference", "difference", "sd over seeds", "standard error of trainings",
        "standard error over images", "low", "high", "seeds", "verdict",
    ]  # fmt: skip
    rows = []
    for each in checked:
        claim, found = each.claim, each.difference
        numbers: list[float | None] = [None] * 6
        if found is not None:
            numbers = [found.mean, found.sd, found.training_error, found.image_error, found.low, found.high]
        rows.append([
            claim.text, claim.first, claim.second, "" if claim.paper is None else f"{claim.paper:g}",
            *("" if number is None else f"{number:.6g}" for number in numbers),
            str(len(found.by_seed) if found else 0), each.verdict or NOT_RUN,
        ])  # fmt: skip
    return names, rows


def chart(checked: Sequence[CheckedClaim]) -> dict[str, Any] | None:
    """The differences with their intervals, and the paper's beside them; None if no pair was trained."""
    intervals = [
        Interval(
            name=pair(each),
            remark=str(each.verdict),
            mean=each.difference.mean,
            low=each.difference.low,
            high=each.difference.high,
            parts=list(each.difference.by_seed.values()) if each.difference.sd is not None else [],
            is_full=each.difference.training_error is not None,
            mark=each.claim.paper,
        )
        for each in checked
        if each.difference is not None
    ]
    return interval_chart("Differences of top-1 errors", "points; left of 0 the first net is better", intervals)
