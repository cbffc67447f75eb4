"""The report as text for a terminal, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vgg_dist.paper import Errors
from vgg_dist.reporting.paired import RULE as PAIRED_RULE
from vgg_dist.reporting.paper_tables import claims_table
from vgg_dist.reporting.paper_tables.claims import RULE, CheckedClaim
from vgg_dist.reporting.paper_tables.errors import TOP, tops
from vgg_dist.reporting.paper_tables.mistakes import Mistakes
from vgg_dist.reporting.paper_tables.table import Row, Table
from vgg_dist.reporting.text import escaped, piped, printed

FileName = Callable[[int], str]
"""From an image (its row) to its name."""

LEGEND = "Errors in percent; the difference, in points, is ours less the paper's."
OWN_LEGEND = "Errors in percent. None of the evaluated nets is one of the paper's, so there is nothing to compare with."
NOT_RUN, NOT_THERE = "not run", "-"
GROUPS = ("paper", "ours", "difference")
HARDEST_HEADINGS = ("class", "images", "wrong first guess", "top-1 error", "all five wrong", "top-5 error")
WORST_HEADINGS = ("image", "class", "taken for", "confidence")
WORST_LISTED = 10
PAIR_HEADINGS = ("class", "taken for", "images", "of")


def is_compared(tables: Sequence[Table]) -> bool:
    """Whether one of ours repeats a row of the paper's; if none does, its rows and columns are left out or folded."""
    return any(row.difference for table in tables for row in table.rows)


def title(compared: bool) -> str:
    """The report's heading."""
    return "Evaluation: the paper's tables beside ours" if compared else "Evaluation"


def top_names(num_classes: int) -> tuple[str, ...]:
    """Which errors are reported: top-1 and top-5; for five classes or fewer top-1 alone."""
    return tuple(f"top-{(1, TOP)[k]}" for k in tops(num_classes))


def error_cells(row: Row, num_classes: int) -> tuple[str, ...]:
    """A row's errors under `top_names`, once for each of GROUPS."""
    ours = (f"{row.ours.top1:.2f}", f"{row.ours.top5:.2f}") if row.ours else (NOT_RUN, NOT_RUN)
    pairs = _pair(row.paper, ".1f"), ours, _pair(row.difference, "+.2f")
    return tuple(pair[k] for pair in pairs for k in tops(num_classes))


