"""Reports a worker's records at intervals, and its checkpoints, which a thread writes in the background.

A checkpoint is a snapshot of the state at one step. Rank 0's thread writes it, and the next report after that has it. If a
worker dies meanwhile, training resumes from the checkpoint before; the records since then are computed again, so none is
lost or logged twice.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from vgg_dist.metric_names import Record, validation_metrics, without_trivial_top5
from vgg_dist.run_folder.names import checkpoint_name
from vgg_dist.startup_marks import mark
from vgg_dist.tracking import SystemSampler
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.state import Snapshot, TrainState
from vgg_dist.training.trainer import Trainer
from vgg_dist.worker.background_writer import BackgroundWriter
from vgg_dist.worker.exchange import Exchange
from vgg_dist.worker.setup import Node, Prepared
from vgg_dist.worker.slow_worker import SlowWorker

SYSTEM_EVERY_S = 5.0  # of system metrics, however often records are reported

Send = Callable[[dict[str, Any], Any], None]
"""Called by all workers with a payload; by rank 0 also with a checkpoint that `Store` returned, or None."""
Store = Callable[[str, Callable[[Path], None]], Any]
"""Writes a folder of this name, with the files that the function puts into a local one. OSError if that fails."""


class Reporter:
    """The Trainer's `Report`: collects records, sends them, and saves the state."""

    def __init__(
        self,
        worker: Worker,
        node: Node,
        exchange: Exchange,
        prepared: Prepared,
        send: Send,
        store: Store,
        report_every_s: float,
        notes: list[str] | None = None,
    ) -> None:
        """`notes`: lines about the start, which the first report prints."""
        self.worker = worker
        self.exchange = exchange
        self.prepared = prepared
        self.send = send
        self.store = store
        self.report_every_s = report_every_s
        self.notes = notes or []
        self.trainer: Trainer | None = None
        self.records: list[Record] = []
        self.unsaved: list[Record] = []
        """The records since the last checkpoint; the next one will contain them."""
        self.validation: dict[str, float] = {}
        self.last_report = -math.inf  # the first step is shown at once
        self.last_system = -math.inf
        self.writer: BackgroundWriter[Any] = BackgroundWriter()  # used on rank 0 only
        self.written_step = 0
        self.spare: Snapshot | None = None
        self.unreported: list[Any] = []
        """Checkpoints of earlier starts that were never reported: the one that the run resumed from is the last of them."""
        one_node = node.workers == worker.world_size
        self.slow_worker = SlowWorker(exchange.gather(socket.gethostname()))
        self.sampler = SystemSampler(None if one_node else socket.gethostname()) if node.rank == 0 else None

    def __call__(self, metrics: dict[str, float], save: bool) -> None:
        """Called by all workers with the same metrics. ValueError, on all of them, if a checkpoint could not be written."""
        assert self.trainer is not None
        mark("first step done")
        metrics = without_trivial_top5(metrics, len(self.prepared.class_names))
        self.validation |= validation_metrics(metrics)
        if note := self.slow_worker.note(metrics):
            self.notes.append(note)
        if metrics:
            record: Record = {"step": self.trainer.state.step, "time": time.time(), "metrics": metrics}
            self.records.append(record)
            self.unsaved.append(record)
        if save:
            self._save()
        elif self._agree(time.monotonic() - self.last_report > self.report_every_s).due:
            self._report(self.writer.take())

    def catch_up(self) -> None:
        """On resume, reports the records in the checkpoint, and the checkpoints that were never reported.

        A kill may have come before either was reported. Records that MLflow has already are not sent again (see `Outbox`).
        """
        earlier = self.prepared.earlier_records
        for record in earlier:
            self.validation |= without_trivial_top5(validation_metrics(record["metrics"]), len(self.prepared.class_names))
        # All records in the first report: with the last one older checkpoints are removed, and the records in them.
        for checkpoint in self.unreported or ([None] if earlier else []):
            written = None if self.worker.rank else checkpoint
            self.send({"records": [], "earlier": earlier, "system": {}, "done": False, "notes": self.notes}, written)
            earlier, self.notes = [], []

    def close(self) -> None:
        """Waits for the checkpoint that is being written, and reports what is left. All workers call it at the end."""
        if self.writer.error is None:
            self.writer.wait()
        if self._agree(check=False).written or self.records:
            self._report(self.writer.take())

    def _agree(self, due: bool = False, check: bool = True) -> _Rank0:
        """Rank 0's state, which decides for all workers. ValueError, on all, if its checkpoint could not be written."""
        self.writer.check()
        first = _Rank0(*map(bool, self.exchange.broadcast(due, self.writer.error is not None, self.writer.has_written)))
        if first.failed and check:
            self._report(None)  # the metrics are not lost
            raise ValueError(self.exchange.gather(self.storage_error)[0])
        return first

    @property
    def storage_error(self) -> str:
        """Why the last checkpoint was not written, on rank 0; empty if it was."""
        if self.writer.error is None:
            return ""
        storage = self.prepared.config.storage_path
        return f"--storage-path {storage}: checkpoint of step {self.written_step} not written: {self.writer.error}"

    def _save(self) -> None:
        """Starts writing a checkpoint once the one before is written; at the end of the training waits for it."""
        assert self.trainer is not None
        self.writer.wait()
        earlier = self._agree().written
        checkpoint = self.writer.take()
        self._start_writing(self.trainer.state)
        if earlier or not self.trainer.done:
            self._report(checkpoint)
        if self.trainer.done:
            self.writer.wait()
            self._agree()
            self._report(self.writer.take(), done=True)

    def _start_writing(self, state: TrainState) -> None:
        records, self.unsaved = self.unsaved, []
        if self.worker.rank and state.split is None:
            return
        snapshot, self.written_step = state.snapshot(self.spare), state.step
        if snapshot is None:
            return
        config, class_names, store = self.prepared.config, self.prepared.class_names, self.store
        self.spare = snapshot if self.worker.device.type == "cpu" else None

        def files(folder: Path) -> None:
            snapshot.write(folder, config, class_names, records)

        def write(name: str = checkpoint_name(state.step)) -> Any:
            snapshot.to_cpu()
            return store(name, files)

        self.writer.start(write)

    def _report(self, checkpoint: Any, done: bool = False) -> None:
        payload = {"records": self.records, "system": self._system(), "done": done, "notes": self.notes}
        self.send(payload, checkpoint)
        self.records, self.notes = [], []
        self.last_report = time.monotonic()

    def _system(self) -> dict[str, float]:
        """A sample of this node's system metrics where one is due, on the node's first worker."""
        now = time.monotonic()
        if self.sampler is None or now - self.last_system < SYSTEM_EVERY_S:
            return {}
        self.last_system = now
        return self.sampler.sample()


class _Rank0(NamedTuple):
    """The state of rank 0: whether a report is due, whether a checkpoint failed, whether one is written."""

    due: bool
    failed: bool
    written: bool
