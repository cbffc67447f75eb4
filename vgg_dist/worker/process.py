"""One training worker: the process that Ray Train starts, around `training.trainer.Trainer`.

It sets up data and net (`setup`), trains, and passes records and checkpoints (`reporter`) to `ray.train.report`.
"""

from __future__ import annotations

import atexit
import logging
import os
import uuid
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint, CheckpointUploadMode

from pipelines.secrets import masked
from vgg_dist.config import TrainSettings
from vgg_dist.errors import NonFinite, TrainingError
from vgg_dist.metric_names import EPOCH
from vgg_dist.ray_cluster.address import cluster_named
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.run_folder.best import begin_best, keep_best
from vgg_dist.run_folder.checkpoints import write_checkpoint
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.startup_marks import mark
from vgg_dist.training.memory import explained_memory_errors
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.stopping import AllStop, StopAgreement, training_key
from vgg_dist.training.trainer import Trainer
from vgg_dist.worker.exchange import Exchange
from vgg_dist.worker.reporter import Reporter, Store
from vgg_dist.worker.resume_point import ResumedFrom, ResumePoints, find_resume_points
from vgg_dist.worker.setup import Node, Prepared, prepare


def run_worker(config: TrainSettings) -> dict[str, Any]:
    """Trains as one of the workers; returns what `launch.driver.train_worker` documents.

    A failure that all workers agree on is returned. TrainingError is raised for one of this worker alone that is not
    retried.
    """
    # Some of Ray Train's loggers are named by their file, so its LoggingConfig does not reach them.
    logging.getLogger().setLevel(logging.WARNING)
    # DDP's hint on nets whose first convolution has one channel: a copy of a few bytes, which nobody can avoid.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    context = ray.train.get_context()
    node = Node(context.get_local_rank(), context.get_local_world_size())
    device = ray.train.torch.get_device()
    worker = Worker(context.get_world_rank(), context.get_world_size(), device, node.rank, node.workers)
    exchange = Exchange()
    messages, group = JobMessages(), exchange.gather(uuid.uuid4().hex)[0]
    stop = StopAgreement(messages, group, worker.rank, worker.world_size)
    try:
        prepared, points, resumed = _prepare_or_resume(config, worker, node, exchange)
    except TrainingError as error:  # raised by all workers alike
        return {"error": str(error)}
    mark("data and net ready")
    worker = prepared.worker
    notes = _start_notes(config, prepared, resumed)
    reporter = Reporter(worker, node, exchange, prepared, _report, _checkpoint_store(points, resumed), notes)
    if resumed is not None and resumed.is_unreported:
        reporter.unreported = Checkpoint(resumed.path, points.run.filesystem)
    memory = explained_memory_errors(prepared.config, len(prepared.class_names), worker)
    try:
        with memory, stop.watching(training_key(config.name)):
            return train(prepared, worker, reporter, stop)
    except TrainingError:  # the driver prints it in one line; keep Ray Train from printing its traceback
        logging.getLogger("ray.train.v2._internal.util").setLevel(logging.CRITICAL)
        raise


def _prepare_or_resume(
    config: TrainSettings, worker: Worker, node: Node, exchange: Exchange
) -> tuple[Prepared, ResumePoints, ResumedFrom | None]:
    """Sets up the worker, from the run's last whole checkpoint if it has one, and brings best/ up to date.

    A collective call; raises on all workers alike, as `Exchange.run_on_all` does.
    """
    reported, storage = ray.train.get_checkpoint(), ray.train.get_context().get_storage()
    run = RunFolder.within(storage.storage_filesystem, storage.experiment_fs_path)
    points = find_resume_points(exchange, run, None if reported is None else reported.path)
    folders = points.folders()
    latest = folders.pop(points.names[0]) if points.names else None
    prepared = prepare(config, worker, node, exchange, latest, folders)
    resumed = ResumedFrom(points, len(prepared.passed_over)) if points.names else None
    if resumed is not None:
        prepared = replace(prepared, earlier_records=resumed.unreported_records() + prepared.earlier_records)
    restored = None if resumed is None else resumed.name
    begin = partial(begin_best, run, restored, prepared.state.epoch)
    exchange.run_on_all(begin if worker.rank == 0 else lambda: None)
    return prepared, points, resumed


def _start_notes(config: TrainSettings, prepared: Prepared, resumed: ResumedFrom | None) -> list[str]:
    """The lines that the command prints when the training starts."""
    notes = [] if config.micro_batch else [f"--micro-batch {prepared.config.micro_batch}, by default"]
    notes += prepared.passed_over
    if cluster_named():  # otherwise the command has opened the data and printed them
        notes += prepared.remarks
    notes += prepared.cache_notes + [prepared.layout_note] * bool(prepared.layout_note)
    if resumed is not None:
        notes.append(f"resumes from step {prepared.state.step} (epoch {epoch_of(prepared):.2f})")
    elif prepared.state.origin:
        notes.append(f"starts from {masked(config.init_from)}: {prepared.state.origin}")
    return notes


def train(prepared: Prepared, worker: Worker, reporter: Reporter, stop: StopAgreement | None = None) -> dict[str, Any]:
    """Trains to the end and returns the outcome, as `run_worker` does."""
    loaders = prepared.train_loader, prepared.val_loader
    trainer = Trainer(prepared.config, prepared.state, *loaders, worker, reporter, stop)
    reporter.trainer = trainer
    reporter.catch_up()
    # If a run is stopped from outside within a step, Ray exits this process while the training thread is in torch. Returning
    # to an interpreter that is shutting down, that thread would abort with a page of stack trace.
    atexit.register(os._exit, 0)
    try:
        trainer.run()
        reporter.close()
    except AllStop:
        reporter.close()
        return {"stopped": trainer.state.step, "unsaved": reporter.storage_error}
    except (ValueError, NonFinite) as wrong:  # raised by all workers alike
        reporter.close()
        return {"error": str(wrong), "non_finite": isinstance(wrong, NonFinite)}
    finally:
        atexit.unregister(os._exit)
    return {"metrics": reporter.validation | {EPOCH: trainer.state.epoch}, "step": trainer.state.step}


def epoch_of(prepared: Prepared) -> float:
    """Epochs trained so far, with a fraction."""
    return prepared.state.epoch + prepared.state.samples / len(prepared.train_loader.store)


def _report(payload: dict[str, Any], checkpoint: Checkpoint | None) -> None:
    ray.train.report(payload, checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)


def _checkpoint_store(points: ResumePoints, resumed: ResumedFrom | None) -> Store:
    """Returns the function that writes checkpoints into the run's folder and updates best/.

    It does not overwrite the checkpoint that the run resumed from, as that is in Ray Train's list. Ray's own asynchronous
    upload is not used: it would hold back all reports until a checkpoint is written, and retry a full disk as a worker's
    failure.
    """
    run = points.run

    def store(name: str, write: Callable[[Path], None]) -> Checkpoint:
        if resumed is not None and resumed.path == run.checkpoint(name):  # stopped in the validation after this step
            name += "-again"
        name = write_checkpoint(run, name, write)
        keep_best(run, name)
        return Checkpoint(run.checkpoint(name), run.filesystem)

    return store
