"""Shards are copied ahead of a node's readers: in their order, within the cache's bound, each once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
import zlib
from ast import literal_eval
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import fsspec
import numpy as np
import pytest
from support.remote_data import upload

from pipelines.loading.epoch_plan import Augmentation, EpochPlan
from pipelines.remote import copy_file, read_range, size_of
from pipelines.stores.fetch_ahead import WORTH, schedule
from pipelines.stores.open import open_store
from pipelines.stores.shards import ShardStore


def test_a_schedule_has_what_is_worth_copying_and_never_more_than_the_budget() -> None:
    generator = random.Random(0)
    for _ in range(100):
        shards, samples = generator.randrange(1, 9), generator.randrange(1, 60)
        numbers = np.array([generator.randrange(shards) for _ in range(samples)])
        times = np.sort([generator.randrange(30) for _ in range(samples)])
        sample_bytes = np.array([generator.randrange(1, 20) for _ in range(samples)])
        all_bytes = np.array([generator.randrange(1, 100) for _ in range(shards)])
        sizes = np.array([generator.randrange(10, 20) for _ in range(shards)])
        budget = generator.randrange(0, 80)
        plan = schedule(numbers, times, sample_bytes, all_bytes, sizes, budget)

        worth = [
            k for k in range(shards) if (numbers == k).any() and sample_bytes[numbers == k].sum() > WORTH * all_bytes[k]
        ]
        assert set(plan.shards.tolist()) <= set(worth)
        assert np.array_equal(plan.sizes, sizes[plan.shards])
        for entry, shard in enumerate(plan.shards.tolist()):
            uses = times[numbers == shard]
            assert (plan.first[entry], plan.last[entry]) == (uses.min(), uses.max())
        assert (np.diff(plan.first) >= 0).all()
        in_use = [int(plan.sizes[(plan.first <= at) & (plan.last >= at)].sum()) for at in range(30)]
        assert max(in_use) <= budget
        # An entry left out for want of room has none at the time of its first use.
        for shard in set(worth) - set(plan.shards.tolist()):
            first = times[numbers == shard].min()
            assert in_use[first] + sizes[shard] > budget
        # The cache holds an entry at the latest when it is needed, and never more than the budget.
        for reached in range(30):
            entries, needed = plan.upcoming(reached)
            assert entries.tolist() == np.flatnonzero(plan.last >= reached).tolist()
            assert plan.sizes[entries[:needed]].sum() <= budget
            in_use = np.flatnonzero((plan.first <= reached) & (plan.last >= reached))
            assert set(in_use.tolist()) <= set(entries[:needed].tolist())


@pytest.fixture
def url(cifar_shards: Path) -> Iterator[str]:
    upload(cifar_shards, "memory://bucket/cifar")
    yield "memory://bucket/cifar"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


class Traffic:
    """Counts what is copied and read from the storage."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.copies: Counter[tuple[str, str]] = Counter()
        self.parts: Counter[str] = Counter()
        self.lock = threading.Lock()
        monkeypatch.setattr("pipelines.stores.node_cache.copy_file", self.copy)
        monkeypatch.setattr("pipelines.stores.cached_shards.read_range", self.read)

    def copy(self, url: str, path: str, size: int) -> None:
        with self.lock:
            self.copies[path.split("/")[-3], url.rpartition("/")[2]] += 1
        copy_file(url, path, size)

    def read(self, url: str, start: int, end: int) -> bytes:
        with self.lock:
            self.parts[url.rpartition("/")[2]] += 1
        return read_range(url, start, end)


def opened(url: str, cache: Path) -> ShardStore:
    store = open_store(url, "train", cache=str(cache))
    assert isinstance(store, ShardStore)
    return store


def held(cache: Path) -> int:
    return sum(max(0, size_of(str(path))) for path in list(cache.glob("*/*.tar")))


