"""Sends the metrics of a run to MLflow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vgg_dist.metric_names import Record
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.tracking.connection import METRICS_A_REQUEST, batches, connect
from vgg_dist.tracking.outbox import Outbox
from vgg_dist.tracking.run import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

UNSENT_WITH_SYSTEM_METRICS = 1000  # in a longer outage system metrics are dropped


class Tracker(Outbox):
    """Sends a run's metrics in the background; see `Outbox` for what happens while the server is down.

    Picklable; a copy starts with an empty queue and the backlog file.
    """

    def __init__(self, run: TrackedRun) -> None:
        super().__init__(_RunMetrics(run), RunFolder(run.folder).mlflow_backlog)
        self.run = run

    def __reduce__(self) -> tuple[type[Tracker], tuple[TrackedRun]]:
        return Tracker, (self.run,)

    def log_system(self, metrics: dict[str, float]) -> None:
        """Queues a sample of a SystemSampler, with the seconds since the run began as its step; dropped in a long outage."""
        if self.unsent < UNSENT_WITH_SYSTEM_METRICS:
            now = time.time()
            self.log([{"step": int(now - self.run.start_time), "time": now, "metrics": metrics}])


class _RunMetrics:
    """The `MetricStore` of one MLflow run."""

    def __init__(self, run: TrackedRun) -> None:
        self.run = run
        self._client: MlflowClient | None = None

    def last_steps(self) -> dict[str, int]:
        """One request: a run has the latest point of each metric (`run.data.metrics` omits its step)."""
        return {metric.key: metric.step for metric in self._connected().get_run(self.run.run_id).data.to_proto().metrics}

    def write(self, records: Sequence[Record]) -> None:
        """Sends the records. A database stores a request in one transaction, and skips points that it has already."""
        from mlflow.entities import Metric

        points = [
            Metric(name, value, timestamp=round(1000 * record["time"]), step=record["step"])
            for record in records
            for name, value in record["metrics"].items()
        ]
        for request in batches(points, METRICS_A_REQUEST):
            self._connected().log_batch(self.run.run_id, metrics=request, synchronous=True)

    def _connected(self) -> MlflowClient:
        self._client = self._client or connect(self.run.tracking_uri)
        return self._client
