"""Workers that are told to stop: all at the same place, wherever each is when it hears of it; and what they go on from."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.reported_trainings import SMALL, Training, checkpoint, same, steps

from vgg_dist.config import TrainConfig
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.training.stopping import STOP_REQUEST, AllStop, StopAgreement, leave_key
from vgg_dist.weights.checkpoint import read_weights
from vgg_dist.worker.exchange import Exchange
from vgg_dist.worker.resume_point import ResumedFrom, find_resume_points


class Board(dict[str, str]):
    """Messages between threads. `broken`: how many calls fail first, as where the network is away."""

    def __init__(self, broken: int = 0) -> None:
        super().__init__()
        self.broken = broken

    def _fail(self) -> None:
        self.broken -= 1
        if self.broken >= 0:
            raise ConnectionError

    def put(self, key: str, value: str) -> None:
        self._fail()
        self[key] = value

    def get(self, key: str, default: Any = None) -> Any:
        self._fail()
        return super().get(key, default)

    def remove(self, key: str) -> None:
        self.pop(key, None)


class Group:
    """Workers in threads, whose collectives are a barrier; each writes down what it has ended."""

    def __init__(self, size: int, seed: int) -> None:
        self.draw = random.Random(seed)
        self.board = Board(broken=self.draw.choice([0, 5]))
        self.barrier = threading.Barrier(size, timeout=20)
        self.agreements = [StopAgreement(self.board, "group", rank, size, poll_s=0.002) for rank in range(size)]
        self.ended: list[list[str]] = [[] for _ in range(size)]

    def work(self, rank: int, busy: list[float]) -> None:
        """Epochs of three steps and a validation of ten batches, which has a collective at its end only."""
        stop, ended = self.agreements[rank], self.ended[rank]
        try:
            with stop.watching("training"):
                for epoch in range(100):
                    for step in range(3):
                        stop.begin()
                        time.sleep(busy[step])
                        self.barrier.wait()
                        ended.append(f"step {epoch} {step}")
                    for _ in range(10):
                        stop.check()
                        time.sleep(busy[3])
                    stop.begin()
                    self.barrier.wait()
                    ended.append(f"validation {epoch}")
        except AllStop:
            self.barrier.wait()  # as a checkpoint has collectives, too
            ended.append("checkpoint")

    def run(self, *requests: str) -> None:
        busy = [[self.draw.uniform(0, 0.003) for _ in range(4)] for _ in self.agreements]
        workers = [threading.Thread(target=self.work, args=(rank, each)) for rank, each in enumerate(busy)]
        for worker in workers:
            worker.start()
        time.sleep(self.draw.uniform(0, 0.1))
        for request in requests or (STOP_REQUEST,):
            dict.__setitem__(self.board, request, "SIGTERM")
        for worker in workers:
            worker.join(30)


@pytest.mark.slow
def test_all_workers_stop_at_the_same_place() -> None:
    places = set()
    for seed in range(60):
        group = Group(size=seed % 4 + 1, seed=seed)
        group.run()
        first = group.ended[0]
        assert first[-1:] == ["checkpoint"], seed
        assert all(ended == first for ended in group.ended), seed
        assert group.board["training"] == "group"
        places.add(first[-2].split()[0] if len(first) > 1 else "start")
    assert {"step", "validation"} & places  # not all before they began


@pytest.mark.slow
def test_all_workers_leave_at_the_same_place_unless_the_command_is_stopped() -> None:
    left = set()
    for seed in range(40):
        group = Group(size=seed % 4 + 1, seed=seed)
        requests = [leave_key("group"), STOP_REQUEST] if seed % 2 else [leave_key("group")]
        group.run(*requests)
        assert all(ended == group.ended[0] for ended in group.ended), seed
        leaves = {agreement.leaves for agreement in group.agreements}
        assert len(leaves) == 1, "none waits for workers that have stopped for good"
        assert leaves == {True} or seed % 2
        left |= {(seed % 2, *leaves)}
    assert (1, False) in left

    other = Group(size=2, seed=1)
    other.run(leave_key("another group"), STOP_REQUEST)
    assert not any(agreement.leaves for agreement in other.agreements)


class Stopping(StopAgreement):
    """Hears of the wish at a moment of the test's choice."""

    def __init__(self) -> None:
        super().__init__(Board(), "group", poll_s=0.001)

    def wish(self) -> None:
        assert isinstance(self.messages, Board)
        self.messages.put(STOP_REQUEST, "SIGTERM")
        assert self._agreed.wait(20)


def stopped(
    folder: Path, config: TrainConfig, when: Callable[[Training, Stopping], None], saved: Path | None = None
) -> Training:
    """A training that is told to stop by `when`, which may change it before it begins."""
    stop = Stopping()

    class Told(Training):
        def begin(self) -> None:
            when(self, stop)

    with stop.watching("training"):
        return Told(folder, config, saved, stop=stop)


CONFIG = replace(SMALL, checkpoint_every=100, log_every=2, max_steps=None, epochs=2)


