"""Tables as text: rich on a terminal, aligned in a pipe, and what names must not do to either."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from vgg_dist.reporting.text import aligned, escaped, latex, printed

HEADINGS, LEFT = ["run", "top-1\nerror", "ended"], {0, 2}
ROWS = [["[bold]first", "9.50", "finished"], ["second\x1b[31m", "12.00", "stopped early, as its error no longer fell"]]
SCRIPT = f"from vgg_dist.reporting.text import printed; print(printed({HEADINGS!r}, {ROWS!r}, {LEFT!r}))"


def test_in_a_pipe_columns_are_aligned() -> None:
    assert printed(HEADINGS, ROWS, LEFT) == aligned(HEADINGS, ROWS, LEFT)
    assert aligned(HEADINGS, ROWS, LEFT).splitlines() == [
        "             top-1",
        "run          error  ended",
        "-----------  -----  ------------------------------------------",
        "[bold]first   9.50  finished",
        "second?[31m  12.00  stopped early, as its error no longer fell",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("columns", [50, 20])
def test_on_a_terminal_words_are_folded_and_numbers_are_not(columns: int) -> None:
    parent, child = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=child, env=environment) as process:
        os.close(child)
        shown = b""
        while True:
            try:
                chunk = os.read(parent, 65536)
            except OSError:  # Linux ends a terminal so
                break
            if not chunk:
                break
            shown += chunk
    os.close(parent)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r", "")
    assert "─" in text
    assert "[bold]first" in text  # no markup
    assert "\x1b" not in text  # control characters of names are not passed on
    assert re.search(r"\b9\.50\b", text)
    assert re.search(r"\b12\.00\b", text)
    widest = max(map(len, text.splitlines()))
    assert widest <= 50  # folded; in 20 columns the least that the words may have and the numbers need
    assert "stopped early, as its error no longer fell" not in text


def test_latex_and_markdown_show_names_literally() -> None:
    assert latex(r"a_b & 50 % [x] \end{document}") == r"a\_b \& 50 \% {[}x{]} \textbackslash{}end\{document\}"
    assert escaped("a|b <i>*c*") == r"a\|b &lt;i&gt;\*c\*"
