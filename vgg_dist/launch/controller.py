"""What Ray Train's controller does with what the workers report: progress for people, metrics for MLflow and Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray.train
from ray.train import Checkpoint

from pipelines.failures import what_failed
from pipelines.secrets import masked
from vgg_dist.config import TrainSettings
from vgg_dist.errors import TrainingError
from vgg_dist.launch.best_so_far import BestSoFar
from vgg_dist.launch.prometheus import Gauges
from vgg_dist.launch.time_left import TimeLeft
from vgg_dist.metric_names import Record
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.startup_marks import mark
from vgg_dist.tracking import TrackedRun, Tracker
from vgg_dist.training.stopping import training_key

FLUSH_WAIT_S = 10.0  # for a trial's metrics to be logged: its search may end it at any validation
SERVER_WAIT_S = 30.0  # how long the end of a run waits for a tracking server that is away


class Monitor(ray.train.UserCallback):
    """Lives on Ray Train's controller: prints what is reported and passes it to MLflow and Prometheus."""

    def __init__(self, run: TrackedRun, config: TrainSettings, prefix: str | None, gauges: Gauges) -> None:
        """`prefix`: of each line; None for a trial, which prints none."""
        self.config = config
        self.gauges = gauges
        self.prefix = prefix
        self.tracker = Tracker(run)
        self.best = BestSoFar(run.folder)
        self.time_left = TimeLeft(config.epochs, config.max_steps)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        mark("controller up")

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Takes rank 0's notes and records, `earlier` ones that a checkpoint kept for MLflow, and how busy each node is."""
        if self.prefix is not None:
            for line in metrics[0].get("notes", []):
                print(self.prefix + line, flush=True)
            for record in metrics[0]["records"]:
                print(self.prefix + self._line(record), flush=True)
                if "loader_images_per_second" in record["metrics"]:
                    print(self.prefix + describe_limit(record["metrics"]), flush=True)
        self.tracker.log(self.best.added_to(metrics[0].get("earlier", []) + metrics[0]["records"]))
        self.gauges.take(metrics[0]["records"])
        for of_worker in metrics:
            if of_worker["system"]:
                self.tracker.log_system(of_worker["system"])
        if self.prefix is None and any("val/loss" in record["metrics"] for record in metrics[0]["records"]):
            self.tracker.flush(FLUSH_WAIT_S)
        if checkpoint is not None:
            self.tracker.persist()
        if metrics[0]["done"]:
            self.tracker.close(SERVER_WAIT_S)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """A worker failed: Ray Train starts the group again from the last checkpoint, or gives up.

        For what a restart does not mend a worker raises TrainingError. Passed on as the controller's own error, it ends the
        run at once: the other workers, which may wait for that one in a collective, are ended too.
        """
        self.gauges.add("worker_failures", len(worker_exceptions))
        JobMessages().remove(training_key(self.config.name))
        for error in worker_exceptions.values():
            if isinstance(error, TrainingError):
                raise ray.train.ControllerError(error)
        for line in describe_failures(worker_exceptions):
            print(f"{self.prefix or ''}{masked(line)}", flush=True)

    def _line(self, record: Record) -> str:
        """A record as a line for people."""
        values, step = record["metrics"], record["step"]
        if "val/loss" in values:
            self.time_left.interrupted()
            line = f"step {step:>6}  validation: loss {values['val/loss']:.3f}  top-1 error {values['val/top1_error']:.2f} %"
            if "val/top5_error" in values:  # not for five classes or fewer
                line += f"  top-5 error {values['val/top5_error']:.2f} %"
            return line
        line = (
            f"step {step:>6}  epoch {values['epoch']:6.2f}/{self.config.epochs}  loss {values['train/loss']:.3f}"
            f"  {values['images_per_second']:.1f} images/s  lr {values['lr']:.2g}"
        )
        if (left := self.time_left.after(step, values["epoch"], record["time"])) is not None:
            line += f"  {duration(left)} left"
        return line


def describe_limit(values: Mapping[str, float]) -> str:
    """Which of loader and step limits a training, from what each of them does alone."""
    loader, step = values["loader_images_per_second"], values["step_images_per_second"]
    short = "the loader limits: more CPUs a worker, shards, or nearer storage"
    limit = "the step limits" if loader >= step else short
    return f"loader {loader:.0f} images/s, step {step:.0f} images/s: {limit}"


def describe_failures(failures: Mapping[int, BaseException]) -> list[str]:
    """A line for each reason for which workers failed, with the ranks that give it."""
    ranks: dict[str, list[str]] = {}
    for rank, error in failures.items():
        # Ray wraps what ended a worker: its process's death, or an error that was raised in a call of it.
        cause = getattr(error, "health_check_failure", error)
        ranks.setdefault(what_failed(getattr(cause, "cause", None) or cause), []).append(str(rank))
    return [f"worker{'s' * (len(of) > 1)} {', '.join(of)} failed: {reason}" for reason, of in ranks.items()]


def root_cause(error: ray.train.TrainingFailedError) -> str:
    """One line for a run that Ray Train gave up."""
    if failures := getattr(error, "worker_failures", None):
        return describe_failures(failures)[0]
    cause = getattr(error, "controller_failure", error)
    return str(cause) if isinstance(cause, TrainingError) else what_failed(cause)


def duration(seconds: float) -> str:
    """3:07 or 2:03:07."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
