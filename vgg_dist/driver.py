"""A training seen from outside: the Ray cluster, the MLflow run, the TorchTrainer, and what it reports.

`run_training` opens the MLflow run and starts Ray Train; each worker runs `train_worker`; what the workers report reaches
`Monitor`, on Ray Train's controller, which prints progress and feeds MLflow.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

# How often Ray Train's controller looks for reports, and how long a group of workers may take to come up: its defaults of
# 2 s and 60 s cost a short run a third of its time, and are too little for a cold node. Read when ray.train is imported.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
if "RAY_ADDRESS" not in os.environ:
    # Nobody takes this machine away with notice; the watcher for that is one more process to start, and prints an error.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

import ray
import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from pipelines.secrets import masked
from vgg_dist.checkpoint_choice import local_checkpoint
from vgg_dist.config import TrainConfig, TrainingError, scale_word
from vgg_dist.config.base import origin_name
from vgg_dist.exchange import GRADIENTS_WAIT_S
from vgg_dist.gauges import Gauges
from vgg_dist.monitor import SERVER_WAIT_S, Monitor, root_cause
from vgg_dist.nodes import check_storage, describe_workers, start_ray, worker_resources
from vgg_dist.outcome import Earlier, describe_outcome, read_best, read_earlier, write_outcome
from vgg_dist.phases import mark
from vgg_dist.storage import open_storage
from vgg_dist.tracking import (
    TrackedRun,
    Tracker,
    TrackingError,
    await_store,
    check_store,
    finish_run,
    log_model,
    open_run,
    resolve_tracking_uri,
    ui_hint,
)

TRACKING_WAIT_S = 600.0  # for a tracking server that is away when a run has come to its end
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

    def waits(self, config: TrainConfig, metrics: dict[str, float]) -> bool:
        """Whether a training that has come so far has more to train."""
        return self.until is not None and metrics["epoch"] == self.until < config.epochs

    callbacks: tuple[ray.train.UserCallback, ...] = ()


def run_training(config: TrainConfig, part: Part | None = None, class_names: list[str] | None = None) -> dict[str, float]:
    """Runs a training, `config` being resolved, to its end; returns the last validation metrics, and the epoch.

    One that has come to its end before is not run again. `class_names`: the data's, where they are known. ValueError for a
    setting or data that cannot be, before anything is started or changed; TrainingError for a run that failed.
    """
    check_storage(config.storage_path)
    silent = part is not None and part.is_trial
    whole = config
    if part is not None and part.until is not None:
        config = replace(config, epochs=part.until)
    if (earlier := read_earlier(config)) is not None:
        earlier.check(config, class_names)
        _say(silent, _of_earlier(config, earlier))
        if earlier.outcome is not None and earlier.is_all(config):
            return earlier.outcome["metrics"]
    if config.init_from is not None and "RAY_ADDRESS" not in os.environ:  # on a cluster it may be where the workers are
        with local_checkpoint(config.init_from, "--init-from"):
            pass
    check_store(resolve_tracking_uri(config.tracking_uri, config.storage_path))
    _say(silent, "starting Ray and its workers")
    start_ray()
    mark("Ray up")
    resources = part.resources if part else worker_resources(config.num_workers)
    config = config.with_workers(len(resources))
    run = open_training(replace(config, epochs=whole.epochs), part.parent if part else None)
    mark("MLflow run open")
    prefix = None if silent else f"{config.name}  " if part else ""
    gauges = Gauges(str(config.name))
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
    try:
        with gauges.running():
            result = _fit(trainer, config)
    except BaseException as error:
        if isinstance(error, NonFinite):
            gauges.add("non_finite")
        Tracker(run).close(SERVER_WAIT_S)
        finish_run(run, "KILLED" if isinstance(error, Interrupted) else "FAILED", " ".join(str(error).split())[:500])
        raise
    outcome = result.return_value | {"checkpoint": result.checkpoint.path} | read_best(run.folder)
    _log_the_rest(run)
    if not silent:
        _keep_model(run, config, result.checkpoint, outcome["step"])
    if part is not None and part.waits(whole, outcome["metrics"]):  # it may be for good
        finish_run(run, "KILLED", f"stopped early at epoch {config.epochs}")
    else:
        finish_run(run, "FINISHED")
    write_outcome(config, outcome)
    _say(silent, f"run {config.name} finished{describe_outcome(outcome)}\n{ui_hint(run)}")
    return outcome["metrics"]


def _log_the_rest(run: TrackedRun) -> None:
    """What MLflow has not been told yet; TrainingError if it stays away. Here that holds up no GPU any more."""
    try:
        await_store(run.tracking_uri, TRACKING_WAIT_S)
    except TrackingError as error:
        raise TrainingError(f"{error}; the run is whole, and the same command logs what is missing") from None
    Tracker(run).close(SERVER_WAIT_S)


class Interrupted(TrainingError):
    """A run that its user stopped."""


class NonFinite(TrainingError):
    """A run whose loss became infinite or not a number."""


def _fit(trainer: TorchTrainer, config: TrainConfig) -> ray.train.Result:
    """The training's own result, or its failure as a TrainingError."""
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise TrainingError(root_cause(error)) from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; --name {config.name} resumes it") from None
    if result.return_value and "error" in result.return_value:
        kind = NonFinite if result.return_value.get("non_finite") else TrainingError
        raise kind(result.return_value["error"])
    return result