@pytest.mark.parametrize("share", [0.3, 2.0])
def test_a_split_read_in_order_passes_through_a_small_cache_once(
    share: float, url: str, cifar_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic, sizes = Traffic(monkeypatch), [tar.stat().st_size for tar in cifar_shards.glob("train-*.tar")]
    limit = int(share * sum(sizes))
    monkeypatch.setenv("VGG_DIST_CACHE_SIZE", str(limit))
    store, local = opened(url, tmp_path / "cache"), open_store(str(cifar_shards), "train")
    in_order = np.arange(len(store))
    for _ in range(2):
        with store.fetch_ahead(in_order, in_order) as ahead:
            for index in range(len(store)):
                ahead.reached(index)
                shard = store.index.shard_names[store.index.shard[index]]
                for _ in range(10_000):  # the reader is no faster than the copies
                    if f"{url}/{shard}" not in store.to_fetch():
                        break
                    time.sleep(0.001)
                assert store.read(index) == local.read(index)
                assert held(tmp_path / "cache") <= limit
    assert {shard for _, shard in traffic.copies} == {tar.name for tar in cifar_shards.glob("train-*.tar")}
    assert max(traffic.copies.values()) <= (1 if share > 1 else 2)
    assert not traffic.parts


def test_processes_of_a_node_share_the_work_and_nodes_copy_their_own_shards(
    url: str, cifar_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic, local = Traffic(monkeypatch), open_store(str(cifar_shards), "train")
    shards = len(local.index.shard_names)  # type: ignore[attr-defined]
    for epoch in range(2):
        seen: list[int] = []
        for node in range(2):
            stores = [opened(url, tmp_path / f"node{node}") for _ in range(2)]
            plan = EpochPlan(len(local), 0, epoch, Augmentation(), local.shards())
            ranks = range(2 * node, 2 * node + 2)
            samples, ends = plan.node_samples(0, 40, ranks, 4)
            with ExitStack() as stack:
                aheads = [stack.enter_context(stores[k].fetch_ahead(samples, ends, k, 2)) for k in range(2)]
                while len(stores[0].to_fetch()) > shards - len(aheads[0]._plan):  # type: ignore[attr-defined]
                    time.sleep(0.01)
                for store, ahead, rank in zip(stores, aheads, ranks, strict=True):
                    for step in plan.steps(0, 40, rank, 4, 100):
                        ahead.reached(step.end)
                        for index in step.micro_batches[0].index.tolist():
                            assert store.read(index) == local.read(index)
                            seen.append(index)
        assert sorted(seen) == list(range(len(local)))
        # Each shard is copied by the node that reads most of it, if there is one, and the next epoch finds it there.
        assert max(traffic.copies.values()) == 1
        if epoch == 0:
            assert max(Counter(shard for _, shard in traffic.copies).values()) == 1
        assert 0.8 * shards <= sum(traffic.copies.values()) <= 1.2 * shards
    assert sum(traffic.parts.values()) <= 0.2 * 2 * len(local)


def test_what_was_not_copied_ahead_is_copied_by_its_reader(
    url: str, cifar_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic, local = Traffic(monkeypatch), open_store(str(cifar_shards), "train")
    store, in_order = opened(url, tmp_path / "cache"), np.arange(len(local))
    store.fetch_ahead(in_order, in_order)  # never entered: as if it were slower than the reader
    assert [store.read(index) for index in in_order] == [local.read(index) for index in in_order]
    assert max(traffic.copies.values()) == 1
    assert not traffic.parts


def test_a_failed_copy_ahead_does_not_end_the_others(
    url: str, cifar_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(url: str, path: str, size: int) -> None:
        if url.endswith("3.tar") and threading.current_thread().name.startswith("fetch-ahead"):
            raise OSError("connection reset")
        copy_file(url, path, size)

    monkeypatch.setattr("pipelines.stores.node_cache.copy_file", failing)
    store, local = opened(url, tmp_path / "cache"), open_store(str(cifar_shards), "train")
    in_order = np.arange(len(local))
    with store.fetch_ahead(in_order, in_order) as ahead:
        while any(not name.endswith("3.tar") for name in store.to_fetch()):
            time.sleep(0.01)
        ahead.reached(0)
        assert [store.read(index) for index in in_order] == [local.read(index) for index in in_order]


READER = """
import sys, time, zlib
import numpy as np
from pathlib import Path
from pipelines.loading.epoch_plan import Augmentation, EpochPlan
from pipelines.stores.open import open_store

url, cache, limit, rank = *sys.argv[1:3], *map(int, sys.argv[3:])
store, most, sums = open_store(url, "train", cache=cache), 0, []
def held():
    return sum(path.stat().st_size for path in [*Path(cache).glob("*/*.tar")] if path.exists())
for epoch in range(3):
    plan = EpochPlan(len(store), 0, epoch, Augmentation(), store.shards())
    samples, ends = plan.node_samples(0, 40, range(3), 3)
    with store.fetch_ahead(samples, ends, rank, 3, threads=2) as ahead:
        for step in plan.steps(0, 40, rank, 3, 100):
            ahead.reached(step.end)
            for index in step.micro_batches[0].index.tolist():
                sums.append((epoch, index, zlib.crc32(store.read(index))))
            try:
                most = max(most, held())
            except FileNotFoundError:  # removed meanwhile
                pass
            time.sleep(0.002)
assert most <= limit, (most, limit)
print(repr(sums))
"""


@pytest.mark.slow
def test_readers_go_on_when_another_process_of_the_node_is_killed(cifar_shards: Path, tmp_path: Path) -> None:
    limit = int(0.5 * sum(tar.stat().st_size for tar in cifar_shards.glob("train-*.tar")))
    arguments = [f"local://{cifar_shards}", str(tmp_path / "cache"), str(limit)]
    env = os.environ | {"VGG_DIST_CACHE_SIZE": str(limit)}
    processes = [
        subprocess.Popen([sys.executable, "-c", READER, *arguments, str(rank)], env=env, stdout=subprocess.PIPE, text=True)
        for rank in range(3)
    ]
    while processes[2].poll() is None and not list(tmp_path.glob("cache/*/*.part")):
        time.sleep(0.001)
    processes[2].kill()
    found = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, -9]
    local = open_store(str(cifar_shards), "train")
    expected = [zlib.crc32(local.read(index)) for index in range(len(local))]
    for epoch in range(3):
        plan = EpochPlan(len(local), 0, epoch, Augmentation(), local.shards())
        of_two = plan.node_samples(0, 40, range(2), 3)[0]
        read = [(index, checksum) for out in found[:2] for number, index, checksum in literal_eval(out) if number == epoch]
        assert sorted(index for index, _ in read) == sorted(of_two.tolist())
        assert all(expected[index] == checksum for index, checksum in read)
    # What the killed process left is no obstacle, and goes when room is needed.
    store = opened(f"local://{cifar_shards}", tmp_path / "cache")
    assert [zlib.crc32(store.read(index)) for index in range(len(store))] == expected
