"""Bars in terminals only; in files lines now and then; and the time left."""

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
from vgg_dist.launch.time_left import TimeLeft


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


def test_the_time_left_is_of_many_intervals() -> None:
    """Steps of a second, in intervals that now and then take five times as long: the last of them alone would say 5000 s."""
    left = TimeLeft(epochs=10, max_steps=None)
    assert left.after(0, 0.0, 0.0) is None
    now, told = 0.0, []
    for step in range(1, 101):
        now += 5.0 if step % 10 == 0 else 1.0
        told.append(left.after(step, step / 100, now))
        if step == 50:
            left.interrupted()
            now += 1000.0  # a validation
    assert told[0] == pytest.approx(999.0)
    late = [value for value in told[60:] if value is not None]
    assert len(late) == 40
    for step, value in enumerate(late, start=61):
        assert value == pytest.approx((1000 - step) * 1.4, rel=0.15)
    steps = TimeLeft(epochs=10, max_steps=20)
    steps.after(1, 0.01, 0.0)
    assert steps.after(2, 0.02, 3.0) == pytest.approx(18 * 3.0)
    assert steps.after(25, 0.25, 72.0) == 0.0