def open_training(config: TrainConfig, parent: TrackedRun | None = None) -> TrackedRun:
    """The MLflow run of a training, with the tags by which runs are told apart."""
    origin = None if config.init_from is None else origin_name(config.init_from)
    tags = {
        "arch": config.arch,
        "train_scale": scale_word(config.train_scale or ()),
        "init": config.init if origin is None else f"from {origin}",
    }
    # MLflow's compare page plots the first settings that differ: the name, which it shows anyhow, is not to be among them,
    # and of a path it would show the first letters.
    params = {name: value for name, value in config.to_dict().items() if name != "name"} | {"init_from": origin}
    uri = resolve_tracking_uri(config.tracking_uri, config.storage_path)
    return open_run(uri, config.experiment, config.storage_path, config.name or "", params, tags, parent)


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """What each worker does: returns {"metrics": ...}, or {"error": line} for a failure that a restart cannot cure."""
    mark("workers up")
    from vgg_dist.worker import run_worker  # in here: DALI takes seconds to import, and only workers need it

    mark("worker imports done")
    return run_worker(TrainConfig.from_dict(settings))


def _say(silent: bool, line: str) -> None:
    if line and not silent:
        print(f"vgg_dist.train: {masked(line)}", flush=True)


def _of_earlier(config: TrainConfig, earlier: Earlier) -> str:
    """What there is to say of a run that was begun before."""
    changes = earlier.changes(config)
    if earlier.outcome is None or not earlier.is_all(config):
        return f"run {config.name} was begun with {changes}: it goes on with the new" if changes else ""
    finished = f"run {config.name} was finished before{describe_outcome(earlier.outcome)}"
    if changes:
        finished += f"\nthese numbers are of {changes}"
        finished += "\nanother --name trains with the new settings; more --epochs, or --max-steps, trains this run further"
    return finished


def _keep_model(run: TrackedRun, config: TrainConfig, checkpoint: Checkpoint, step: int) -> None:
    """The last checkpoint as a model in MLflow: the net whose errors are val/... there."""
    import torch

    from vgg_dist.checkpoint import read_description, read_weights
    from vgg_dist.models import MODELS, build_model

    with checkpoint.as_directory() as folder:
        _, class_names = read_description(Path(folder))
        model = build_model(
            config.arch,
            num_classes=len(class_names),
            batch_norm=config.batch_norm,
            head=config.head,
            image_size=config.image_size,
        )
        model.load_state_dict(read_weights(Path(folder)))
    size = config.image_size or 0
    log_model(run, model.eval(), torch.zeros(1, MODELS[config.arch].in_channels, size, size), step)
