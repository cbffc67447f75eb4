"""A training seen from outside: the Ray cluster, the MLflow run, the TorchTrainer, and what it reports.

`run_training` opens the MLflow run and starts Ray Train; each worker runs `train_worker`; what the workers report reaches
`Monitor`, on Ray Train's controller, which prints progress and feeds MLflow.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from vgg_dist.ray_cluster.address import cluster_named

# How often Ray Train's controller looks for reports, and how long a group of workers may take to come up: its defaults of
# 2 s and 60 s cost a short run a third of its time, and are too little for a cold node. Read when ray.train is imported.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
if not cluster_named():
    # Nobody takes this machine away with notice; the watcher for that is one more process to start, and prints an error.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from pipelines import signals
from pipelines.secrets import masked
from vgg_dist.config import TrainSettings
from vgg_dist.errors import Interrupted, NonFinite
from vgg_dist.launch.controller import Monitor
from vgg_dist.launch.fitting import BEFORE, fit, refuse_stopped, resumes
from vgg_dist.launch.prometheus import Gauges
from vgg_dist.launch.run_record import end_record, keep_model, log_the_rest, open_training
from vgg_dist.preflight import check_training
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.ray_cluster.nodes import describe_workers, worker_resources
from vgg_dist.ray_cluster.start import start_ray
from vgg_dist.ray_cluster.watch import watched_cluster
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.run_folder.outcome import Earlier, describe_outcome, read_best, write_outcome
from vgg_dist.run_folder.settings import keep_settings
from vgg_dist.startup_marks import mark
from vgg_dist.storage import open_storage
from vgg_dist.tracking import TrackedRun, finish_run, ui_hint
from vgg_dist.worker.exchange import GRADIENTS_WAIT_S

DRIVER_MEMORY = 1e9  # bytes that this and Ray Train's controller take, where a training is a part of something


@dataclass(frozen=True)
class Part:
    """What a training is a part of: a search, of which it is a trial, or a programme of runs."""

    parent: TrackedRun
    resources: list[dict[str, float]]
    """What each worker reserves."""
    is_trial: bool = False
    """A trial prints nothing, and its net is not kept in MLflow."""
    until: int | None = None
    """The epoch at which a trial waits; it may go on later, with a later one."""

    def waits(self, config: TrainSettings, metrics: dict[str, float]) -> bool:
        """Whether a training that has come so far has more to train."""
        return self.until is not None and metrics["epoch"] == self.until < config.epochs

    callbacks: tuple[ray.train.UserCallback, ...] = ()


def run_training(config: TrainSettings, part: Part | None = None, class_names: list[str] | None = None) -> dict[str, float]:
    """Runs a training, `config` being resolved, to its end; returns the last validation metrics, and the epoch.

    One that has come to its end before is not run again. `class_names`: the data's, where they are known. ValueError for a
    setting or data that cannot be, before anything is started or changed; TrainingError for a run that failed.
    """
    silent = part is not None and part.is_trial
    whole = config
    if part is not None and part.until is not None:
        config = replace(config, epochs=part.until)
    if (earlier := check_training(config, class_names)) is not None:
        _say(silent, _of_earlier(config, earlier))
        if earlier.outcome is not None and earlier.is_all(config):
            return earlier.outcome["metrics"]
    _say(silent, "starting Ray and its workers")
    start_ray()
    mark("Ray up")
    resources = part.resources if part else worker_resources(config.num_workers)
    asked, config = replace(config, epochs=whole.epochs), config.with_workers(len(resources))
    messages = JobMessages()
    refuse_stopped(messages, BEFORE + resumes(config.name))
    with signals.holding():  # from here on there is something to end in order
        run = open_training(replace(config, epochs=whole.epochs), part.parent if part else None)
        mark("MLflow run open")
        keep_settings(config.folder, asked)
        signals.end_with(f"; {resumes(config.name)} from its last checkpoint")
        try:
            with signals.at_last(partial(finish_run, run, "KILLED", quick=True)):
                outcome = _train(config, resources, run, messages, part)
        except BaseException as error:
            end_record(run, error)
            raise
        if part is not None and part.waits(whole, outcome["metrics"]):  # it may be for good
            finish_run(run, "KILLED", f"stopped early at epoch {config.epochs}")
        else:
            finish_run(run, "FINISHED")
        write_outcome(config, outcome)
        _say(silent, f"run {config.name} finished{describe_outcome(outcome)}\n{ui_hint(run)}")
        return outcome["metrics"]


def _train(
    config: TrainSettings, resources: list[dict[str, float]], run: TrackedRun, messages: JobMessages, part: Part | None
) -> dict[str, Any]:
    """Trains, with `run` as the record; returns what `worker.train` does, and where the last checkpoint is."""
    silent = part is not None and part.is_trial
    prefix = None if silent else f"{config.name}  " if part else ""
    gauges = Gauges(config.name)
    filesystem, path = open_storage(config.storage_path)
    trainer = TorchTrainer(
        # The settings travel with the function: Ray shows train_loop_config on its dashboard, and writes it to its logs.
        partial(train_worker, config.to_dict(secrets=True)),
        train_loop_config=config.to_dict(),
        torch_config=TorchConfig(timeout_s=GRADIENTS_WAIT_S),
        scaling_config=ScalingConfig(
            num_workers=len(resources), use_gpu="GPU" in resources[0], resources_per_worker=resources[0]
        ),
        run_config=RunConfig(
            name=config.name,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=[Monitor(run, config, prefix, gauges), *(part.callbacks if part else ())],
            # Its warnings repeat every second where there is no dashboard; failures reach `Monitor.after_exception`.
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    steps = " steps" if str(config.log_every).isdecimal() else ""
    _say(silent, f"run {config.name}, {describe_workers(resources)}; metrics every {config.log_every}{steps}")
    leave = partial(finish_run, run, "FAILED")
    try:
        with gauges.running(), contextlib.nullcontext() if part else watched_cluster("vgg_dist.train", leave):
            result = fit(trainer, config, messages, silent)
    except NonFinite:
        gauges.add("non_finite")
        raise
    outcome = result.return_value | {"checkpoint": result.checkpoint.path} | read_best(RunFolder(run.folder))
    try:
        with signals.raising():
            log_the_rest(run)
            if not silent:
                keep_model(run, config, result.checkpoint, outcome["step"])
    except signals.Stopped as stopped:
        by = signals.name_of(stopped.signum)
        raise Interrupted(by, f" after its last step; {resumes(config.name, 'finishes')}") from None
    return outcome


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """What each worker does: returns {"metrics": ...}, or {"error": line} for a failure that a restart cannot cure."""
    mark("workers up")
    from vgg_dist.worker.process import run_worker  # in here: DALI takes seconds to import, and only workers need it

    mark("worker imports done")
    return run_worker(TrainSettings.from_dict(settings))


def _say(silent: bool, line: str) -> None:
    if line and not silent:
        print(f"vgg_dist.train: {masked(line)}", flush=True)


def _of_earlier(config: TrainSettings, earlier: Earlier) -> str:
    """What there is to say of a run that was begun before."""
    changes = earlier.changes(config)
    if earlier.outcome is None or not earlier.is_all(config):
        return f"run {config.name} was begun with {changes}: it goes on with the new" if changes else ""
    finished = f"run {config.name} was finished before{describe_outcome(earlier.outcome)}"
    if changes:
        finished += f"\nthese numbers are of {changes}"
        finished += "\nanother --name trains with the new settings; more --epochs, or --max-steps, trains this run further"
    return finished
