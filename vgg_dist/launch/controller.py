"""What Ray Train's controller does with what the workers report: lines for people, metrics for MLflow and Prometheus."""

from __future__ import annotations

from typing import Any

import ray.train
from ray.train import Checkpoint

from pipelines.secrets import masked
from vgg_dist.config import TrainSettings
from vgg_dist.errors import TrainingError
from vgg_dist.launch.best_so_far import BestSoFar
from vgg_dist.launch.failures import describe_failures
from vgg_dist.launch.progress_lines import ProgressLines
from vgg_dist.launch.prometheus import Gauges
from vgg_dist.ray_cluster.job_lines import Line, LineSender
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.startup_marks import mark
from vgg_dist.tracking import TrackedRun, Tracker
from vgg_dist.training.stopping import training_key
from vgg_dist.worker.leaving import LeftGroup

FLUSH_WAIT_S = 10.0  # for a trial's metrics to reach MLflow: its search may end it after any validation
SERVER_WAIT_S = 30.0  # how long the end of a run waits for a tracking server that does not answer
LINES_WAIT_S = 2.0  # for the last lines to be sent


class ReportCallback(ray.train.UserCallback):
    """Runs on Ray Train's controller: passes reports on to the command's terminal, MLflow and Prometheus."""

    def __init__(
        self,
        run: TrackedRun,
        config: TrainSettings,
        lines: LineSender,
        gauges: Gauges,
        prefix: str = "",
        is_trial: bool = False,
    ) -> None:
        """`prefix`: in front of each line. A trial (`is_trial`) shows its failures only; its search shows the rest."""
        self.config = config
        self.lines = lines
        self.gauges = gauges
        self.prefix = prefix
        self.is_trial = is_trial
        self.tracker = Tracker(run)
        self.best = BestSoFar(run.folder)
        self.progress = ProgressLines(config.epochs, config.max_steps, prefix)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        mark("controller up")

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Takes the dictionaries that all workers reported, by rank.

        Rank 0's has notes, records, and `earlier`: records that a checkpoint kept for MLflow. Each has system metrics of
        its node.
        """
        first = metrics[0]
        if not self.is_trial:
            notes = [line for note in first.get("notes", []) for line in self.progress.of_note(note)]
            self.lines.send(notes + [line for record in first["records"] for line in self.progress.of_record(record)])
        self.tracker.log(self.best.added_to(first.get("earlier", []) + first["records"]))
        self.gauges.take(first["records"])
        for of_worker in metrics:
            if of_worker["system"]:
                self.tracker.log_system(of_worker["system"])
        if self.is_trial and any("val/loss" in record["metrics"] for record in first["records"]):
            self.tracker.flush(FLUSH_WAIT_S)
        if checkpoint is not None:
            self.tracker.persist()
        if first["done"]:
            self.lines.flush(LINES_WAIT_S)
            self.tracker.close(SERVER_WAIT_S)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """A worker failed: Ray Train starts the group again from the last checkpoint, or gives up.

        A worker raises TrainingError for what a restart cannot fix. Passed on as the controller's own error, it ends the run
        at once, with the other workers, which may wait for the failed one in a collective.
        """
        JobMessages().remove(training_key(self.config.name))
        worker_exceptions = {rank: error for rank, error in worker_exceptions.items() if not isinstance(error, LeftGroup)}
        if not worker_exceptions:  # `group_watch` or `elastic` has asked for it
            return
        self.gauges.add("worker_failures", len(worker_exceptions))
        for error in worker_exceptions.values():
            if isinstance(error, TrainingError):
                raise ray.train.ControllerError(error)
        self.lines.send([Line(self.prefix + masked(line)) for line in describe_failures(worker_exceptions)])
        self.lines.flush(LINES_WAIT_S)
