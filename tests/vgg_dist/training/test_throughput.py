"""What counts as waiting for data, and after which steps metrics are logged and checkpoints are due."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from support.trainings import SMALL

from vgg_dist.config.base import Interval
from vgg_dist.models.build import macs
from vgg_dist.training.network_wait import NetworkWait
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.state import build_state
from vgg_dist.training.throughput import DataWait, LogSchedule, Throughput


class Device:
    """A GPU's clock: it has work until `busy_until`; events are passed when the work before them is done."""

    def __init__(self) -> None:
        self.busy_until = 0.0

    def event(self) -> Event:
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self.device = device

    def record(self) -> None:
        self.passed = max(time.perf_counter(), self.device.busy_until)

    def elapsed_time(self, later: Event) -> float:
        return 1000 * (later.passed - self.passed)


@pytest.mark.parametrize(("busy", "low", "high"), [(0.0, 0.099, 1.0), (0.06, 0.035, 0.5), (30.0, 0.0, 1e-6)])
def test_waiting_counts_only_while_the_device_has_nothing_to_do(busy: float, low: float, high: float) -> None:
    device = Device()
    wait = DataWait(torch.device("cuda"), device.event)
    device.busy_until = time.perf_counter() + busy
    with wait.waiting():
        time.sleep(0.1)
    assert low <= wait.take() <= high
    assert wait.take() == 0.0


def test_on_a_cpu_all_waiting_counts() -> None:
    wait = DataWait(torch.device("cpu"))
    for _ in range(2):
        with wait.waiting():
            time.sleep(0.02)
    assert wait.take() >= 0.04


@pytest.mark.gpu
def test_a_busy_gpu_does_not_wait_for_data() -> None:
    device = torch.device("cuda", 0)
    a = torch.randn(8192, 8192, device=device)
    a @ a
    wait = DataWait(device)
    for busy in (True, False):
        torch.cuda.synchronize()
        if busy:
            for _ in range(200):
                a @ a
        with wait.waiting():
            time.sleep(0.05)
        torch.cuda.synchronize()
        seconds = wait.take()
        assert seconds < 0.01 if busy else seconds > 0.04


def logged_steps(schedule: LogSchedule, seconds: list[float]) -> list[int]:
    """After which steps of these durations it logs."""
    steps, last, since = [], 0, 0.0
    for step, took in enumerate(seconds, start=1):
        since += took
        if schedule.log_due(step):
            steps.append(step)
            schedule.logged(step, since / (step - last), 0.0)
            last, since = step, 0.0
    return steps


def test_logging_by_time_comes_at_once_and_then_as_often_as_asked() -> None:
    first, *rest = logged_steps(LogSchedule(Interval(seconds=5), Interval(steps=10**6)), [30.0] + [0.1] * 999)
    assert first == 1
    assert rest[:4] == [2, 6, 22, 72]  # feeling its way: the first step says nothing of the others
    assert {b - a for a, b in itertools.pairwise(rest[3:])} == {50}
    assert logged_steps(LogSchedule(Interval(seconds=5), Interval(steps=10**6)), [8.0] * 4) == [1, 2, 3, 4]


def test_logging_by_steps() -> None:
    assert logged_steps(LogSchedule(Interval(steps=4), Interval(steps=10**6)), [1.0] * 10) == [4, 8]


def test_checkpoints_by_steps_and_by_time() -> None:
    schedule = LogSchedule(Interval(seconds=5), Interval(steps=3))
    assert [step for step in range(1, 8) if schedule.checkpoint_due(step)] == [3, 6]
    assert not schedule.logged(3, 1.0, 1e9)
    schedule = LogSchedule(Interval(seconds=5), Interval(seconds=600))
    assert not any(schedule.checkpoint_due(step) for step in range(1, 8))
    assert [schedule.logged(5, 1.0, since) for since in (599.0, 600.0)] == [False, True]


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("1000", Interval(steps=1000)),
        (7, Interval(steps=7)),
        ("30s", Interval(seconds=30)),
        ("1.5h", Interval(seconds=5400)),
    ],
)
def test_intervals(text: str | int, interval: Interval) -> None:
    assert Interval.parse("log_every", text) == interval


@pytest.mark.parametrize("text", ["", "0", "0s", "-3", "10x", "m", "1.5", "1e3", "10 m", "ten"])
def test_an_interval_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=rf"^--log-every {text}: must be .* 10m"):
        Interval.parse("log_every", text)


def test_rates_are_those_of_all_workers_together() -> None:
    """Two workers, ten seconds each, 100 images each; the comparison with the loader comes in the fourth log only."""
    model = build_state(SMALL, 10, torch.device("cpu")).model
    throughput = Throughput(model, SMALL, Worker(0, 2), NetworkWait(torch.device("cpu")))
    logs = [throughput.metrics([200, 20.0, 2.0, 5.0, 50.0, 6.0, 9.0], 4) for _ in range(5)]
    for metrics in logs:
        assert metrics["network_wait_share"] == pytest.approx(0.25)
        assert (metrics["step_seconds/slowest"], metrics["step_seconds/median"]) == (9 / 4, 7.5 / 4)
        assert metrics["slowest_worker"] == 1
        assert metrics["images_per_second"] == pytest.approx(20.0)
        assert metrics["data_wait_share"] == pytest.approx(0.1)
        flops = 20.0 * 6 * macs(model, 32)
        assert metrics["model_flops_utilization"] == pytest.approx(flops / throughput.peak)
    assert [number for number, metrics in enumerate(logs, start=1) if "loader_images_per_second" in metrics] == [4]
    assert logs[3]["loader_images_per_second"] == 50.0
    assert logs[3]["step_images_per_second"] == pytest.approx(200 / 9)  # nine of the ten seconds were not waiting
