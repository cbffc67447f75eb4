"""Sets up a worker before it trains: data, net, last checkpoint, loaders.

Something may be wrong on one node only. So all workers run each step and agree that it succeeded everywhere before they
start the next (`Exchange.run_on_all`). DDP, whose construction is a collective call, comes after that, in the Trainer.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines.loading.loader import Loader
from pipelines.loading.shard_order import check_shuffle
from pipelines.stores.class_checks import notes
from pipelines.stores.open import open_splits
from pipelines.stores.sample_store import SampleStore
from vgg_dist.config import TrainSettings, WorkerSettings
from vgg_dist.metric_names import Record
from vgg_dist.run_folder.digests import DamagedCheckpoint
from vgg_dist.training.data import check_images, open_loaders
from vgg_dist.training.layout import choose_group
from vgg_dist.training.memory import default_micro_batch, explained_memory_errors
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.state import TrainState, build_state
from vgg_dist.weights.checkpoint import read_records
from vgg_dist.worker.copy_progress import cache_note, cache_use, pays_to_copy, report_copying
from vgg_dist.worker.exchange import Exchange

SavedFolder = Callable[[], AbstractContextManager[Path]]
"""Opens a checkpoint as a local folder."""


@dataclass(frozen=True)
class Node:
    """This worker's rank among the workers of its node, and how many they are."""

    rank: int = 0
    workers: int = 1


@dataclass(frozen=True)
class Prepared:
    """What the Trainer needs.

    `config` has a --micro-batch, and `worker` says how many workers share the FC layers. `earlier_records`: those in the
    checkpoint that the run resumes from. `passed_over`: one line for each damaged checkpoint that was skipped. `remarks`:
    lines about data that is left out. `cache_notes`: lines about shards that are not in the node's cache. `layout_note`: a
    line about --fc-parallel, or empty.
    """

    config: WorkerSettings
    worker: Worker
    state: TrainState
    train_loader: Loader
    val_loader: Loader
    class_names: list[str]
    earlier_records: list[Record] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    cache_notes: list[str] = field(default_factory=list)
    layout_note: str = ""


def prepare(
    config: TrainSettings,
    worker: Worker,
    node: Node,
    exchange: Exchange,
    saved: SavedFolder | None,
    earlier: Mapping[str, SavedFolder] | None = None,
) -> Prepared:
    """Sets up this worker. A collective call; raises on all workers alike, as `Exchange.run_on_all` does.

    --micro-batch defaults to what the smallest GPU can take. `saved`: the checkpoint to resume from. `earlier`: the
    checkpoints before it by name, latest first; if `saved` is damaged on any worker, the first of them that is whole on all
    is used.
    """

    train, val = exchange.run_on_all(lambda: _open_data(config, worker, node))
    num_classes = len(train.class_names)
    # Rank 0 decides, as nodes may have different numbers of workers.
    fc_workers, layout_note = exchange.gather(exchange.run_on_all(lambda: choose_group(config, num_classes, worker)))[0]
    worker = replace(worker, fc_workers=fc_workers)
    fits = exchange.run_on_all(lambda: config.micro_batch or default_micro_batch(config, num_classes, worker))
    agreed = config.with_micro_batch(min(exchange.gather(fits)))

    restored, passed_over = _restore_newest(agreed, worker, exchange, train.class_names, saved, earlier or {})

    def build() -> Prepared:
        with explained_memory_errors(agreed, num_classes, worker):
            assert restored.state is not None
            loaders = open_loaders(agreed, worker, train, val)
            said = notes("train", train) + notes("val", val)
            stores = (("train", train), ("val", val)) if config.shuffle == "full" else ()
            cached = [note for split, store in stores if (note := cache_note(split, store))]
            state, records, names = restored.state, restored.records, train.class_names
            return Prepared(agreed, worker, state, *loaders, names, records, passed_over, said, cached, layout_note)

    return exchange.run_on_all(build)


def _open_data(config: TrainSettings, worker: Worker, node: Node) -> tuple[SampleStore, SampleStore]:
    train, val = open_splits(config.data, quarantine=config.quarantine)
    check_images(config, len(train), len(val), worker.world_size)
    check_shuffle(config.shuffle, train, config.data)
    for store in (train, val):
        store.open_cache()
    # In a full shuffle a batch has images from all over the data, so the first one would wait for almost every shard.
    use, nodes = cache_use([train, val]), -(-worker.world_size // node.workers)
    if config.shuffle == "full" and pays_to_copy(use.total, use.capacity, nodes, config.epochs):
        with report_copying([train, val] if node.rank == 0 else [], f"worker {worker.rank}, on {socket.gethostname()},"):
            for store in (val, train):  # if not all fit, those of val do: they are fewer, and are read in every epoch
                store.prefetch(node.rank, node.workers)
    if config.shuffle == "full":
        train.stop_copying()  # a whole shard for one image, which would displace another one
    return train, val


@dataclass(frozen=True)
class _Restored:
    """The state from a checkpoint, or of a new run; if `state` is None, `damage` says why the checkpoint cannot be read."""

    state: TrainState | None
    records: list[Record]
    damage: str = ""


def _restore_newest(
    config: WorkerSettings,
    worker: Worker,
    exchange: Exchange,
    class_names: list[str],
    saved: SavedFolder | None,
    earlier: Mapping[str, SavedFolder],
) -> tuple[_Restored, list[str]]:
    """The state from the newest checkpoint that is whole on all workers, and a line for each newer one. See `prepare`."""
    listed = exchange.gather(list(earlier))  # a storage may show one worker more than another
    names = [name for name in earlier if all(name in theirs for theirs in listed)]
    folders = [saved, *(earlier[name] for name in names)]
    passed_over: list[str] = []

    def restore() -> _Restored:
        with explained_memory_errors(config, len(class_names), worker):
            return _restore(config, worker, class_names, folders[0], last=len(folders) == 1)

    while True:
        restored = exchange.run_on_all(restore)
        damages = [damage for damage in exchange.gather(restored.damage) if damage]
        if not damages:
            return restored, passed_over
        del restored  # frees its net before the next one is built
        folders.pop(0)
        passed_over.append(f"{damages[0]}; {names[len(passed_over)]} is used instead")


def _restore(
    config: TrainSettings, worker: Worker, class_names: list[str], saved: SavedFolder | None, last: bool
) -> _Restored:
    """`last`: there is no other checkpoint to fall back on, so a damaged one is an error."""
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
