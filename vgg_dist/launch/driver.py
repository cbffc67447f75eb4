"""Launches one training with Ray Train and records it in MLflow.

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

from pipelines import signals
from pipelines.secrets import masked
from vgg_dist.config import TrainSettings
from vgg_dist.config.worker_range import WorkerRange
from vgg_dist.errors import Interrupted, NonFinite
from vgg_dist.launch.controller import ReportCallback
from vgg_dist.launch.group_watch import GroupWatch
from vgg_dist.launch.prometheus import Gauges
from vgg_dist.launch.ray_train import BEFORE, build_trainer, fit, raise_if_stopped, resumes
from vgg_dist.launch.run_record import keep_model, open_training, send_all_metrics, send_last_metrics
from vgg_dist.launch.terminal import say, shown_lines
from vgg_dist.preflight import check_training
from vgg_dist.ray_cluster.job_lines import Line, LineSender, put_lines
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.ray_cluster.lost_ray import watched_cluster
from vgg_dist.ray_cluster.nodes import describe_workers, worker_resources
from vgg_dist.ray_cluster.stacks import allow_dumps
from vgg_dist.ray_cluster.start import start_ray
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.run_folder.outcome import Earlier, describe_outcome, read_best, write_outcome
from vgg_dist.run_folder.settings import keep_settings
from vgg_dist.startup_marks import mark
from vgg_dist.tracking import TrackedRun, finish_run, recorded, ui_hint
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
    """Runs a training, `config` being resolved, to its end; returns the last validation metrics, and the epoch.

    A finished run is not run again. `class_names`: the data's, where they are known. ValueError for settings or data that do
    not work, before anything is started or changed; TrainingError for a run that failed.
    """
    launch = _Launch(config, options)
    if (earlier := check_training(launch.config, class_names)) is not None:
        launch.say(_of_earlier(launch.config, earlier))
        if earlier.outcome is not None and earlier.is_all(launch.config):
            return earlier.outcome["metrics"]
    launch.connect()
    with signals.holding():  # from here on there is something to end in order
        run = launch.open_record()
        with recorded(run, quick=False) as ending:
            try:
                outcome = launch.conclude(run, launch.fit(run))
            except BaseException as error:
                send_last_metrics(run, error)
                raise
            if options is not None and options.is_paused(config, outcome["metrics"]):  # it may never be resumed
                ending.status, ending.note = "KILLED", f"stopped early at epoch {launch.config.epochs}"
        write_outcome(launch.config, outcome)
        launch.say(f"run {config.name} finished{describe_outcome(outcome)}\n{ui_hint(run)}")
    return outcome["metrics"]


class _Launch:
    """One start of a training, in three steps: `connect` and `open_record`, `fit`, `conclude`."""

    config: TrainSettings
    """With the epochs up to the next pause; once connected, with the number of workers."""
    resources: list[dict[str, float]]
    """What each worker reserves."""

    def __init__(self, full_config: TrainSettings, options: LaunchOptions | None) -> None:
        self.full_config = self.config = full_config
        self.options = options
        self.is_trial = options is not None and options.is_trial
        self.prefix = "" if options is None else f"{full_config.name}  "  # of each line, where several runs print
        if options is not None and options.pause_at_epoch is not None:
            self.config = replace(full_config, epochs=options.pause_at_epoch)

    def say(self, text: str) -> None:
        """Prints lines in the command. A trial says nothing."""
        if not text or self.is_trial:
            return
        text = masked(text)
        if self.options is None:
            say(f"vgg_dist.train: {text}")
        else:
            self._send([Line(self.prefix + line) for line in text.splitlines()])

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
        """Opens the MLflow run, and writes the settings to the run's folder: from here on the run can be resumed."""
        recorded_config = replace(self.config, epochs=self.full_config.epochs)
        run = open_training(recorded_config, self.options.parent if self.options else None)
        mark("MLflow run open")
        keep_settings(self.config.folder, self.full_config)
        signals.end_with(f"; {resumes(self.config.name)} from its last checkpoint")
        return run

    def fit(self, run: TrackedRun) -> ray.train.Result:
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
                    stack.enter_context(shown_lines())
                return fit(trainer, config, JobMessages(), self.say)
        except NonFinite:
            gauges.add("non_finite")
            raise
        finally:
            if self.options is not None:  # other runs of the command may go on, and their live lines stay
                self._send([Line("", is_live=True)])

    def conclude(self, run: TrackedRun, result: ray.train.Result) -> dict[str, Any]:
        """Completes the MLflow run of a training that came to its end. Returns what `outcome.json` is to hold."""
        outcome = result.return_value | {"checkpoint": result.checkpoint.path} | read_best(RunFolder(run.folder))
        try:
            with signals.raising():
                send_all_metrics(run)
                if not self.is_trial:
                    keep_model(run, self.config, result.checkpoint, outcome["step"])
        except signals.Stopped as stopped:
            how = f" after its last step; {resumes(self.config.name, 'finishes')}"
            raise Interrupted(signals.name_of(stopped.signum), how) from None
        return outcome

    def _send(self, lines: list[Line]) -> None:
        """Sends lines to the command that launched this process."""
        with contextlib.suppress(Exception):  # Ray's head may be away, which must not end a run
            put_lines(JobMessages(), self.config.name, lines)


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Runs in each worker. Returns {"metrics": ...}, or {"error": line} for a failure that a restart cannot fix.

    LeftGroup where the training goes on in another group of workers.
    """
    mark("workers up")
    from vgg_dist.worker.process import run_worker  # here, because DALI takes seconds to import, and only workers need it

    mark("worker imports done")
    allow_dumps()
    return raise_if_left(run_worker(TrainSettings.from_dict(settings)))


def _of_earlier(config: TrainSettings, earlier: Earlier) -> str:
    """Lines on a run that was begun before: finished, or resumed with other settings; empty if there is nothing to say."""
    changes = earlier.changes(config)
    if earlier.outcome is None or not earlier.is_all(config):
        return f"run {config.name} was begun with {changes}; it resumes with the new settings" if changes else ""
    finished = f"run {config.name} was finished before{describe_outcome(earlier.outcome)}"
    if changes:
        finished += f"\nthese numbers are of {changes}"
        finished += "\nanother --name trains with the new settings; more --epochs, or --max-steps, trains this run further"
    return finished
