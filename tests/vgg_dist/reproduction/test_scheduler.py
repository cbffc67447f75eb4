"""Runs that depend on each other, with Ray played by this process: order, failures, and a signal to stop."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from vgg_dist.config import ReproduceConfig
from vgg_dist.errors import Interrupted, TrainingError
from vgg_dist.reproduction import scheduler
from vgg_dist.reproduction.run_graph import paper_runs

CONFIG = ReproduceConfig(data="synthetic", image_size=32, num_workers=2, name="all").resolved()
PARENT: Any = SimpleNamespace(tracking_uri="sqlite:///x")


class InProcess:
    """The part of Ray that the scheduler uses: a task is done when it is waited for, the first started first."""

    exceptions = ray.exceptions

    def __init__(self) -> None:
        self.most_at_once = 0

    def remote(self, **_: Any) -> Callable[..., Any]:
        return lambda function: SimpleNamespace(remote=lambda *given: lambda: function(*given))

    def wait(self, tasks: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        self.most_at_once = max(self.most_at_once, len(tasks))
        return tasks[:1], tasks[1:]

    def get(self, task: Callable[[], Any]) -> Any:
        try:
            return task()
        except Exception as error:
            raise ray.exceptions.RayTaskError("train", "", error) from None


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that were trained, in order; room for two at once."""
    names: list[str] = []
    monkeypatch.setattr(scheduler, "ray", InProcess())
    monkeypatch.setattr(scheduler, "max_concurrent_groups", lambda workers: 2)
    monkeypatch.setattr(scheduler, "worker_resources", lambda workers: [{"CPU": 1.0}] * workers)
    monkeypatch.setattr(scheduler, "JobMessages", lambda: None)
    monkeypatch.setattr(scheduler, "stop_signal", lambda messages: "")
    monkeypatch.setattr(scheduler, "run_training", lambda config, options: names.append(config.name))
    return names


def test_each_run_is_trained_once_after_the_one_it_depends_on(trained: list[str]) -> None:
    runs = paper_runs(CONFIG)
    scheduler._Scheduler(CONFIG, runs, PARENT).run()
    assert sorted(trained) == sorted(run.name for run in runs)
    for run in runs:
        if run.depends_on is not None:
            assert trained.index(run.depends_on) < trained.index(run.name)
    assert scheduler.ray.most_at_once == 2


def test_what_depends_on_a_failed_run_is_left_and_the_rest_is_trained(
    trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = paper_runs(CONFIG)
    (failing,) = [run.name for run in runs if run.config.arch == "D" and run.depends_on == runs[0].name]

    def train(config: Any, options: Any) -> None:
        if config.name == failing:
            raise TrainingError("the loss is not finite")
        trained.append(config.name)

    monkeypatch.setattr(scheduler, "run_training", train)
    with pytest.raises(scheduler.RunsFailed) as error:
        scheduler._Scheduler(CONFIG, runs, PARENT).run()
    assert isinstance(error.value, TrainingError)
    assert str(error.value) == f"{failing}: the loss is not finite"
    assert error.value.failures == {failing: "the loss is not finite"}
    assert sorted(trained) == sorted(run.name for run in runs if run.config.arch != "D")


def test_a_bug_is_raised_as_it_is(trained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def train(config: Any, options: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(scheduler, "run_training", train)
    with pytest.raises(ray.exceptions.RayTaskError):
        scheduler._Scheduler(CONFIG, paper_runs(CONFIG), PARENT).run()


def test_after_a_signal_nothing_new_starts_and_the_error_says_where_runs_stopped(
    trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(config: Any, options: Any) -> None:
        monkeypatch.setattr(scheduler, "stop_signal", lambda messages: "SIGTERM")
        raise Interrupted("SIGTERM", " at step 7; more")

    monkeypatch.setattr(scheduler, "run_training", train)
    monkeypatch.setattr(scheduler.signals, "left_s", lambda: 20.0)
    with pytest.raises(Interrupted) as stop:
        scheduler._Scheduler(CONFIG, paper_runs(CONFIG), PARENT).run()
    assert stop.value.by == "SIGTERM"
    assert stop.value.how.count("at step 7") == 2  # the two that ran, and no third
    assert "--name all" in stop.value.how
    assert trained == []