def test_a_stop_in_mid_epoch_loses_no_step_and_tells_none_twice(tmp_path: Path) -> None:
    def after_step_3(training: Training, stop: Stopping) -> None:
        step = training.trainer._train_step  # type: ignore[union-attr]

        def noted(*arguments: Any) -> None:
            step(*arguments)
            if training.prepared.state.step == 3:
                stop.wish()

        training.trainer._train_step = noted  # type: ignore[union-attr, method-assign]

    whole = Training(tmp_path / "whole", CONFIG)
    first = stopped(tmp_path / "stopped", CONFIG, after_step_3)
    assert first.outcome == {"stopped": 3, "unsaved": ""}
    assert first.events[-2:] == ["3 written", "3 reported"]
    resumed = Training(tmp_path / "stopped", CONFIG, saved=checkpoint(tmp_path / "stopped", 3))
    assert steps(first.sent) + steps(resumed.sent) == [2, 3, 4, 5, 6, 8, 10]
    assert resumed.outcome["metrics"] == whole.outcome["metrics"]
    assert same(read_weights(checkpoint(tmp_path / "stopped", 10)), read_weights(checkpoint(tmp_path / "whole", 10)))
    of_epoch = [record["metrics"]["epoch/train_loss"] for record in whole.sent if "epoch/train_loss" in record["metrics"]]
    again = [record["metrics"]["epoch/train_loss"] for record in resumed.sent if "epoch/train_loss" in record["metrics"]]
    assert again == pytest.approx(of_epoch, rel=1e-12)


@pytest.mark.parametrize("limit", [{}, {"max_steps": 3}], ids=["end of an epoch", "max_steps"])
def test_a_validation_is_given_up_and_run_on_resume(limit: dict[str, int], tmp_path: Path) -> None:
    def in_validation(training: Training, stop: Stopping) -> None:
        batches = training.prepared.val_loader.batches

        def noted(*arguments: Any) -> Any:
            for batch in batches(*arguments):
                stop.wish()
                yield batch

        training.prepared.val_loader.batches = noted  # type: ignore[method-assign]

    config = replace(CONFIG, **limit)
    step = limit.get("max_steps", 5)
    whole = Training(tmp_path / "whole", config)
    first = stopped(tmp_path / "stopped", config, in_validation)
    assert first.outcome == {"stopped": step, "unsaved": ""}
    assert not [record for record in first.sent if "val/loss" in record["metrics"]]
    resumed = Training(tmp_path / "again", config, saved=checkpoint(tmp_path / "stopped", step))
    assert resumed.outcome["metrics"] == whole.outcome["metrics"]
    assert next(record["step"] for record in resumed.sent if "val/loss" in record["metrics"]) == step
    assert len(resumed.sent) == len({(record["step"], *record["metrics"]) for record in resumed.sent})


def test_a_stop_right_after_a_checkpoint_or_before_the_first_step_writes_none(tmp_path: Path) -> None:
    at_once = stopped(tmp_path, CONFIG, lambda training, stop: stop.wish())
    assert at_once.outcome == {"stopped": 0, "unsaved": ""}
    assert not [event for event in at_once.events if "written" in event]

    def after_a_checkpoint(training: Training, stop: Stopping) -> None:
        training.trained = lambda step: stop.wish() if step == 4 else None

    config = replace(CONFIG, checkpoint_every=4, log_every=4)
    done = stopped(tmp_path, config, after_a_checkpoint)
    assert done.outcome == {"stopped": 4, "unsaved": ""}
    assert [event for event in done.events if "4" in event] == ["4 trained", "4 written", "4 reported"]


def test_a_full_disk_on_the_way_out_is_told(tmp_path: Path) -> None:
    def refuse(training: Training, stop: Stopping) -> None:
        def full(step: int) -> None:
            raise OSError("No space left on device")

        training.while_writing = full
        training.trained = lambda step: stop.wish()

    told = stopped(tmp_path, CONFIG, refuse)
    assert told.outcome["stopped"] == 2
    assert "checkpoint of step 2 not written: No space left on device" in told.outcome["unsaved"]


def test_checkpoints_that_were_never_reported_are_gone_on_from(tmp_path: Path) -> None:
    """As of a command that is killed between the writing and the report: here, of which step 2's alone was heard of."""
    config = replace(CONFIG, checkpoint_every=2, log_every=1)
    Training(tmp_path, replace(config, max_steps=6))
    (checkpoint(tmp_path, 4) / "config.json").rename(tmp_path / "aside")
    assert find_resume_points(Exchange(), RunFolder(str(tmp_path)), None).names[:2] == [
        f"checkpoint-{6:09}",
        f"checkpoint-{5:09}",
    ]
    (tmp_path / "aside").rename(checkpoint(tmp_path, 4) / "config.json")

    points = find_resume_points(Exchange(), RunFolder(str(tmp_path)), str(checkpoint(tmp_path, 2)))
    assert [int(name[-9:]) for name in points.names] == [6, 5, 4, 2]
    assert points.unreported == 3
    newest, damaged_newest, known = (ResumedFrom(points, number) for number in (0, 1, 3))
    assert [each.is_unreported for each in (newest, damaged_newest, known)] == [True, True, False]
    assert steps(newest.unreported_records()) == [3, 4, 5]
    assert steps(damaged_newest.unreported_records()) == [3, 4]
    assert known.unreported_records() == []
    # In the order of their reports; the two reported last are kept, the damaged one is the first to go.
    assert newest.unreported() == [str(checkpoint(tmp_path, step)) for step in (4, 5, 6)]
    assert damaged_newest.unreported() == [str(checkpoint(tmp_path, step)) for step in (6, 4, 5)]
    assert known.unreported() == []
    assert newest.path == str(checkpoint(tmp_path, 6))
    assert find_resume_points(Exchange(), RunFolder(str(tmp_path / "none")), None).names == []
