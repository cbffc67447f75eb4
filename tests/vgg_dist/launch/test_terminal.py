"""The terminal of a command that trains: one live line for each run on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios

import pytest

from vgg_dist.launch.terminal import Display
from vgg_dist.ray_cluster.job_lines import Line

SCRIPT = """
import sys
from vgg_dist.launch.terminal import Display
from vgg_dist.ray_cluster.job_lines import Line

display = Display()
display.show("e", Line("e step 1", is_live=True))
display.show("e", Line("e step 2", is_live=True))
display.show("e", Line("e validation [1]"))
print("printed " + "by the command " * 9, file=sys.stderr)
display.show("d", Line("d step 1", is_live=True))
display.show("e", Line("", is_live=True))
display.close()
print("finished")
"""


def screen(written: str) -> list[str]:
    """What a terminal shows: its lines, for the few control sequences that are used here. Others fail."""
    lines, row, column, rest = [""], 0, 0, written
    while rest:
        for sequence, move in ("\r", (0, 0)), ("\n", (1, 0)), ("\x1b[1A", (-1, 0)), ("\x1b[2K", None):
            if rest.startswith(sequence):
                if move is None:
                    lines[row] = ""
                else:
                    row, column = row + move[0], 0 if sequence == "\r" else column
                    lines += [""] * (row + 1 - len(lines))
                rest = rest.removeprefix(sequence)
                break
        else:
            assert rest[0] != "\x1b", repr(rest[:20])
            lines[row] = lines[row][:column].ljust(column) + rest[0] + lines[row][column + 1 :]
            column, rest = column + 1, rest[1:]
    return lines


def in_a_terminal(code: str) -> str:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    env = os.environ | {"TERM": "xterm-256color"}
    subprocess.run([sys.executable, "-c", code], stdout=theirs, stderr=theirs, check=True, env=env)
    os.close(theirs)
    written = os.read(ours, 100_000).decode()
    os.close(ours)
    return written


def test_a_terminal_has_one_live_line_for_each_run_below_what_stays() -> None:
    while_it_runs = in_a_terminal(SCRIPT.partition("display.close")[0] + "import os; os._exit(0)")
    printed = ("printed " + "by the command " * 9).strip()
    kept = ["e validation [1]", printed]
    assert [line.rstrip() for line in screen(while_it_runs) if line.strip()] == [*kept, "d step 1"]
    before_e_ended = in_a_terminal(SCRIPT.partition('display.show("e", Line("",')[0] + "import os; os._exit(0)")
    assert [line.rstrip() for line in screen(before_e_ended) if line.strip()] == [*kept, "e step 2", "d step 1"]
    at_the_end = in_a_terminal(SCRIPT)
    assert [line.rstrip() for line in screen(at_the_end) if line.strip()] == [*kept, "finished"]
    assert "\x1b[?25l" not in at_the_end  # the cursor stays visible


def test_elsewhere_each_line_is_printed_once_and_plainly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    display = Display()
    for line in Line("e step 1", is_live=True), Line("e validation [1]"), Line("", is_live=True):
        display.show("e", line)
    display.close()
    assert capsys.readouterr().out == "e step 1\ne validation [1]\n"
