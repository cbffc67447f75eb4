"""Progress bars on a terminal. In a file or log plain lines, one every 30 s, and none for work that takes less.

The only file that imports tqdm (ruff's banned-api enforces that).
"""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

EVERY_S = 30.0
PLAIN = "{desc}: {n_fmt} of {total_fmt}, {elapsed}"
PLAIN_WITHOUT_TOTAL = "{desc}: {n_fmt}, {elapsed}"


class Progress(tqdm):
    """tqdm, with plain lines in place of a bar where standard error is not a terminal."""

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
    """Whether libraries may draw their own progress bars."""
    return _in_terminal()


def _in_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


class _Lines:
    """A stream that turns what tqdm redraws in place into lines on standard error."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass
