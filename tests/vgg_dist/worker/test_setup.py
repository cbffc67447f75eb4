"""The workers' set-up: what is wrong on one node only is told by all workers alike, and none waits for another for ever."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from support.trees import make_tree, picture

from pipelines.preparation.shard_writer import write_shards
from pipelines.remote import copy_file
from pipelines.stores import node_cache
from pipelines.stores.open import open_store
from vgg_dist.config import ScaleRange, TrainConfig, TrainSettings
from vgg_dist.errors import TrainingError
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.state import build_state
from vgg_dist.training.trainer import Trainer
from vgg_dist.worker.copy_progress import pays_to_copy, report_copying
from vgg_dist.worker.exchange import Exchange
from vgg_dist.worker.process import train as run
from vgg_dist.worker.reporter import Reporter
from vgg_dist.worker.setup import Node, SavedFolder, prepare

SMALL = TrainConfig(
    arch="A",
    head="linear",
    image_size=32,
    train_scale=ScaleRange(36, 36),
    val_scale=36,
    global_batch=4,
    micro_batch=4,
    max_steps=1,
    log_every="1",  # by time, losses would be of as many steps as this machine makes in it
    precision="fp32",
    loader_threads=1,
).resolved()


@contextmanager
def stale_storage() -> Iterator[Path]:
    raise OSError(errno.ESTALE, "Stale file handle")
    yield


@contextmanager
def damaged_checkpoint() -> Iterator[Path]:
    Path("config.json").write_text("{")
    yield Path()


def train(config: TrainSettings, worker: Worker, saved: SavedFolder | None) -> str:
    """Sets up and trains; says how it went."""
    try:
        prepared = prepare(config, worker, Node(), Exchange(), saved)
    except (TrainingError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    loaders = prepared.train_loader, prepared.val_loader
    Trainer(prepared.config, prepared.state, *loaders, worker, lambda metrics, save: None).run()
    return f"trained {prepared.state.step} step, {prepared.config.micro_batch} images at once"


def resume(config: TrainSettings, worker: Worker, mishap: bool) -> str:
    """From the second of two checkpoints, which this worker, if it meets with mishap, reads with a flipped bit."""
    folders = {}
    for step in (1, 2):
        folder = Path(f"c{step}")
        folder.mkdir()
        state = build_state(config, 2, worker.device)
        state.step = step
        state.save(folder, config, ["cat", "dog"])
        folders[folder.name] = partial(nullcontext, folder)
    if mishap:
        content = bytearray(Path("c2/state.pt").read_bytes())
        content[-100] ^= 4
        Path("c2/state.pt").write_bytes(content)
    prepared = prepare(config, worker, Node(), Exchange(), folders["c2"], {"c1": folders["c1"]})
    return f"step {prepared.state.step}: {prepared.passed_over}"


def train_on_a_full_disk(config: TrainSettings, worker: Worker) -> str:
    """Only the first worker writes."""

    def store(name: str, write: Callable[[Path], None]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    exchange = Exchange()
    prepared = prepare(config, worker, Node(), exchange, None)
    reporter = Reporter(worker, Node(), exchange, prepared, lambda payload, checkpoint: None, store, 5.0)
    outcome = run(prepared, worker, reporter)
    return str(outcome.get("error"))


def copy_slowly(url: str, path: str, size: int) -> None:
    """Takes longer than the time-out of the group that carries the gradients."""
    if not Path(path).exists() and "train" in url:
        time.sleep(6)
    copy_file(url, path, size)


def in_group(rank: int, folder: str) -> None:
    """One of two workers, whose data lies in a folder of its own; worker 1 meets with trouble. Leaves how each try went."""
    where = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=2, timeout=timedelta(seconds=5))
    os.chdir(f"{folder}/node{rank}")
    worker, mishap = Worker(rank, 2), rank == 1
    config = replace(SMALL, data="data", storage_path="runs")
    outcomes = {
        "no data": train(replace(config, data="data" if rank == 0 else "elsewhere"), worker, None),
        "stale": train(config, worker, stale_storage if mishap else None),
        "damaged": train(config, worker, damaged_checkpoint if mishap else None),
        "flipped": resume(config, worker, mishap),
        "full disk": train_on_a_full_disk(config, worker),
        "whole": train(config, worker, None),
        "default": train(replace(config, micro_batch=None, global_batch=5), worker, None),
    }
    os.environ["VGG_DIST_CACHE"] = "cache"
    if mishap:
        node_cache.copy_file = copy_slowly
    outcomes["slow copy"] = train(replace(config, data=f"local://{folder}/shards"), worker, None)
    Path("outcomes.json").write_text(json.dumps(outcomes))
    dist.destroy_process_group()


@pytest.mark.slow
def test_what_is_wrong_on_one_node_is_the_same_line_on_all(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        f"data/{split}/{c}/{i}.jpg": picture(i) for split in ("train", "val") for c in ("cat", "dog") for i in range(4)
    }
    for rank in range(2):
        make_tree(tmp_path / f"node{rank}", files)
    for split in ("train", "val"):
        write_shards(
            open_store(str(tmp_path / "node0" / "data"), split), split, tmp_path / "shards", shard_bytes=1000, seed=0
        )
    mp.spawn(in_group, (str(tmp_path),), nprocs=2)
    first, second = (json.loads((tmp_path / f"node{rank}" / "outcomes.json").read_text()) for rank in range(2))
    assert first == second
    assert not any("\n" in line for line in first.values())
    assert first["no data"].startswith("TrainingError: ")
    assert "elsewhere" in first["no data"]
    assert first["stale"].startswith("OSError: [Errno 116] Stale file handle")  # another attempt may go well
    assert first["damaged"].startswith("TrainingError: checkpoint config.json is damaged")
    for mishap in ("no data", "stale", "damaged"):
        assert "(worker 1, on " in first[mishap]
    assert first["flipped"].startswith("step 1: ['checkpoint c2/state.pt is damaged or incomplete: ")
    assert first["flipped"].endswith("; c1 is used instead']")
    assert first["full disk"] == "--storage-path runs: checkpoint of step 1 not written: [Errno 28] No space left on device"
    assert first["whole"] == "trained 1 step, 4 images at once"
    assert first["slow copy"] == first["whole"]
    assert first["default"] == "trained 1 step, 3 images at once"


def test_a_mistake_of_all_workers_is_told_without_a_workers_name(tmp_path: Path) -> None:
    config = replace(SMALL, data=str(tmp_path / "missing")).resolved()
    with pytest.raises(TrainingError, match=r"missing") as raised:
        prepare(config, Worker(), Node(), Exchange(), None)
    assert "(worker" not in str(raised.value)


def test_copying_says_how_much_is_left(small_shards: Path, tmp_path: Path) -> None:
    store = open_store(f"local://{small_shards}", "train", cache=str(tmp_path))
    lines: list[str] = []
    told = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        told.set()

    with report_copying([store], "worker 3, on b,", say, every_s=0.001):
        assert told.wait(60)
        store.prefetch()
    total = sum(path.stat().st_size for path in small_shards.glob("train-*.tar")) / 1e3
    assert lines[0] == f"worker 3, on b, is copying its data: {total:.1f} kB of {total:.1f} kB are left"
    told.clear()
    with report_copying([store], "worker 3, on b,", say, every_s=0.0):
        store.prefetch()
    assert not told.is_set()


def test_copying_first_pays_if_all_fits_or_there_are_more_epochs_than_nodes() -> None:
    assert pays_to_copy(100, 100, nodes=64, epochs=1)
    assert not pays_to_copy(100, 99, nodes=64, epochs=64)
    assert pays_to_copy(100, 99, nodes=64, epochs=65)
    assert pays_to_copy(0, 0, nodes=64, epochs=1)


def test_a_node_copies_nothing_for_a_few_epochs_of_many_nodes(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG_DIST_CACHE", str(tmp_path / "cache"))
    # Either split would fit by itself.
    monkeypatch.setenv("VGG_DIST_CACHE_SIZE", str(sum(path.stat().st_size for path in small_shards.glob("*.tar")) - 1))
    config = replace(SMALL, data=f"local://{small_shards}", storage_path=str(tmp_path), epochs=1).resolved()
    prepared = prepare(config, Worker(), Node(), Exchange(), None)  # one node
    assert len(prepared.cache_notes) == 2
    for index in range(len(prepared.train_loader.store)):
        prepared.train_loader.store.read(index)
    assert not list(tmp_path.glob("cache/*/*.tar"))


def test_a_training_whose_shards_do_not_fit_says_so_and_reads_the_rest(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG_DIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VGG_DIST_CACHE_SIZE", "70000")
    config = replace(SMALL, data=f"local://{small_shards}", storage_path=str(tmp_path)).resolved()
    prepared = prepare(config, Worker(), Node(), Exchange(), None)
    held = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*/*.tar"))
    assert 0 < held <= 70_000
    total = sum(path.stat().st_size for path in small_shards.glob("train-*.tar"))
    held_of_train = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*/train-*.tar"))
    (note,) = prepared.cache_notes
    assert note.startswith(
        f"train: {held_of_train / 1e3:.1f} kB of {total / 1e3:.1f} kB of shards are in this node's cache "
        f"(VGG_DIST_CACHE_SIZE is 70.0 kB, in {tmp_path}/cache)"
    )
    local = open_store(str(small_shards), "train")
    store = prepared.train_loader.store
    assert [store.read(index) for index in range(len(store))] == [local.read(index) for index in range(len(local))]
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*/*.tar")) == held


@pytest.mark.parametrize("limit", [0, 60_000, 10**9])
def test_a_training_in_blocks_copies_shards_as_it_goes_and_is_the_same_with_any_cache(
    limit: int, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(data: str) -> list[float]:
        config = replace(SMALL, data=data, storage_path=str(tmp_path), shuffle="blocks", max_steps=None, epochs=2).resolved()
        prepared, found = prepare(config, Worker(), Node(), Exchange(), None), []
        assert not list(tmp_path.glob("cache/*/*.tar"))  # nothing is copied before the first epoch
        report = lambda metrics, save: found.extend(value for name, value in metrics.items() if "loss" in name)  # noqa: E731
        Trainer(prepared.config, prepared.state, prepared.train_loader, prepared.val_loader, Worker(), report).run()
        return found

    expected = losses(str(small_shards))
    monkeypatch.setenv("VGG_DIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VGG_DIST_CACHE_SIZE", str(limit))
    assert losses(f"local://{small_shards}") == expected
    held = sum(path.stat().st_size for path in tmp_path.glob("cache/*/*.tar"))
    assert held <= limit
    assert (held > 0) == (limit > 0)


def test_blocks_of_data_without_shards_are_refused() -> None:
    config = replace(SMALL, shuffle="blocks").resolved()
    with pytest.raises(TrainingError, match=r"--shuffle blocks: --data synthetic has no shards"):
        prepare(config, Worker(), Node(), Exchange(), None)


@pytest.mark.parametrize("shuffle", ["full", "blocks"])
def test_a_cache_that_cannot_be_written_is_told_before_the_first_epoch(
    shuffle: Any, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("VGG_DIST_CACHE", str(tmp_path / "cache"))
    config = replace(SMALL, data=f"local://{small_shards}", shuffle=shuffle).resolved()
    with pytest.raises(
        TrainingError, match=rf"{tmp_path}/cache/[^\n]* cannot be written \([^\n]*VGG_DIST_CACHE can name another"
    ):
        prepare(config, Worker(), Node(), Exchange(), None)
    monkeypatch.setenv("VGG_DIST_CACHE_SIZE", "0")  # then nothing is written
    prepare(config, Worker(), Node(), Exchange(), None)
