"""The queue between a training and its metric store, against a store in memory that fails in every way a server can."""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from vgg_dist.metric_names import Record
from vgg_dist.tracking import outbox
from vgg_dist.tracking.outbox import Outbox


class Memory:
    """Keeps every point ever written, duplicates too; `fail` says, per request, where it breaks."""

    def __init__(self, fail: Iterator[str] | None = None) -> None:
        self.points: dict[str, list[tuple[int, float]]] = {}
        self.fail = fail or iter(())

    def last_steps(self) -> dict[str, int]:
        if next(self.fail, "") == "asked":
            raise ConnectionError("no answer to a question")
        return {name: max(step for step, _ in points) for name, points in self.points.items()}

    def write(self, records: Sequence[Record]) -> None:
        fault = next(self.fail, "")
        if fault == "before":
            raise ConnectionError("refused")
        if fault == "half":
            records = records[: len(records) // 2]
        for record in records:
            for name, value in record["metrics"].items():
                self.points.setdefault(name, []).append((record["step"], value))
        if fault in ("after", "half"):
            raise ConnectionError("the answer got lost")


class Hanging(Memory):
    """Answers nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def last_steps(self) -> dict[str, int]:
        self.let_go.wait()
        raise ConnectionError("timed out")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(outbox, "LAST_RETRY_S", 0.002)


def kill(box: Outbox) -> None:
    """What SIGKILL leaves of an outbox: nothing that was not sent or persisted."""
    with box._changed:
        box._closed = True
        box._changed.notify_all()
    if box._sender is not None:
        box._sender.join()


def measured(step: int) -> Record:
    """A step's record: the loss at every step, an error at every tenth."""
    metrics = {"train/loss": 1 / (step + 1)}
    if step % 10 == 9:
        metrics["val/top1_error"] = 100 / (step + 1)
    return {"step": step, "time": 1e9 + step, "metrics": metrics}


def expected(steps: int) -> dict[str, list[tuple[int, float]]]:
    return {
        "train/loss": [(step, 1 / (step + 1)) for step in range(steps)],
        "val/top1_error": [(step, 100 / (step + 1)) for step in range(9, steps, 10)],
    }


@pytest.mark.parametrize("seed", range(20))
def test_every_step_arrives_once_and_in_order_through_faults_and_kills(seed: int, tmp_path: Path) -> None:
    draw, luck = random.Random(seed), random.Random(seed)
    store = Memory(iter(lambda: luck.choice(["", "", "before", "after", "half", "asked"]), None))
    backlog, checkpoint, steps = str(tmp_path / "run" / "backlog.jsonl"), 0, 200
    while True:
        box = Outbox(store, backlog)
        killed_at = draw.randrange(checkpoint, 2 * steps)
        for step in range(checkpoint, min(steps, killed_at)):
            box.log([measured(step)])
            if step % 25 == 24:
                box.persist()
                checkpoint = step + 1
        if killed_at >= steps:
            break
        kill(box)
    assert box.close(wait_s=60) == 0
    assert store.points == expected(steps)
    assert not Path(backlog).exists()


def test_a_store_that_is_away_delays_nothing_and_its_records_wait_in_the_backlog(tmp_path: Path) -> None:
    away, file = Hanging(), tmp_path / "backlog.jsonl"
    box = Outbox(away, str(file))
    for step in range(1000):
        box.log([measured(step)])
    box.persist()
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == list(range(1000))
    assert box.close(wait_s=0) == 1000
    away.let_go.set()

    back = Memory()
    assert Outbox(back, str(file)).close(wait_s=60) == 0
    assert back.points == expected(1000)
    assert not file.exists()


def test_steps_computed_again_are_not_taken_again() -> None:
    store = Memory()
    box = Outbox(store, "/nonexistent-folder-of-no-run/backlog.jsonl")
    box.log([measured(step) for step in range(30)])
    box.log([{"step": 20, "time": 2e9, "metrics": {"train/loss": 5.0, "first seen": 1.0}}])
    box.log([measured(step) for step in range(20, 40)])
    assert box.close(wait_s=60) == 0
    assert store.points == {**expected(40), "first seen": [(20, 1.0)]}


def test_a_backlog_that_cannot_be_read_or_written_costs_a_warning_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "backlog.jsonl").mkdir()
    store = Memory(iter(lambda: "asked", None))
    box = Outbox(store, str(tmp_path / "backlog.jsonl"))
    with caplog.at_level(logging.WARNING):
        box.log([measured(0)])
        box.persist()
        assert box.close(wait_s=0) == 1
    assert f"cannot write 1 unsent metric records to {tmp_path}/backlog.jsonl" in caplog.text
    with pytest.raises(RuntimeError, match="after close"):
        box.log([measured(1)])


def test_a_backlog_line_cut_short_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, store = tmp_path / "backlog.jsonl", Memory()
    file.write_text("".join(json.dumps(measured(step)) + "\n" for step in range(10)) + '{"step": 10, "ti')
    with caplog.at_level(logging.WARNING):
        assert Outbox(store, str(file)).close(wait_s=60) == 0
    assert store.points == expected(10)
    assert str(file) in caplog.text
