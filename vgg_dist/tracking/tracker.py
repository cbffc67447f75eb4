"""The way of a run's metrics to MLflow."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vgg_dist.storage import beside
from vgg_dist.tracking.outbox import Outbox, Record
from vgg_dist.tracking.run import TrackedRun
from vgg_dist.tracking.store import METRICS_A_REQUEST, connect, split
from vgg_dist.tracking.system_metrics import SystemSampler

if TYPE_CHECKING:
    from mlflow import MlflowClient

BACKLOG_FILE = "mlflow_backlog.jsonl"
UNSENT_WITH_SYSTEM_METRICS = 1000  # those of a longer outage are not worth keeping


class Tracker(Outbox):
    """Sends a run's metrics in the background; see `Outbox` for what it does while the server is away.

    Samples the machine it works on every `system_metrics_s` seconds (None: never). Picklable; a copy starts afresh.
    """

    def __init__(self, run: TrackedRun, system_metrics_s: float | None = 10) -> None:
        super().__init__(_RunMetrics(run), beside(run.folder, BACKLOG_FILE))
        self.run = run
        self.system_metrics_s = system_metrics_s
        self._sampler: threading.Thread | None = None
        self._sampled_enough = threading.Event()

    def __reduce__(self) -> tuple[type[Tracker], tuple[TrackedRun, float | None]]:
        return Tracker, (self.run, self.system_metrics_s)

    def log(self, records: Sequence[Record]) -> None:
        """Queue `records`; see `Outbox.log`."""
        super().log(records)
        if self.system_metrics_s is not None and self._sampler is None:
            self._sampler = threading.Thread(
                target=self._sample, args=(self.system_metrics_s,), name="system-metrics", daemon=True
            )
            self._sampler.start()

    def close(self, wait_s: float) -> int:
        """Stop sampling, then send what is queued; see `Outbox.close`."""
        self._sampled_enough.set()
        if self._sampler is not None:
            self._sampler.join()
        return super().close(wait_s)

    def _sample(self, every_s: float) -> None:
        sampler = SystemSampler()
        while not self._sampled_enough.wait(every_s):
            if self.unsent < UNSENT_WITH_SYSTEM_METRICS:
                now = time.time()
                super().log([{"step": int(now - self.run.start_time), "time": now, "metrics": sampler.sample()}])


class _RunMetrics:
    """The metrics of one run: the tracker's `MetricStore`."""

    def __init__(self, run: TrackedRun) -> None:
        self.run = run
        self._client: MlflowClient | None = None

    def last_steps(self) -> dict[str, int]:
        """One request: a run carries the latest point of each metric (`run.data.metrics` leaves its step out)."""
        return {metric.key: metric.step for metric in self._connected().get_run(self.run.run_id).data.to_proto().metrics}

    def write(self, records: Sequence[Record]) -> None:
        """A database takes a request as one transaction, and skips a point that it has already."""
        from mlflow.entities import Metric

        points = [
            Metric(name, value, timestamp=round(1000 * record["time"]), step=record["step"])
            for record in records
            for name, value in record["metrics"].items()
        ]
        for request in split(points, METRICS_A_REQUEST):
            self._connected().log_batch(self.run.run_id, metrics=request, synchronous=True)

    def _connected(self) -> MlflowClient:
        self._client = self._client or connect(self.run.tracking_uri)
        return self._client
