"""Tables as text, for a terminal and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import zip_longest


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> str:
    """For a terminal: headings (over several lines where they have them), a rule, rows; columns in `left` to the left."""
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
    """Names come from folders and files; control characters would reach the terminal."""
    return "".join(character if character.isprintable() else "?" for character in cell)


def piped(headings: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> str:
    """The same as a Markdown table; the rows' cells are escaped."""

    def line(cells: Sequence[str], form: Callable[[str], str]) -> str:
        return f"| {' | '.join(map(form, cells))} |"

    rule = [":--" if column in left else "--:" for column in range(len(headings))]
    return "\n".join([line(headings, str), line(rule, str), *(line(row, escaped) for row in rows)])


def escaped(cell: str) -> str:
    """Text as Markdown shows it, whatever is in it."""
    text = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", printable(cell))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
