"""What Ray Train's controller passes on to the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vgg_dist.config import TrainConfig
from vgg_dist.launch import controller
from vgg_dist.launch.controller import ReportCallback
from vgg_dist.launch.prometheus import Gauges
from vgg_dist.ray_cluster.job_lines import LineSender
from vgg_dist.tracking import TrackedRun

VALIDATION = {"step": 7, "time": 0.0, "metrics": {"val/loss": 1.25, "val/top1_error": 30.0}}
REPORT: dict[str, Any] = {"records": [VALIDATION], "system": {}, "done": False, "notes": ["--micro-batch 32, by default"]}


class Sent(LineSender):
    """Keeps the texts instead of sending them."""

    def __init__(self) -> None:
        super().__init__("first")
        self.texts: list[str] = []

    def send(self, lines: Any) -> None:
        self.texts += [line.text for line in lines]


@pytest.mark.parametrize("is_trial", [False, True])
def test_reports_and_failures_become_lines_a_trial_shows_failures_only(
    is_trial: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(controller, "JobMessages", _NoMessages)
    sent = Sent()
    run = TrackedRun("sqlite:///none", "0", "0", 0.0, str(tmp_path))
    callback = ReportCallback(run, TrainConfig(name="first"), sent, Gauges("first"), "first  ", is_trial)
    monkeypatch.setattr(callback.tracker, "log", lambda records: None)  # there is no MLflow here
    monkeypatch.setattr(callback.tracker, "flush", lambda wait_s: None)
    callback.after_report(None, [REPORT], None)
    callback.after_exception(None, {1: ValueError("no room")})
    progress = ["first  --micro-batch 32, by default", "first  step      7  validation: loss 1.250  top-1 error 30.00 %"]
    assert sent.texts == progress * (not is_trial) + ["first  worker 1 failed: no room"]


class _NoMessages:
    def remove(self, key: str) -> None:
        pass
