"""The verdict that a training on a GPU prints once."""

from __future__ import annotations

from pathlib import Path

import pytest

from vgg_dist.config import TrainConfig
from vgg_dist.launch.controller import Monitor, describe_limit
from vgg_dist.launch.prometheus import Gauges
from vgg_dist.metric_names import Record
from vgg_dist.tracking import TrackedRun


@pytest.mark.parametrize(
    ("loader", "step", "expected"),
    [
        (8000.4, 3599.6, "loader 8000 images/s, step 3600 images/s: the step limits"),
        (2100.0, 3600.0, "loader 2100 images/s, step 3600 images/s: the loader limits: more CPUs a worker, shards, or"),
    ],
)
def test_the_slower_of_loader_and_step_limits(loader: float, step: float, expected: str) -> None:
    line = describe_limit({"loader_images_per_second": loader, "step_images_per_second": step})
    assert line.startswith(expected)
    assert "\n" not in line


def test_a_validations_line_has_the_errors_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monitor = Monitor(TrackedRun("sqlite:///none", "0", "0", 0.0, str(tmp_path)), TrainConfig(), "", Gauges("first"))
    monkeypatch.setattr(monitor.tracker, "log", lambda records: None)  # there is no MLflow here
    values = {"val/loss": 1.25, "val/top1_error": 30.0}
    for metrics in (values, values | {"val/top5_error": 2.5}):
        records: list[Record] = [{"step": 7, "time": 0.0, "metrics": metrics}]
        monitor.after_report(None, [{"records": records, "system": {}, "done": False}], None)
    line = "step      7  validation: loss 1.250  top-1 error 30.00 %"
    assert capsys.readouterr().out.splitlines() == [line, f"{line}  top-5 error 2.50 %"]
