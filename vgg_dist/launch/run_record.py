"""A training's record in MLflow, seen from its command: opened, completed with its net, ended with a status."""

from __future__ import annotations

from pathlib import Path

from ray.train import Checkpoint

from vgg_dist.config import TrainSettings
from vgg_dist.config.base import origin_name
from vgg_dist.errors import Interrupted, TrainingError
from vgg_dist.launch.controller import SERVER_WAIT_S
from vgg_dist.tracking import (
    TrackedRun,
    Tracker,
    TrackingError,
    await_store,
    finish_run,
    log_model,
    open_run,
    resolve_tracking_uri,
)

TRACKING_WAIT_S = 600.0  # for a tracking server that is away when a run has come to its end
STOP_WAIT_S = 3.0  # and when its command was told to stop: the next start sends the rest


def open_training(config: TrainSettings, parent: TrackedRun | None = None) -> TrackedRun:
    """The MLflow run of a training, with the tags by which runs are told apart."""
    origin = None if config.init_from is None else origin_name(config.init_from)
    tags = {
        "arch": config.arch,
        "train_scale": str(config.train_scale),
        "init": config.init if origin is None else f"from {origin}",
    }
    # MLflow's compare page plots the first settings that differ: the name, which it shows anyhow, is not to be among them,
    # and of a path it would show the first letters.
    params = {name: value for name, value in config.to_dict().items() if name != "name"} | {"init_from": origin}
    uri = resolve_tracking_uri(config.tracking_uri, config.storage_path)
    return open_run(uri, config.experiment, config.storage_path, config.name, params, tags, parent)


def log_the_rest(run: TrackedRun) -> None:
    """What MLflow has not been told yet; TrainingError if it stays away. Here that holds up no GPU any more."""
    try:
        await_store(run.tracking_uri, TRACKING_WAIT_S)
    except TrackingError as error:
        raise TrainingError(f"{error}; the run is whole, and the same command logs what is missing") from None
    Tracker(run).close(SERVER_WAIT_S)


def end_record(run: TrackedRun, error: BaseException) -> None:
    """For a training that `error` ends: sends what MLflow has not been told, sets the status, and says why.

    One that is told to stop has little time, and no curves are drawn.
    """
    stopped = isinstance(error, Interrupted)
    Tracker(run).close(STOP_WAIT_S if stopped else SERVER_WAIT_S)
    finish_run(run, "KILLED" if stopped else "FAILED", " ".join(str(error).split())[:500], quick=stopped)


def keep_model(run: TrackedRun, config: TrainSettings, checkpoint: Checkpoint, step: int) -> None:
    """The last checkpoint as a model in MLflow: the net whose errors are val/... there."""
    import torch

    from vgg_dist.models.build import build_model
    from vgg_dist.models.specs import MODELS
    from vgg_dist.weights.checkpoint import read_description, read_weights

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
    size = config.image_size
    log_model(run, model.eval(), torch.zeros(1, MODELS[config.arch].in_channels, size, size), step)
