"""The benchmark of start-ups: the marks of several processes become seconds from the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tyro
from conftest import driver

from vgg_dist import startup_marks as phases
from vgg_dist.benchmark.__main__ import run
from vgg_dist.benchmark.options import StartupBenchmark
from vgg_dist.benchmark.startup import report, time_phases
from vgg_dist.config import ScaleRange, TrainConfig


def test_train_flags_are_a_command_line_of_the_same_training() -> None:
    config = TrainConfig(
        arch="D",
        batch_norm=True,
        flip=False,
        train_scale=ScaleRange(256, 512),
        lr=3e-3,
        max_steps=4,
        name="x y",
        dropout=0.0,
    )
    flags = StartupBenchmark(train=config).train_flags()
    assert tyro.cli(TrainConfig, args=flags) == config
    assert StartupBenchmark(train=TrainConfig()).train_flags() == []


def test_marks_cost_nothing_unless_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(phases.VARIABLE, raising=False)
    phases.mark("Ray up")
    assert list(tmp_path.iterdir()) == []
    assert phases.read_marks(tmp_path / "none") == {}


def test_marks_of_several_processes(tmp_path: Path) -> None:
    file = tmp_path / "marks"
    script = "from vgg_dist.startup_marks import mark\nfor _ in range(200): mark('first step done')\nmark('Ray up')"
    workers = [subprocess.Popen([sys.executable, "-c", script], env=os.environ | {phases.VARIABLE: str(file)}) for _ in "ab"]
    assert [worker.wait() for worker in workers] == [0, 0]
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(records) == 402
    first = [
        next(r["time"] for r in records if r["process"] == worker.pid and r["phase"] == "first step done")
        for worker in workers
    ]
    assert phases.read_marks(file)["first step done"] == max(first)


def test_phases_are_seconds_from_the_command(tmp_path: Path) -> None:
    script = "from vgg_dist.startup_marks import mark\nmark('Python started')\nmark('Ray up')"
    start = time.perf_counter()
    times = time_phases([sys.executable, "-c", script], tmp_path)
    elapsed = time.perf_counter() - start
    assert list(times) == ["Python started", "Ray up", "command done"]
    assert 0 < times["Python started"] <= times["Ray up"] <= times["command done"] <= elapsed
    text = report(StartupBenchmark(repeats=1), [times], [times])
    assert "not recorded" in text
    assert "Phases of the workers are missing" in text


def test_a_training_without_ray_has_its_own_phases_in_their_order() -> None:
    times = {phase: float(when) for when, phase in enumerate(phases.PHASES) if phase not in phases.ON_RAY}
    times |= {"MLflow run open": 7.5, "command done": 20.0}
    text = report(StartupBenchmark(repeats=1), [times], [{"imports done": 1.0}])
    rows = [line.split("  ")[0] for line in text.splitlines()[2:]]
    assert [row for row in rows if row in times] == sorted(times, key=times.__getitem__)
    assert not any(phase in text for phase in (*phases.ON_RAY, "not recorded", "are missing"))


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ended with exit code 3: the reason"):
        time_phases([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], tmp_path)


@pytest.mark.ray
def test_startup_of_a_real_training_on_ray(
    cluster: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in driver(cluster).items():
        monkeypatch.setenv(name, value)
    train = TrainConfig(arch="lenet5", data="synthetic:train=16,val=10,size=32", global_batch=8, max_steps=1, flip=False)
    file = tmp_path / "startup.json"
    run(StartupBenchmark(train=train, repeats=1, json=file))
    record = json.loads(file.read_text())
    (times,) = record["trainings"]
    assert [*times] == sorted(times, key=times.__getitem__)
    assert set(times) == {*phases.PHASES, "command done"}
    assert "first step done" in record["plain_scripts"][0]
    assert "not recorded" not in capsys.readouterr().out
