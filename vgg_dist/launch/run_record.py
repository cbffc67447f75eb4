"""A training's run in MLflow: opened with its settings and tags, completed with its last metrics and its net."""

from __future__ import annotations

from vgg_dist.config import TrainSettings
from vgg_dist.config.base import origin_name
from vgg_dist.errors import Interrupted, TrainingError
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.storage import local_files
from vgg_dist.tracking import (
    TrackedRun,
    Tracker,
    TrackingError,
    await_store,
    log_model,
    open_run,
    resolve_tracking_uri,
)

SERVER_WAIT_S = 30.0  # how long the end of a run waits for a tracking server that does not answer
TRACKING_WAIT_S = 600.0  # for a tracking server that is away when a training is finished
STOP_WAIT_S = 3.0  # and when the command was told to stop: the next start sends what is left


def open_training(config: TrainSettings, parent: TrackedRun | None = None) -> TrackedRun:
    """Opens the MLflow run of a training, with the tags that tell runs apart: arch, train_scale, init."""
    origin = None if config.init_from is None else origin_name(config.init_from)
    tags = {
        "arch": config.arch,
        "train_scale": str(config.train_scale),
        "init": config.init if origin is None else f"from {origin}",
    }
    # MLflow's compare page plots the first settings that differ. The name, which it shows anyway, should not be among them;
    # and of a path it would show only the first letters, so init_from is logged as the name of the run it points to.
    params = {name: value for name, value in config.to_dict().items() if name != "name"} | {"init_from": origin}
    uri = resolve_tracking_uri(config.tracking_uri, config.storage_path)
    return open_run(uri, config.experiment, config.storage_path, config.name, params, tags, parent)


def send_all_metrics(run: TrackedRun) -> None:
    """Sends what MLflow has not been told yet. TrainingError if it stays away: no GPU waits any more, so there is time."""
    try:
        await_store(run.tracking_uri, TRACKING_WAIT_S)
    except TrackingError as error:
        raise TrainingError(f"{error}; the run is complete, and the same command logs what is missing") from None
    Tracker(run).close(SERVER_WAIT_S)


def send_last_metrics(run: TrackedRun, error: BaseException) -> None:
    """Before the record of a training that `error` ends is closed: sends what MLflow has not been told.

    Waits for a server that is away, but only a little where the training was told to stop.
    """
    Tracker(run).close(STOP_WAIT_S if isinstance(error, Interrupted) else SERVER_WAIT_S)


def keep_model(run: TrackedRun, config: TrainSettings, checkpoint: str, step: int) -> None:
    """Logs the last checkpoint as a model in MLflow: the net whose errors are the last val/... there.

    `checkpoint`: its path in the filesystem of the run's folder.
    """
    import torch

    from vgg_dist.models.build import build_model
    from vgg_dist.models.specs import MODELS
    from vgg_dist.weights.checkpoint import read_description, read_weights

    with local_files(RunFolder(run.folder).filesystem, checkpoint) as folder:
        _, class_names = read_description(folder)
        model = build_model(
            config.arch,
            num_classes=len(class_names),
            batch_norm=config.batch_norm,
            head=config.head,
            width=config.width,
            image_size=config.image_size,
        )
        model.load_state_dict(read_weights(folder))
    size = config.image_size
    log_model(run, model.eval(), torch.zeros(1, MODELS[config.arch].in_channels, size, size), step)
