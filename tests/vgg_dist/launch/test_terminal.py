"""The terminal of a command that trains: one live line for each run on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
from support.job_store import Store
from support.terminal import run_in_terminal, screen

from vgg_dist.launch.terminal import Display, shown_lines
from vgg_dist.ray_cluster.job_lines import Line, put_lines

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


def shown(code: str) -> list[str]:
    status, written = run_in_terminal([sys.executable, "-c", code], {})
    assert status == 0, written
    return screen(written)


def test_a_terminal_has_one_live_line_for_each_run_below_what_stays() -> None:
    killed = "import os; os._exit(0)"  # what was there at that moment
    kept = ["e validation [1]", ("printed " + "by the command " * 9).strip()]
    assert shown(SCRIPT.partition('display.show("e", Line("",')[0] + killed) == [*kept, "e step 2", "d step 1"]
    assert shown(SCRIPT.partition("display.close")[0] + killed) == [*kept, "d step 1"]
    assert shown(SCRIPT) == [*kept, "finished"]


def test_elsewhere_each_line_is_printed_once_and_plainly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    display = Display()
    for line in Line("e step 1", is_live=True), Line("e validation [1]"), Line("", is_live=True):
        display.show("e", line)
    display.close()
    assert capsys.readouterr().out == "e step 1\ne validation [1]\n"


def test_a_closed_terminal_does_not_end_a_training() -> None:
    script = f"""
import os, pty, sys
ours, theirs = pty.openpty()
os.dup2(theirs, 1)
{SCRIPT.partition("display.show")[0]}
display.show("e", Line("e step 1", is_live=True))
os.close(ours)
display.show("e", Line("e step 2", is_live=True))
display.show("e", Line("e validation"))
display.close()
os._exit(7)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 7


def test_the_last_lines_are_shown_before_the_command_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = Store(failures=1)  # Ray's head is away for the first of them

    @shown_lines(store, poll_s=0.01)
    def train() -> None:
        with contextlib.suppress(ConnectionError):
            put_lines(store, "first", [Line("first")])
        put_lines(store, "first", [Line("second", is_live=True), Line("third")])
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        train()
    assert capsys.readouterr().out == "first\nsecond\nthird\n"
