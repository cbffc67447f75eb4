"""What a worker tells of its training: records every few seconds, and checkpoints, which a thread writes meanwhile.

A checkpoint is the state at one step, copied on the device; the first worker's thread writes it. It is reported once it is
whole on the storage, with whichever report comes next. So a worker that dies meanwhile costs what was trained since the
checkpoint before; nothing else is lost or told twice, as the records since then are computed again.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from vgg_dist.metric_names import without_trivial_top5
from vgg_dist.run_folder.names import checkpoint_name
from vgg_dist.startup_marks import mark
from vgg_dist.tracking import SystemSampler
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.state import Snapshot, TrainState
from vgg_dist.training.trainer import Trainer
from vgg_dist.worker.background_writer import BackgroundWriter
from vgg_dist.worker.exchange import Exchange
from vgg_dist.worker.setup import Node, Prepared

REPORT_EVERY_S = 5.0  # a report makes all workers wait for each other and for the controller

Send = Callable[[dict[str, Any], Any], None]
"""Called by all workers with what each has to say; by the first also with a checkpoint that `Store` returned, or None."""
Store = Callable[[str, Callable[[Path], None]], Any]
"""Makes a folder of this name with the files that the function puts into a local one. OSError where that fails."""


class Reporter:
    """The engine's Report."""

    def __init__(
        self,
        worker: Worker,
        node: Node,
        exchange: Exchange,
        prepared: Prepared,
        send: Send,
        store: Store,
        notes: list[str] | None = None,
    ) -> None:
        """`notes`: what is to be said of the start, once."""
        self.worker = worker
        self.exchange = exchange
        self.prepared = prepared
        self.send = send
        self.store = store
        self.notes = notes or []
        self.trainer: Trainer | None = None
        self.records: list[dict[str, Any]] = []
        self.unsaved: list[dict[str, Any]] = []
        """The records since the last checkpoint, which the next one keeps."""
        self.validation: dict[str, float] = {}
        self.last_report = time.monotonic()
        self.writer: BackgroundWriter[Any] = BackgroundWriter()  # only the first worker's ever works
        self.written_step = 0
        self.spare: Snapshot | None = None
        self.found: Any = None
        """The checkpoint that the run goes on from, where it was not heard of before."""
        one_node = node.workers == worker.world_size
        self.sampler = SystemSampler(None if one_node else socket.gethostname()) if node.rank == 0 else None

    def __call__(self, metrics: dict[str, float], save: bool) -> None:
        """Called by all workers with the same metrics. ValueError on all of them if the storage takes no checkpoint."""
        assert self.trainer is not None
        mark("first step done")
        metrics = without_trivial_top5(metrics, len(self.prepared.class_names))
        self.validation |= {key: value for key, value in metrics.items() if key.startswith("val/")}
        if metrics:
            record = {"step": self.trainer.state.step, "time": time.time(), "metrics": metrics}
            self.records.append(record)
            self.unsaved.append(record)
        if save:
            self._save()
        elif self._first(time.monotonic() - self.last_report > REPORT_EVERY_S).due:
            self._report(self.writer.take())

    def catch_up(self) -> None:
        """Reports what the checkpoint kept, and itself: its writer may have been killed before that was heard of.

        MLflow is not sent a step twice (see `Outbox`).
        """
        kept = self.prepared.kept
        for record in kept:
            validated = {key: value for key, value in record["metrics"].items() if key.startswith("val/")}
            self.validation |= without_trivial_top5(validated, len(self.prepared.class_names))
        if kept or self.found is not None:
            found = None if self.worker.rank else self.found
            self.send({"records": [], "earlier": kept, "system": {}, "done": False, "notes": self.notes}, found)
            self.notes = []

    def close(self) -> None:
        """Reports what is not reported yet, once it is written: for a training that all workers end."""
        if self.writer.error is None:
            self.writer.wait()
        if self._first(check=False).written or self.records:
            self._report(self.writer.take())

    def _first(self, due: bool = False, check: bool = True) -> _OfFirst:
        """Rank 0's clock decides for all. ValueError on all workers if the storage did not take its checkpoint."""
        self.writer.check()
        first = _OfFirst(*map(bool, self.exchange.of_first(due, self.writer.error is not None, self.writer.has_written)))
        if first.failed and check:
            self._report(None)  # the metrics are not lost
            raise ValueError(self.exchange.gather(self.storage_error)[0])
        return first

    @property
    def storage_error(self) -> str:
        """Why the last checkpoint is not written, on the first worker; empty where it is."""
        if self.writer.error is None:
            return ""
        storage = self.prepared.config.storage_path
        return f"--storage-path {storage}: checkpoint of step {self.written_step} not written: {self.writer.error}"

    def _save(self) -> None:
        """Begins to write a checkpoint, once the one before is written. The last one is written when this returns."""
        assert self.trainer is not None
        self.writer.wait()
        earlier = self._first().written
        checkpoint = self.writer.take()
        self._start_writing(self.trainer.state)
        if earlier or not self.trainer.done:
            self._report(checkpoint)
        if self.trainer.done:
            self.writer.wait()
            self._first()
            self._report(self.writer.take(), done=True)

    def _start_writing(self, state: TrainState) -> None:
        records, self.unsaved = self.unsaved, []
        if self.worker.rank:
            return
        config, class_names, store = self.prepared.config, self.prepared.class_names, self.store
        snapshot, self.written_step = state.snapshot(self.spare), state.step
        self.spare = snapshot if self.worker.device.type == "cpu" else None

        def files(folder: Path) -> None:
            snapshot.write(folder, config, class_names, records)

        def write(name: str = checkpoint_name(state.step)) -> Any:
            snapshot.to_cpu()
            return store(name, files)

        self.writer.start(write)

    def _report(self, checkpoint: Any, done: bool = False) -> None:
        system = self.sampler.sample() if self.sampler else {}
        self.send({"records": self.records, "system": system, "done": done, "notes": self.notes}, checkpoint)
        self.records, self.notes = [], []
        self.last_report = time.monotonic()


class _OfFirst(NamedTuple):
    """What the first worker says: whether a report is due, and how its writing of checkpoints went."""

    due: bool
    failed: bool
    written: bool
