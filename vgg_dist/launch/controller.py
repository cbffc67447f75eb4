"""What Ray Train's controller does with what the workers report, and when one fails."""

from __future__ import annotations

from typing import Any

import ray.train
from ray.train import Checkpoint

from vgg_dist.errors import TrainingError
from vgg_dist.launch.failures import describe_failures
from vgg_dist.launch.reports import Reports
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.startup_marks import mark
from vgg_dist.training.stopping import training_key
from vgg_dist.worker.leaving import LeftGroup


class ReportCallback(Reports, ray.train.UserCallback):
    """Runs on Ray Train's controller: passes reports on to the command's terminal, MLflow and Prometheus."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        mark("controller up")

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """See `Reports.take`."""
        self.take(metrics, checkpoint is not None)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """A worker failed: Ray Train starts the group again from the last checkpoint, or gives up.

        A worker raises TrainingError for what a restart cannot fix. Passed on as the controller's own error, it ends the run
        at once, with the other workers, which may wait for the failed one in a collective.
        """
        JobMessages().remove(training_key(self.config.name))
        worker_exceptions = {rank: error for rank, error in worker_exceptions.items() if not isinstance(error, LeftGroup)}
        if not worker_exceptions:  # `group_watch` or `elastic` has asked for it
            return
        if self.gauges is not None:
            self.gauges.add("worker_failures", len(worker_exceptions))
        for error in worker_exceptions.values():
            if isinstance(error, TrainingError):
                raise ray.train.ControllerError(error)
        self.tell(describe_failures(worker_exceptions))
