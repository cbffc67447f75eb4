"""The report as text for a terminal, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vgg_dist.paper import Errors
from vgg_dist.reporting.paper_tables.errors import TOP, tops
from vgg_dist.reporting.paper_tables.layout import Row, Table
from vgg_dist.reporting.paper_tables.mistakes import Mistakes
from vgg_dist.reporting.text import aligned, escaped, piped

TITLE = "Evaluation, the paper's tables beside ours"
LEGEND = "Errors in percent, difference in points: ours less the paper's."
NOT_RUN, NOT_THERE = "not run", "-"
GROUPS = ("paper", "ours", "difference")
HARDEST_HEADINGS = ("class", "images", "wrong first guess", "top-1 error", "all five wrong", "top-5 error")
PAIR_HEADINGS = ("class", "taken for", "images", "of")


def top_names(num_classes: int) -> tuple[str, ...]:
    """The errors that are told of so many classes: top-1 and top-5, or top-1 alone."""
    return tuple(f"top-{(1, TOP)[k]}" for k in tops(num_classes))


def error_cells(row: Row, num_classes: int) -> tuple[str, ...]:
    """The errors of `top_names`: of the paper, of ours, and the difference."""
    ours = (f"{row.ours.top1:.2f}", f"{row.ours.top5:.2f}") if row.ours else (NOT_RUN, NOT_RUN)
    pairs = _pair(row.paper, ".1f"), ours, _pair(row.difference, "+.2f")
    return tuple(pair[k] for pair in pairs for k in tops(num_classes))


def _pair(errors: Errors | None, form: str) -> tuple[str, str]:
    if errors is None:
        return NOT_THERE, NOT_THERE
    return tuple(re.sub(r"^[+-](0\.0+)$", r"\1", format(value, form)) for value in errors)  # type: ignore[return-value]


def hardest_headings(num_classes: int) -> tuple[str, ...]:
    """Of the table of the hardest classes."""
    return HARDEST_HEADINGS[: 2 + 2 * len(tops(num_classes))]


def hardest_cells(mistakes: Mistakes, class_names: Sequence[str]) -> list[tuple[str, ...]]:
    """The hardest classes, under `hardest_headings`."""
    shown = len(hardest_headings(len(class_names)))
    return [
        (
            class_names[c.index],
            *(f"{c.images:,}", f"{c.top1_wrong:,}", f"{c.errors.top1:.1f}", f"{c.top5_wrong:,}", f"{c.errors.top5:.1f}"),
        )[:shown]
        for c in mistakes.hardest
    ]


def pair_cells(mistakes: Mistakes, class_names: Sequence[str]) -> list[tuple[str, ...]]:
    """The most confused pairs, under PAIR_HEADINGS."""
    return [(class_names[p.label], class_names[p.predicted], f"{p.count:,}", f"{p.images:,}") for p in mistakes.pairs]


def mistakes_line(mistakes: Mistakes, num_classes: int) -> str:
    """Which of ours the mistakes are of: that with the lowest of the last error that is told."""
    names = top_names(num_classes)
    errors = ", ".join(f"{name} {error:.2f}" for name, error in zip(names, mistakes.errors, strict=False))
    return f"Of the lowest {names[-1]} error, {mistakes.what}: {errors}."


def to_text(tables: Sequence[Table], counted: str, mistakes: Mistakes | None, class_names: Sequence[str]) -> str:
    """For a terminal: aligned columns, headings over two lines; the paper's rows only if there is one to compare with."""
    parts = [f"{counted} {LEGEND}"]
    names = top_names(len(class_names))
    beside = any(row.difference for table in tables for row in table.rows)
    if not beside:
        parts = [f"{counted} Errors in percent. None of the paper's nets is among ours, so its columns are left out here."]
    for table in tables:
        shown = [row for row in table.rows if beside or row.ours]
        if not shown:
            continue
        groups = GROUPS if beside else ("ours",)
        ours = slice(None) if beside else slice(len(names), 2 * len(names))
        errors = [error_cells(row, len(class_names))[ours] for row in shown]
        rows = [(*row.cells, *cells, ", ".join(row.nets)) for row, cells in zip(shown, errors, strict=True)]
        headings = [*table.headings, *(f"{group}\n{top}" for group in groups for top in names), "run"]
        left = {*range(len(table.headings)), len(headings) - 1}
        parts.append(f"{table.name}: {table.title}\n{aligned(headings, rows, left)}")
    if mistakes:
        headings = [heading.replace(" ", "\n", 1) for heading in hardest_headings(len(class_names))]
        line = mistakes_line(mistakes, len(class_names))
        parts += [
            f"Hardest classes\n{line}\n{aligned(headings, hardest_cells(mistakes, class_names), {0})}",
            f"Most confused pairs\n{aligned(PAIR_HEADINGS, pair_cells(mistakes, class_names), {0, 1})}",
        ]
    return "\n\n".join(parts) + "\n"


def to_markdown(tables: Sequence[Table], counted: str, mistakes: Mistakes | None, class_names: Sequence[str]) -> str:
    """Pipe tables under headings; what comes from names is escaped."""
    parts = [f"# {TITLE}", f"{counted} {LEGEND}"]
    names = top_names(len(class_names))
    for table in tables:
        rows = [(*row.cells, *error_cells(row, len(class_names)), ", ".join(row.nets)) for row in table.rows]
        headings = [*table.headings, *(f"{group} {top}" for group in GROUPS for top in names), "run"]
        left = {*range(len(table.headings)), len(headings) - 1}
        parts += [f"## {table.name}: {table.title}", escaped(table.measured), piped(headings, rows, left)]
        parts += [escaped(table.note)] if table.note else []
    if mistakes:
        parts += [
            "## Hardest classes",
            escaped(mistakes_line(mistakes, len(class_names))),
            piped(hardest_headings(len(class_names)), hardest_cells(mistakes, class_names), {0}),
            "## Most confused pairs",
            piped(PAIR_HEADINGS, pair_cells(mistakes, class_names), {0, 1}),
        ]
    return "\n\n".join(parts) + "\n"
