"""A training seen from outside: the Ray cluster, the MLflow run, the TorchTrainer, and what it reports.

`run_training` opens the MLflow run and starts Ray Train; each worker runs `train_worker`; what the workers report reaches
`Monitor`, on Ray Train's controller, which prints progress and feeds MLflow.
"""

from __future__ import annotations

import os
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
from ray.train.torch import TorchTrainer

from vgg_dist.checkpoint import local_checkpoint
from vgg_dist.config import TrainConfig, TrainingError
from vgg_dist.nodes import check_storage, describe_workers, start_ray, worker_resources
from vgg_dist.phases import mark
from vgg_dist.tracking import Record, TrackedRun, Tracker, finish_run, log_model, open_run, resolve_tracking_uri, ui_hint

SERVER_WAIT_S = 30.0  # how long the end of a run waits for a tracking server that is away


def run_training(config: TrainConfig) -> dict[str, float]:
    """Runs a training, `config` being resolved, to its end; returns the last validation metrics.

    ValueError for a setting or data that cannot be; TrainingError for a run that failed.
    """
    check_storage(config.storage_path)
    if config.init_from is not None and "RAY_ADDRESS" not in os.environ:
        with local_checkpoint(config.init_from, "--init-from"):
            pass
    print("vgg_dist.train: starting Ray and its workers", flush=True)
    start_ray()
    mark("Ray up")
    resources = worker_resources(config.num_workers)
    config = config.with_workers(len(resources))
    run = open_run(
        resolve_tracking_uri(config.tracking_uri, config.storage_path),
        config.experiment,
        config.storage_path,
        config.name or "",
        config.to_dict(),
    )
    mark("MLflow run open")
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=config.to_dict(),
        scaling_config=ScalingConfig(
            num_workers=len(resources), use_gpu="GPU" in resources[0], resources_per_worker=resources[0]
        ),
        run_config=RunConfig(
            name=config.name,
            storage_path=config.storage_path,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=[Monitor(run, config)],
            # Its warnings repeat every second where there is no dashboard; failures reach `Monitor.after_exception`.
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    print(f"vgg_dist.train: run {config.name}, {describe_workers(resources)}; metrics every {config.log_every} steps")
    status = "FAILED"
    try:
        result = trainer.fit()
        if result.return_value and "error" in result.return_value:
            raise TrainingError(result.return_value["error"])
        status = "FINISHED"
    except ray.train.TrainingFailedError as error:
        raise TrainingError(_root_cause(error)) from None
    except KeyboardInterrupt:
        status = "KILLED"
        raise TrainingError(f"interrupted; --name {config.name} resumes it") from None
    finally:
        Tracker(run).close(SERVER_WAIT_S)
        if status != "FINISHED":
            finish_run(run, status)
    _finish(run, config, result.checkpoint, result.return_value)
    return result.return_value["metrics"]


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """What each worker does: returns {"metrics": ...}, or {"error": line} for a failure that a restart cannot cure."""
    mark("workers up")
    from vgg_dist.worker import run_worker  # in here: DALI takes seconds to import, and only workers need it

    mark("worker imports done")
    return run_worker(TrainConfig.from_dict(settings))


class Monitor(ray.train.UserCallback):
    """Lives on Ray Train's controller: prints what is reported and passes it to MLflow."""

    def __init__(self, run: TrackedRun, config: TrainConfig) -> None:
        self.config = config
        self.tracker = Tracker(run)
        self.last: Record | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        mark("controller up")

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Takes rank 0's records, and how busy each node is."""
        for record in metrics[0]["records"]:
            print(self._line(record), flush=True)
        self.tracker.log(metrics[0]["records"])
        for of_worker in metrics:
            if of_worker["system"]:
                self.tracker.log_system(of_worker["system"])
        if checkpoint is not None:
            self.tracker.persist()
        if metrics[0]["done"]:
            self.tracker.close(SERVER_WAIT_S)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """A worker failed: Ray Train starts the group again from the last checkpoint, or gives up."""
        for rank, error in worker_exceptions.items():
            print(f"worker {rank} failed: {str(error).strip().splitlines()[-1]}", flush=True)

    def _line(self, record: Record) -> str:
        """A record as a line for people."""
        values, step = record["metrics"], record["step"]
        if "val/loss" in values:
            self.last = None  # the time that validation took says nothing of the steps to come
            return (
                f"step {step:>6}  validation: loss {values['val/loss']:.3f}"
                f"  top-1 error {values['val/top1_error']:.2f} %  top-5 error {values['val/top5_error']:.2f} %"
            )
        line = (
            f"step {step:>6}  epoch {values['epoch']:6.2f}/{self.config.epochs}  loss {values['train/loss']:.3f}"
            f"  {values['images_per_second']:.1f} images/s  lr {values['lr']:.2g}"
        )
        if self.last is not None and step > self.last["step"]:
            per_second = 1 / max(record["time"] - self.last["time"], 1e-9)
            left = (self.config.epochs - values["epoch"]) / ((values["epoch"] - self.last["metrics"]["epoch"]) * per_second)
            if self.config.max_steps is not None:
                left = min(left, (self.config.max_steps - step) / ((step - self.last["step"]) * per_second))
            line += f"  {duration(left)} left"
        self.last = record
        return line


def duration(seconds: float) -> str:
    """3:07 or 2:03:07."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _root_cause(error: ray.train.TrainingFailedError) -> str:
    """One line for a run that Ray Train gave up."""
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    rank, cause = next(iter(failures.items()))
    cause = getattr(cause, "cause", None) or cause
    lines = [line for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    return f"worker {rank} failed: {type(cause).__name__}: {lines[-1].strip()}"


def _finish(run: TrackedRun, config: TrainConfig, checkpoint: Checkpoint | None, outcome: dict[str, Any]) -> None:
    """The final checkpoint as a model in MLflow, the curves, and where to look."""
    import torch

    from vgg_dist.checkpoint import read_description, read_weights
    from vgg_dist.models import MODELS, build_model

    assert checkpoint is not None
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
    log_model(run, model.eval(), torch.zeros(1, MODELS[config.arch].in_channels, size, size), outcome["step"])
    finish_run(run, "FINISHED")
    metrics = outcome["metrics"]
    print(
        f"vgg_dist.train: finished at step {outcome['step']}: validation top-1 error {metrics['val/top1_error']:.2f} %,"
        f" top-5 error {metrics['val/top5_error']:.2f} %\ncheckpoint: {checkpoint.path}\n{ui_hint(run)}"
    )
