"""The report as text for a terminal, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vgg_dist.paper import Errors
from vgg_dist.tables.mistakes import Mistakes
from vgg_dist.tables.tables import Row, Table
from vgg_dist.text_tables import aligned, escaped, piped

TITLE = "Evaluation, the paper's tables beside ours"
LEGEND = "Errors in percent, difference in points: ours less the paper's."
NOT_RUN, NOT_THERE = "not run", "-"
GROUPS = ("paper", "ours", "difference")
HARDEST_HEADINGS = ("class", "images", "wrong first guess", "top-1 error", "all five wrong", "top-5 error")
PAIR_HEADINGS = ("class", "taken for", "images", "of")


def error_cells(row: Row) -> tuple[str, ...]:
    """Top-1 and top-5 of the paper, of ours, and the difference."""
    ours = (f"{row.ours.top1:.2f}", f"{row.ours.top5:.2f}") if row.ours else (NOT_RUN, NOT_RUN)
    return (*_pair(row.paper, ".1f"), *ours, *_pair(row.difference, "+.2f"))


def _pair(errors: Errors | None, form: str) -> tuple[str, str]:
    if errors is None:
        return NOT_THERE, NOT_THERE
    return tuple(re.sub(r"^[+-](0\.0+)$", r"\1", format(value, form)) for value in errors)  # type: ignore[return-value]


def hardest_cells(mistakes: Mistakes, class_names: Sequence[str]) -> list[tuple[str, ...]]:
    """The hardest classes, under HARDEST_HEADINGS."""
    return [
        (
            class_names[c.index],
            *(f"{c.images:,}", f"{c.top1_wrong:,}", f"{c.errors.top1:.1f}", f"{c.top5_wrong:,}", f"{c.errors.top5:.1f}"),
        )
        for c in mistakes.hardest
    ]


def pair_cells(mistakes: Mistakes, class_names: Sequence[str]) -> list[tuple[str, ...]]:
    """The most confused pairs, under PAIR_HEADINGS."""
    return [(class_names[p.label], class_names[p.predicted], f"{p.count:,}", f"{p.images:,}") for p in mistakes.pairs]


def mistakes_line(mistakes: Mistakes) -> str:
    """Which of ours the mistakes are of."""
    errors = mistakes.errors
    return f"Of the lowest top-5 error, {mistakes.what}: top-1 {errors.top1:.2f}, top-5 {errors.top5:.2f}."


def to_text(tables: Sequence[Table], counted: str, mistakes: Mistakes | None, class_names: Sequence[str]) -> str:
    """For a terminal: aligned columns, headings over two lines; the paper's rows only if there is one to compare with."""
    parts = [f"{counted} {LEGEND}"]
    beside = any(row.difference for table in tables for row in table.rows)
    if not beside:
        parts = [f"{counted} Errors in percent. None of the paper's nets is among ours, so its columns are left out here."]
    for table in tables:
        shown = [row for row in table.rows if beside or row.ours]
        if not shown:
            continue
        groups = GROUPS if beside else ("ours",)
        errors = [error_cells(row) if beside else error_cells(row)[2:4] for row in shown]
        rows = [(*row.cells, *cells, ", ".join(row.nets)) for row, cells in zip(shown, errors, strict=True)]
        headings = [*table.headings, *(f"{group}\n{top}" for group in groups for top in ("top-1", "top-5")), "run"]
        left = {*range(len(table.headings)), len(headings) - 1}
        parts.append(f"{table.name}: {table.title}\n{aligned(headings, rows, left)}")
    if mistakes:
        headings = [heading.replace(" ", "\n", 1) for heading in HARDEST_HEADINGS]
        parts += [
            f"Hardest classes\n{mistakes_line(mistakes)}\n{aligned(headings, hardest_cells(mistakes, class_names), {0})}",
            f"Most confused pairs\n{aligned(PAIR_HEADINGS, pair_cells(mistakes, class_names), {0, 1})}",
        ]
    return "\n\n".join(parts) + "\n"


def to_markdown(tables: Sequence[Table], counted: str, mistakes: Mistakes | None, class_names: Sequence[str]) -> str:
    """Pipe tables under headings; what comes from names is escaped."""
    parts = [f"# {TITLE}", f"{counted} {LEGEND}"]
    for table in tables:
        rows = [(*row.cells, *error_cells(row), ", ".join(row.nets)) for row in table.rows]
        headings = [*table.headings, *(f"{group} {top}" for group in GROUPS for top in ("top-1", "top-5")), "run"]
        left = {*range(len(table.headings)), len(headings) - 1}
        parts += [f"## {table.name}: {table.title}", escaped(table.measured), piped(headings, rows, left)]
        parts += [escaped(table.note)] if table.note else []
    if mistakes:
        parts += [
            "## Hardest classes",
            escaped(mistakes_line(mistakes)),
            piped(HARDEST_HEADINGS, hardest_cells(mistakes, class_names), {0}),
            "## Most confused pairs",
            piped(PAIR_HEADINGS, pair_cells(mistakes, class_names), {0, 1}),
        ]
    return "\n\n".join(parts) + "\n"
