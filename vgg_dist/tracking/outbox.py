"""Sends metrics to a server that may be down for a while: training never waits, and nothing is logged twice.

An `Outbox` queues records, and a background thread sends them in order. While the server is down they stay in the queue.
`persist`, called at every checkpoint, writes the queue to a JSON-lines file in the run's folder, so a kill during an outage
loses only what the resumed training computes again. For each metric, a step counts as sent if the server has that step or a
later one, so recomputed steps, and requests whose answer was lost, are not logged twice.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from pipelines.secrets import masked
from vgg_dist.metric_names import Record
from vgg_dist.storage import read_file, remove_file, replace_file
from vgg_dist.tracking.connection import reason

_logger = logging.getLogger(__name__)

RECORDS_AT_ONCE = 500
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 30.0


class MetricStore(Protocol):
    """Stores records. Both methods may raise anything; the outbox then retries later."""

    def last_steps(self) -> dict[str, int]:
        """Metric name -> the last step that is stored."""

    def write(self, records: Sequence[Record]) -> None:
        """Stores the records, in which the steps of each metric ascend."""


class Outbox:
    """A queue of records, sent in order by a thread that starts at first use. `backlog`: path or URL of its file."""

    def __init__(self, store: MetricStore, backlog: str) -> None:
        self.store = store
        self.backlog = backlog
        self._pending: deque[Record] = deque()
        self._accepted: dict[str, int] = {}  # metric name -> the last step that was queued
        self._changed = threading.Condition()  # guards everything below and above
        self._sender: threading.Thread | None = None
        self._draining = self._closed = False
        self._backlog_written = False

    def log(self, records: Sequence[Record]) -> None:
        """Queues `records`, without those metrics that were queued before for the same or a later step.

        Never waits for the server, and never raises because of it. RuntimeError after `close`.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("log() after close()")
            self._start()
            self._accept(records)
            self._changed.notify_all()

    def persist(self) -> None:
        """Writes the queue to the backlog file, atomically; removes the file if the queue is empty."""
        with self._changed:
            self._start()
            unsent = list(self._pending)
        try:
            if unsent:
                replace_file(self.backlog, "".join(json.dumps(record) + "\n" for record in unsent).encode())
            elif self._backlog_written:
                remove_file(self.backlog)
            self._backlog_written = bool(unsent)
        except Exception as error:  # a full disk or a lost bucket must not end the training
            _logger.warning("cannot write %d unsent metric records to %s", len(unsent), masked(f"{self.backlog}: {error}"))

    def flush(self, wait_s: float) -> None:
        """Waits until the queue is sent, at most `wait_s` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending, timeout=wait_s)

    def close(self, wait_s: float) -> int:
        """Sends the queue for at most `wait_s` seconds, writes the rest to the backlog, and returns their number."""
        with self._changed:
            self._start()
            self._draining = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._pending, timeout=wait_s)
        self.persist()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return len(self._pending)

    @property
    def unsent(self) -> int:
        """The number of records in the queue."""
        return len(self._pending)

    def _start(self) -> None:
        """Queues the backlog of an earlier start and starts the sender, once."""
        if self._sender is None:
            self._accept(self._read_backlog())
            self._sender = threading.Thread(target=self._send, name="metrics-sender", daemon=True)
            self._sender.start()

    def _accept(self, records: Sequence[Record]) -> None:
        for record in records:
            fresh = _unsent_part(record, self._accepted)
            self._accepted.update(dict.fromkeys(fresh["metrics"], fresh["step"]))
            if fresh["metrics"]:
                self._pending.append(fresh)

    def _read_backlog(self) -> list[Record]:
        records: list[Record] = []
        try:
            lines = (read_file(self.backlog) or b"").splitlines()
            self._backlog_written = bool(lines)
            records.extend(json.loads(line) for line in lines)
        except Exception as error:  # storage is down, or a line is incomplete: send what could be read
            _logger.warning("cannot read all unsent metric records in %s", masked(f"{self.backlog}: {error}"))
        return records

    def _send(self) -> None:
        stored: dict[str, int] | None = None  # None: unknown, ask the store
        delay = FIRST_RETRY_S
        while batch := self._next_batch():
            try:
                stored = self.store.last_steps() if stored is None else stored
                fresh = [record for record in (_unsent_part(record, stored) for record in batch) if record["metrics"]]
                if fresh:
                    self.store.write(fresh)
            except Exception as error:  # whatever the server does, training continues
                if delay == FIRST_RETRY_S:
                    _logger.warning("metrics are kept and sent later: %s", reason(error))
                stored = None  # the store may have the records although its answer was lost
                self._pause(delay)
                delay = min(2 * delay, LAST_RETRY_S)
                continue
            for record in fresh:
                stored.update(dict.fromkeys(record["metrics"], record["step"]))
            if delay > FIRST_RETRY_S:
                _logger.warning("metrics are being sent again, %d records were waiting", self.unsent)
                delay = FIRST_RETRY_S
            with self._changed:
                for _ in batch:
                    self._pending.popleft()
                self._changed.notify_all()

    def _next_batch(self) -> list[Record]:
        """Waits for records and returns the oldest ones; empty once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closed)
            return [] if self._closed else list(islice(self._pending, RECORDS_AT_ONCE))

    def _pause(self, seconds: float) -> None:
        """Waits before the next retry: until `close` is called at most, and during `close` at most a second."""
        with self._changed:
            draining = self._draining
            self._changed.wait_for(
                lambda: self._closed or self._draining is not draining,
                timeout=min(seconds, 1.0) if draining else seconds,
            )


def _unsent_part(record: Record, last_steps: dict[str, int]) -> Record:
    """The record without the metrics that `last_steps` has for its step or a later one."""
    step = int(record["step"])
    metrics = {name: float(value) for name, value in record["metrics"].items() if step > last_steps.get(name, -1)}
    return {"step": step, "time": record["time"], "metrics": metrics}
