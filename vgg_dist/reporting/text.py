"""Tables as text: drawn by rich on a terminal, aligned columns in pipes and logs, pipe tables in Markdown, CSV."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest


def printed(headings: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> str:
    """A table for standard output: drawn by rich where that is a terminal, else as `aligned` gives it.

    A heading may have several lines. `left`: the columns that are aligned to the left; the others hold numbers.
    """
    if not sys.stdout.isatty():
        return aligned(headings, rows, left)
    return _drawn(headings, rows, left)


def _drawn(headings: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> str:
    """As wide as the terminal at most: words are folded, numbers never, so a table of many numbers may be wider."""
    from rich import box  # in here: half of the commands print no table
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    lines = max(heading.count("\n") for heading in headings)
    for column, heading in enumerate(headings):
        words = column in left
        level = "\n" * (lines - heading.count("\n")) + heading  # bottom lines level
        longest = max((len(row[column]) for row in rows), default=0)
        table.add_column(
            Text(level),
            justify="left" if words else "right",
            no_wrap=not words,
            overflow="fold",
            min_width=min(longest, 12),
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # Text: brackets in a name are no markup
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True)
    least = Measurement.get(console, console.options.update(max_width=10_000), table).minimum
    console.print(table, width=max(console.width, least), crop=False)
    return "\n".join(line.rstrip() for line in stream.getvalue().split("\n")).strip("\n")


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> str:
    """Plain text: the headings (bottom lines level where some have several lines), a rule, the rows.

    Columns in `left` are aligned to the left, the others to the right.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    split = [heading.split("\n") for heading in headings]
    lines = [list(line) for line in zip_longest(*(reversed(parts) for parts in split), fillvalue="")][::-1]
    widths = [max(len(row[column]) for row in (*lines, *rows)) for column in range(len(headings))]

    def line(cells: Sequence[str]) -> str:
        placed = (
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(placed).rstrip()

    return "\n".join([*map(line, lines), "  ".join("-" * width for width in widths), *map(line, rows)])


def printable(cell: str) -> str:
    """With a question mark for each control character: names come from folders and files, and must not drive a terminal."""
    return "".join(character if character.isprintable() else "?" for character in cell)


def piped(headings: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> str:
    """A Markdown table. The cells of `rows` are escaped; `headings` are taken as they are."""

    def line(cells: Sequence[str], form: Callable[[str], str]) -> str:
        return f"| {' | '.join(map(form, cells))} |"

    rule = [":--" if column in left else "--:" for column in range(len(headings))]
    return "\n".join([line(headings, str), line(rule, str), *(line(row, escaped) for row in rows)])


def csv_text(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The content of a CSV file."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(rows)
    return stream.getvalue()


def escaped(cell: str) -> str:
    """Markdown that shows the text literally."""
    text = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", printable(cell))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "[": "{[}",  # at the start of a row LaTeX takes [ for an option of \\
    "]": "{]}",
}


def latex(cell: str) -> str:
    """LaTeX that shows the text literally."""
    return "".join(_LATEX.get(character, character) for character in printable(cell))
