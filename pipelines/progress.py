"""Progress for people: a bar in a terminal; in a file or a log plain lines, now and then, and none for what is soon done.

The only place that knows tqdm (ruff's banned-api holds that).
"""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

EVERY_S = 30.0
PLAIN = "{desc}: {n_fmt} of {total_fmt}, {elapsed}"
PLAIN_WITHOUT_TOTAL = "{desc}: {n_fmt}, {elapsed}"


class Progress(tqdm):
    """tqdm with these looks."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        if not _in_terminal():
            known = settings.get("total") is not None or (args and hasattr(args[0], "__len__"))
            settings |= {
                "file": _Lines(),
                "bar_format": PLAIN if known else PLAIN_WITHOUT_TOTAL,
                "delay": EVERY_S,
                "mininterval": EVERY_S,
                "maxinterval": EVERY_S,
            }
        super().__init__(*args, **settings)


def show_bars() -> bool:
    """Whether libraries that have bars of their own may draw them."""
    return _in_terminal()


def _in_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


class _Lines:
    """Takes what tqdm draws over and over at one place, and writes it as lines."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass
