"""Bars in terminals only; in files lines now and then."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome
from support.trees import make_tree, picture

from pipelines import progress
from pipelines.progress import Progress


def test_into_a_file_lines_now_and_then_and_none_for_what_is_soon_done(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in Progress(range(1000), "soon done", unit="image"):
        pass
    with Progress(total=3) as bar:
        bar.update(3)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    with Progress(total=40, desc="slow", unit="image", leave=False) as bar:
        for _ in range(40):
            time.sleep(0.002)
            bar.update()
    for _ in Progress((time.sleep(0.002) for _ in range(40)), "without end"):
        pass
    written = capfd.readouterr().err
    assert "\r" not in written
    assert "\x1b" not in written
    lines = written.splitlines()
    slow = [int(line.split()[1]) for line in lines if line.startswith("slow: ") and " of 40, 00:0" in line]
    assert slow == sorted(set(slow))
    assert 1 <= len(slow) < 40
    assert lines[-1].startswith("without end: 40, 00:0")


def test_in_a_terminal_a_bar() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    code = "from pipelines.progress import Progress\nfor _ in Progress(range(3), 'drawn'): pass"
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True)
    os.close(theirs)
    drawn = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "\rdrawn: 100%|" in drawn


def test_commands_draw_no_bars_into_files(tmp_path: Path, call: Callable[..., Outcome]) -> None:
    tree = {f"tree/{split}/{c}/{k}.jpg": picture(k) for split in ("train", "val") for c in ("cat", "dog") for k in range(2)}
    data = make_tree(tmp_path, tree) / "tree"
    for flags in (["check", "--data", data], ["shard", "--data", data, "--out", tmp_path / "shards"]):
        done = call("pipelines.prepare", *flags)
        assert done.status == 0, done.stderr
        assert "\r" not in done.stdout + done.stderr
        assert "%|" not in done.stderr
