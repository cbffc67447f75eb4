"""Launches one training with Ray Train.

`run_training` connects to Ray, opens the MLflow run and starts a TorchTrainer; each worker runs `train_worker`. What they
report goes to `controller.ReportCallback`, on Ray Train's controller, which sends progress lines back to the command.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from vgg_dist.ray_cluster.address import cluster_named

# How often Ray Train's controller looks for reports, and how long a group of workers may take to start. Its defaults of 2 s
# and 60 s cost a short run a third of its time, and are too little for a cold node. Read when ray.train is imported.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
# A worker's process that does not answer for two minutes hangs. Ray waits for ten.
os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "120")
if not cluster_named():
    # This machine is not preempted; the watcher for that is one more process to start, and prints an error here.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

import ray
import ray.train

from pipelines.secrets import masked
from vgg_dist.config import TrainSettings
from vgg_dist.config.worker_range import WorkerRange
from vgg_dist.errors import NonFinite
from vgg_dist.launch.controller import ReportCallback
from vgg_dist.launch.follow import BEFORE, raise_if_stopped, resumes
from vgg_dist.launch.group_watch import GroupWatch
from vgg_dist.launch.launch import Launch, Trained, run_launch
from vgg_dist.launch.prometheus import Gauges
from vgg_dist.launch.ray_train import build_trainer, fit
from vgg_dist.launch.run_record import open_training
from vgg_dist.launch.terminal import shown_lines
from vgg_dist.preflight import check_training
from vgg_dist.ray_cluster.job_lines import Line, LineSender, put_lines
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.ray_cluster.lost_ray import watched_cluster
from vgg_dist.ray_cluster.nodes import describe_workers, worker_resources
from vgg_dist.ray_cluster.stacks import allow_dumps
from vgg_dist.ray_cluster.start import start_ray
from vgg_dist.startup_marks import mark
from vgg_dist.tracking import TrackedRun, finish_run
from vgg_dist.worker.leaving import raise_if_left

DRIVER_MEMORY = 1e9  # bytes for `run_training` and Ray Train's controller, where a search or reproduction starts several


@dataclass(frozen=True)
class LaunchOptions:
    """For a training that a search or a reproduction launches, in a process of its own on the cluster."""

    parent: TrackedRun
    """The MLflow run that it is nested in."""
    resources: list[dict[str, float]]
    """What each worker reserves."""
    is_trial: bool = False
    """A trial of a search prints only its failures, and its net is not kept in MLflow."""
    pause_at_epoch: int | None = None
    """The epoch at which a trial pauses; a later launch with a later epoch resumes it."""
    callbacks: tuple[ray.train.UserCallback, ...] = ()
    """Further callbacks on Ray Train's controller."""

    def is_paused(self, config: TrainSettings, metrics: dict[str, float]) -> bool:
        """Whether a training with these last metrics has epochs left to train."""
        return self.pause_at_epoch is not None and metrics["epoch"] == self.pause_at_epoch < config.epochs


def run_training(
    config: TrainSettings, options: LaunchOptions | None = None, class_names: list[str] | None = None
) -> dict[str, float]:
    """Runs a training on Ray, `config` being resolved, to its end: see `launch.run_launch`.

    `class_names`: the data's, where they are known. ValueError for settings or data that do not work, before anything is
    started or changed.
    """
    launch = _Launch(config, options)
    return run_launch(launch, config, check_training(launch.config, class_names))


class _Launch(Launch):
    """A training on Ray. Its `config` has the epochs up to the next pause."""

    resources: list[dict[str, float]]
    """What each worker reserves."""

    def __init__(self, full_config: TrainSettings, options: LaunchOptions | None) -> None:
        super().__init__(full_config)
        self.full_config = full_config
        self.options = options
        self.is_trial = options is not None and options.is_trial
        self.prefix = "" if options is None else f"{full_config.name}  "  # of each line, where several runs print
        if options is not None and options.pause_at_epoch is not None:
            self.config = replace(full_config, epochs=options.pause_at_epoch)

    def say(self, text: str) -> None:
        """Prints lines in the command. A trial says nothing."""
        if self.options is None:
            super().say(text)
        elif text and not self.is_trial:
            self._send([Line(self.prefix + line) for line in masked(text).splitlines()])

    def connect(self) -> None:
        """Connects to Ray and finds room for the workers. Interrupted where the command was told to stop."""
        if self.options is None:
            self.say("starting Ray and its workers")
        start_ray()
        mark("Ray up")
        workers = self.config.num_workers
        if self.options:
            self.resources = self.options.resources
        elif isinstance(workers, WorkerRange):
            self.resources = worker_resources(workers.least, workers.most)
        else:
            self.resources = worker_resources(workers)
        self.config = self.config.with_workers(len(self.resources))
        raise_if_stopped(JobMessages(), BEFORE + resumes(self.config.name))

    def open_record(self) -> TrackedRun:
        """Opens the MLflow run, with the settings of the whole training."""
        recorded_config = replace(self.config, epochs=self.full_config.epochs)
        run = open_training(recorded_config, self.options.parent if self.options else None)
        mark("MLflow run open")
        return run

    def fit(self, run: TrackedRun) -> Trained:
        """Trains, and meanwhile shows progress. TrainingError for a failure, Interrupted for a stop."""
        config, name = self.config, self.config.name
        gauges = Gauges(name)
        report = ReportCallback(run, config, LineSender(name), gauges, self.prefix, self.is_trial)
        elastic = isinstance(config.num_workers, WorkerRange)
        watch = GroupWatch(name, config.folder, LineSender(name), self.prefix, elastic)
        callbacks = [report, watch, *(self.options.callbacks if self.options else ())]
        work = partial(train_worker, config.to_dict(secrets=True))
        trainer = build_trainer(config, self.resources, work, callbacks, self.prefix)
        steps = " steps" if str(config.log_every).isdecimal() else ""
        self.say(f"run {name}, {describe_workers(self.resources)}; metrics every {config.log_every}{steps}")
        try:
            with gauges.running(), contextlib.ExitStack() as stack:
                if self.options is None:  # else the command that launched this process does both
                    stack.enter_context(watched_cluster("vgg_dist.train", partial(finish_run, run, "FAILED")))
                    stack.enter_context(shown_lines(JobMessages()))
                result = fit(trainer, config, JobMessages(), self.say)
                return Trained(result.return_value, result.checkpoint.path)
        except NonFinite:
            gauges.add("non_finite")
            raise
        finally:
            if self.options is not None:  # other runs of the command may go on, and their live lines stay
                self._send([Line("", is_live=True)])

    def is_paused(self, metrics: dict[str, float]) -> bool:
        """Whether a later start trains the rest."""
        return self.options is not None and self.options.is_paused(self.full_config, metrics)

    def _send(self, lines: list[Line]) -> None:
        """Sends lines to the command that launched this process."""
        with contextlib.suppress(Exception):  # Ray's head may be away, which must not end a run
            put_lines(JobMessages(), self.config.name, lines)


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Runs in each worker. Returns {"metrics": ...}, or {"error": line} for a failure that a restart cannot fix.

    LeftGroup where the training goes on in another group of workers.
    """
    mark("workers up")
    from vgg_dist.worker.on_ray import run_on_ray  # here, because DALI takes seconds to import, and only workers need it

    mark("worker imports done")
    allow_dumps()
    return raise_if_left(run_on_ray(TrainSettings.from_dict(settings)))
