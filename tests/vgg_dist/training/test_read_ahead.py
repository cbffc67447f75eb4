"""What a node's workers copy ahead of themselves: exactly what they will read, in that order."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.loading.epoch_plan import EpochPlan
from pipelines.stores.open import open_store
from pipelines.stores.sample_store import ReadAhead
from pipelines.stores.shards import ShardStore
from vgg_dist.config import TrainConfig, WorkerSettings
from vgg_dist.training.data import augmentation, micro_batches, read_ahead, worker_steps
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.validation import _micro_batches, _read_ahead, cut

CONFIG = TrainConfig(arch="lenet5", global_batch=8, micro_batch=2, shuffle="blocks").resolved()


class Recorder(ReadAhead):
    """Records the times that it is told."""

    def __init__(self) -> None:
        self.times: list[int] = []

    def reached(self, time: int) -> None:
        self.times.append(time)


@pytest.fixture
def store(small_shards: Path, tmp_path: Path) -> ShardStore:
    found = open_store(f"local://{small_shards}", "train", cache=str(tmp_path))
    assert isinstance(found, ShardStore)
    return found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int], int, int]]:
    """What the store is asked to copy ahead: indices, times, part, parts."""
    calls: list[tuple[list[int], list[int], int, int]] = []

    def record(
        self: ShardStore, indices: Any, times: Any, part: int = 0, parts: int = 1
    ) -> AbstractContextManager[ReadAhead]:
        calls.append((indices.tolist(), times.tolist(), part, parts))
        return nullcontext(ReadAhead())

    monkeypatch.setattr(ShardStore, "fetch_ahead", record)
    return calls


def test_a_node_of_two_asks_for_what_its_two_workers_train_on(store: ShardStore, asked: list[Any]) -> None:
    config: WorkerSettings = CONFIG.with_micro_batch(2)
    plan = EpochPlan(len(store), 0, 0, augmentation(config), store.shards())
    node = [Worker(rank, 5, local_rank=rank - 2, local_world_size=2) for rank in (2, 3)]
    read: list[tuple[int, int]] = []
    for worker in node:
        read_ahead(plan, config, worker, 16, store)
        recorder = Recorder()
        steps = list(worker_steps(plan, config, worker, 16, 2, one_shape=False))
        for micro in micro_batches(steps, recorder):
            read += [(recorder.times[-1], index) for index in micro.index.tolist() if index >= 0]
        assert recorder.times == [step.end for step in steps]
    for number, (indices, times, part, parts) in enumerate(asked):
        assert sorted(zip(times, indices, strict=True)) == sorted(read)
        assert times == sorted(times)
        assert (part, parts) == (number, 2)


def test_a_full_shuffle_copies_nothing_ahead(store: ShardStore, asked: list[Any]) -> None:
    config = replace(CONFIG, shuffle="full").with_micro_batch(2)
    plan = EpochPlan(len(store), 0, 0, augmentation(config))
    with read_ahead(plan, config, Worker(), 0, store):
        assert not asked


def test_validation_asks_for_the_runs_of_its_nodes_workers(store: ShardStore, asked: list[Any]) -> None:
    read: list[tuple[int, int]] = []
    for rank in (2, 3):
        share = range(*(len(store) * r // 5 for r in (rank, rank + 1)))
        recorder = Recorder()
        for micro in _micro_batches(cut(share, len(share)), 36, 0, recorder):
            read += [(recorder.times[-1], index) for index in micro.index.tolist()]
        _read_ahead(store, Worker(rank, 5, local_rank=rank - 2, local_world_size=2))
    for number, (indices, times, part, parts) in enumerate(asked):
        assert sorted(zip(times, indices, strict=True)) == sorted(read)
        assert times == sorted(times)
        assert (part, parts) == (number, 2)