def columns_of_errors(cells: Sequence[str], groups: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Those of `error_cells` that belong to `groups`, some of GROUPS."""
    width = len(top_names(num_classes))
    return tuple(cell for place, cell in enumerate(cells) if GROUPS[place // width] in groups)


def _pair(errors: Errors | None, form: str) -> tuple[str, str]:
    if errors is None:
        return NOT_THERE, NOT_THERE
    return tuple(re.sub(r"^[+-](0\.0+)$", r"\1", format(value, form)) for value in errors)  # type: ignore[return-value]


def hardest_headings(num_classes: int) -> tuple[str, ...]:
    """Headings of the table of the hardest classes."""
    return HARDEST_HEADINGS[: 2 + 2 * len(tops(num_classes))]


def hardest_cells(mistakes: Mistakes, class_names: Sequence[str]) -> list[tuple[str, ...]]:
    """Rows of the table of the hardest classes, under `hardest_headings`."""
    shown = len(hardest_headings(len(class_names)))
    return [
        (
            class_names[c.index],
            *(f"{c.images:,}", f"{c.top1_wrong:,}", f"{c.errors.top1:.1f}", f"{c.top5_wrong:,}", f"{c.errors.top5:.1f}"),
        )[:shown]
        for c in mistakes.hardest
    ]


def pair_cells(mistakes: Mistakes, class_names: Sequence[str]) -> list[tuple[str, ...]]:
    """Rows of the table of the most confused pairs, under PAIR_HEADINGS."""
    return [(class_names[p.label], class_names[p.predicted], f"{p.count:,}", f"{p.images:,}") for p in mistakes.pairs]


def worst_cells(mistakes: Mistakes, class_names: Sequence[str], file_name: FileName) -> list[tuple[str, ...]]:
    """The images with the highest confidence in a wrong class, under WORST_HEADINGS."""
    return [
        (file_name(one.image), class_names[one.label], class_names[one.predicted], f"{100 * one.confidence:.1f} %")
        for one in mistakes.worst[:WORST_LISTED]
    ]


def mistakes_line(mistakes: Mistakes, num_classes: int) -> str:
    """Whose mistakes they are: those of the row with the lowest top-5 error (top-1 error for five classes or fewer)."""
    names = top_names(num_classes)
    errors = ", ".join(f"{name} error {error:.2f} %" for name, error in zip(names, mistakes.errors, strict=False))
    return f"Of {mistakes.what}, which has the lowest {names[-1]} error: {errors}."


def to_text(
    tables: Sequence[Table],
    claims: Sequence[CheckedClaim],
    counted: str,
    mistakes: Mistakes | None,
    class_names: Sequence[str],
    file_name: FileName,
) -> str:
    """What the command prints. The paper's rows and columns are left out where there is none to compare with."""
    num_classes, compared = len(class_names), is_compared(tables)
    groups = GROUPS if compared else ("ours",)
    parts = [f"{counted} {LEGEND if compared else OWN_LEGEND}"]
    for table in tables:
        shown = [row for row in table.rows if compared or row.ours]
        if not shown:
            continue
        rows = [
            (*row.cells, *columns_of_errors(error_cells(row, num_classes), groups, num_classes), ", ".join(row.nets))
            for row in shown
        ]
        headings = [*table.headings, *(f"{group}\n{top}" for group in groups for top in top_names(num_classes)), "run"]
        left = {*range(len(table.headings)), len(headings) - 1}
        parts.append(f"{table.name}: {table.title}\n{printed(headings, rows, left)}")
    if claims:
        parts.append(f"The paper's claims\n{printed(claims_table.HEADINGS, claims_table.cells(claims), claims_table.LEFT)}")
    for found in _mistakes_tables(mistakes, class_names, file_name):
        columns = [column.replace(" ", "\n", 1) for column in found.columns]
        parts.append("\n".join(filter(None, [found.heading, found.text, printed(columns, found.rows, found.left)])))
    return "\n\n".join(parts) + "\n"


def to_markdown(
    tables: Sequence[Table],
    claims: Sequence[CheckedClaim],
    counted: str,
    mistakes: Mistakes | None,
    class_names: Sequence[str],
    file_name: FileName,
) -> str:
    """Pipe tables under headings. All of the paper's rows are there; what comes from names is escaped."""
    num_classes, compared = len(class_names), is_compared(tables)
    parts = [f"# {title(compared)}", f"{counted} {LEGEND if compared else OWN_LEGEND}"]
    for table in tables:
        rows = [(*row.cells, *error_cells(row, num_classes), ", ".join(row.nets)) for row in table.rows]
        headings = [*table.headings, *(f"{group} {top}" for group in GROUPS for top in top_names(num_classes)), "run"]
        left = {*range(len(table.headings)), len(headings) - 1}
        parts += [f"## {table.name}: {table.title}", escaped(table.measured), piped(headings, rows, left)]
        parts += [escaped(table.note)] if table.note else []
    if claims:
        parts += ["## The paper's claims", piped(claims_table.HEADINGS, claims_table.cells(claims), claims_table.LEFT)]
        parts.append("\n".join(f"- {sentence}" for sentence in (*PAIRED_RULE, *RULE)))
    for found in _mistakes_tables(mistakes, class_names, file_name):
        parts += filter(None, [f"## {found.heading}", escaped(found.text), piped(found.columns, found.rows, found.left)])
    return "\n\n".join(parts) + "\n"


class _MistakesTable(NamedTuple):
    """A heading, the text below it (or none), and a table whose columns in `left` are words."""

    heading: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: set[int]


def _mistakes_tables(mistakes: Mistakes | None, class_names: Sequence[str], file_name: FileName) -> list[_MistakesTable]:
    if mistakes is None or not mistakes.worst:
        return []
    line = mistakes_line(mistakes, len(class_names))
    hardest = hardest_cells(mistakes, class_names)
    return [
        _MistakesTable("Worst mistakes", line, WORST_HEADINGS, worst_cells(mistakes, class_names, file_name), {0, 1, 2}),
        _MistakesTable("Hardest classes", "", hardest_headings(len(class_names)), hardest, {0}),
        _MistakesTable("Most confused pairs", "", PAIR_HEADINGS, pair_cells(mistakes, class_names), {0, 1}),
    ]
