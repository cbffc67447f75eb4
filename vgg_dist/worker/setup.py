"""What a worker sets up before it trains: data, net, the last checkpoint, loaders; with no collective but the outcome's.

Something may be wrong on one node only. So each step is taken by all workers, and the next one once all of them know that it
went well everywhere; DDP, whose making is a collective, comes after that.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.loading.loader import Loader
from pipelines.stores.class_checks import notes
from pipelines.stores.open import open_splits
from pipelines.stores.sample_store import SampleStore
from vgg_dist.config import TrainSettings, WorkerSettings
from vgg_dist.run_folder.digests import DamagedCheckpoint
from vgg_dist.training.data import check_images, open_loaders
from vgg_dist.training.memory import default_micro_batch, explained_memory_errors
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.state import TrainState, build_state
from vgg_dist.weights.checkpoint import read_records
from vgg_dist.worker.copy_progress import telling_progress
from vgg_dist.worker.exchange import Exchange

SavedFolder = Callable[[], AbstractContextManager[Path]]
"""Gives the checkpoint that the run goes on from, as a local folder."""


@dataclass(frozen=True)
class Node:
    """Which of how many workers of its node this one is."""

    rank: int = 0
    workers: int = 1


@dataclass(frozen=True)
class Prepared:
    """What `engine.Trainer` needs.

    `config` has a --micro-batch. `kept`: the records in the checkpoint that the run goes on from. `passed_over`: one line
    for each later checkpoint, which is damaged. `remarks`: what of the data is left out.
    """

    config: WorkerSettings
    state: TrainState
    train_loader: Loader
    val_loader: Loader
    class_names: list[str]
    kept: list[dict[str, Any]] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def prepare(
    config: TrainSettings,
    worker: Worker,
    node: Node,
    exchange: Exchange,
    saved: SavedFolder | None,
    earlier: Mapping[str, SavedFolder] | None = None,
) -> Prepared:
    """Sets up this worker's part. Raises, on all workers alike, as `Exchange.together`.

    The default of --micro-batch is what the smallest GPU takes. `earlier`: the checkpoints before `saved` by name, latest
    first; the first of them that is whole on all workers is taken where `saved` is damaged on one.
    """

    def data_and_room() -> tuple[SampleStore, SampleStore, int]:
        train, val = _open_data(config, worker, node)
        fits = default_micro_batch(config, len(train.class_names), worker.device, worker.world_size)
        return train, val, config.micro_batch or fits

    train, val, fits = exchange.together(data_and_room)
    agreed = config.with_micro_batch(min(exchange.gather(fits)))

    known = earlier or {}
    listed = exchange.gather(list(known))  # a storage may show one worker more than another
    names = [name for name in known if all(name in theirs for theirs in listed)]
    folders = [saved, *(known[name] for name in names)]

    def restore() -> _Restored:
        with explained_memory_errors(agreed, len(train.class_names), worker.device, worker.world_size):
            return _restore(agreed, worker, train.class_names, folders[0], last=len(folders) == 1)

    passed_over: list[str] = []
    while True:
        restored = exchange.together(restore)
        damages = [damage for damage in exchange.gather(restored.damage) if damage]
        if not damages:
            break
        del restored  # its net, before the next is made
        folders.pop(0)
        passed_over.append(f"{damages[0]}; {names[len(passed_over)]} is taken")

    def build() -> Prepared:
        with explained_memory_errors(agreed, len(train.class_names), worker.device, worker.world_size):
            assert restored.state is not None
            loaders = open_loaders(agreed, worker, train, val)
            said = notes("train", train) + notes("val", val)
            return Prepared(agreed, restored.state, *loaders, train.class_names, restored.kept, passed_over, said)

    return exchange.together(build)


def _open_data(config: TrainSettings, worker: Worker, node: Node) -> tuple[SampleStore, SampleStore]:
    train, val = open_splits(config.data, quarantine=config.quarantine)
    check_images(config, len(train), len(val), worker.world_size)
    # Batches are of images from all over: the first would wait for almost every shard.
    with telling_progress([train, val] if node.rank == 0 else [], f"worker {worker.rank}, on {socket.gethostname()},"):
        for store in (train, val):
            store.prefetch(node.rank, node.workers)
    return train, val


@dataclass(frozen=True)
class _Restored:
    """The run as a checkpoint, or no checkpoint, has it; without a state, why the checkpoint cannot be read."""

    state: TrainState | None
    kept: list[dict[str, Any]]
    damage: str = ""


def _restore(
    config: TrainSettings, worker: Worker, class_names: list[str], saved: SavedFolder | None, last: bool
) -> _Restored:
    """`last`: there is no other checkpoint, so that a damaged one is an error."""
    state = build_state(config, len(class_names), worker.device)
    if saved is None:
        return _Restored(state, [])
    with saved() as folder:
        try:
            state.restore(folder, config, class_names)
            return _Restored(state, read_records(folder))
        except DamagedCheckpoint as error:
            if last:
                raise
            return _Restored(None, [], str(error))
