"""Metrics on their way to a server that may be gone for a while: the training never waits, and nothing is sent twice.

An `Outbox` takes records, and a background thread sends them in order. While the server is away they queue; `persist`,
called at every checkpoint, writes the queue to a JSON-lines file beside the run, so a kill in the middle of an outage
loses only what the resumed training computes again. A step counts as sent, per metric name, when the server has that
step or a later one: re-computed steps, and requests whose answer got lost, do not show up twice.
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
    """Where records go. Both methods may raise anything; the outbox then tries again later."""

    def last_steps(self) -> dict[str, int]:
        """The last step the store has of each metric."""

    def write(self, records: Sequence[Record]) -> None:
        """Store the records; each metric's steps ascend."""


class Outbox:
    """Records in the order they came, sent by a thread that starts at first use; `backlog` is a path or URL."""

    def __init__(self, store: MetricStore, backlog: str) -> None:
        self.store = store
        self.backlog = backlog
        self._pending: deque[Record] = deque()
        self._accepted: dict[str, int] = {}  # the last step taken in, per metric
        self._changed = threading.Condition()  # guards everything below and above
        self._sender: threading.Thread | None = None
        self._draining = self._closed = False
        self._backlog_written = False

    def log(self, records: Sequence[Record]) -> None:
        """Queue `records`; a metric's step at or below an earlier one of the same metric is left out.

        Never waits for the server and never raises for it. RuntimeError after `close`.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("log() after close()")
            self._start()
            self._accept(records)
            self._changed.notify_all()

    def persist(self) -> None:
        """Write what is not sent yet to the backlog file, in one piece; an empty queue removes the file."""
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
        """Wait until what is queued is sent, at most `wait_s` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending, timeout=wait_s)

    def close(self, wait_s: float) -> int:
        """Send what is queued, in at most `wait_s` seconds; the rest goes to the backlog. Returns how many that is."""
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
        """Number of records waiting."""
        return len(self._pending)

    def _start(self) -> None:
        """Take in the backlog of an earlier start and start the sender, once."""
        if self._sender is None:
            self._accept(self._read_backlog())
            self._sender = threading.Thread(target=self._send, name="metrics-sender", daemon=True)
            self._sender.start()

    def _accept(self, records: Sequence[Record]) -> None:
        for record in records:
            fresh = _newer(record, self._accepted)
            self._accepted.update(dict.fromkeys(fresh["metrics"], fresh["step"]))
            if fresh["metrics"]:
                self._pending.append(fresh)

    def _read_backlog(self) -> list[Record]:
        records: list[Record] = []
        try:
            lines = (read_file(self.backlog) or b"").splitlines()
            self._backlog_written = bool(lines)
            records.extend(json.loads(line) for line in lines)
        except Exception as error:  # lost storage, or a line cut short: what could be read is sent all the same
            _logger.warning("cannot read all unsent metric records in %s", masked(f"{self.backlog}: {error}"))
        return records

    def _send(self) -> None:
        stored: dict[str, int] | None = None  # None: not known, ask the store
        delay = FIRST_RETRY_S
        while batch := self._next_batch():
            try:
                stored = self.store.last_steps() if stored is None else stored
                fresh = [record for record in (_newer(record, stored) for record in batch) if record["metrics"]]
                if fresh:
                    self.store.write(fresh)
            except Exception as error:  # whatever the server does, training goes on
                if delay == FIRST_RETRY_S:
                    _logger.warning("metrics are kept and sent later: %s", reason(error))
                stored = None  # the answer may have got lost after the store took the records
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
        """The oldest records, as soon as there are any; empty when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closed)
            return [] if self._closed else list(islice(self._pending, RECORDS_AT_ONCE))

    def _pause(self, seconds: float) -> None:
        """Wait before the next try: not beyond a `close`, whose caller waits, and in it no longer than a second."""
        with self._changed:
            draining = self._draining
            self._changed.wait_for(
                lambda: self._closed or self._draining is not draining,
                timeout=min(seconds, 1.0) if draining else seconds,
            )


def _newer(record: Record, last_steps: dict[str, int]) -> Record:
    """The record less the metrics whose last step it does not pass."""
    step = int(record["step"])
    metrics = {name: float(value) for name, value in record["metrics"].items() if step > last_steps.get(name, -1)}
    return {"step": step, "time": record["time"], "metrics": metrics}
