"""One training worker: Ray Train's process around `engine.Trainer`.

It sets up data and net (`preparation`), trains, and passes metrics and checkpoints (`reporter`) on to `ray.train.report`.
"""

from __future__ import annotations

import atexit
import logging
import os
import uuid
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
from vgg_dist.ray_cluster.address import cluster_named
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.run_folder.best import begin_best, keep_best
from vgg_dist.run_folder.checkpoints import write_checkpoint
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
    """Trains this worker's part. See `driver.train_worker`.

    Raises TrainingError for what a restart does not mend, where it has happened to this worker and not to all.
    """
    # Some of Ray Train's loggers are named by their file, so its LoggingConfig does not reach them.
    logging.getLogger().setLevel(logging.WARNING)
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    node = Node(context.get_local_rank(), context.get_local_world_size())
    exchange = Exchange()
    messages, group = JobMessages(), exchange.gather(uuid.uuid4().hex)[0]
    stop = StopAgreement(messages, group, worker.rank, worker.world_size)
    reported = ray.train.get_checkpoint()
    storage = context.get_storage()
    try:
        points = find_resume_points(
            exchange, storage.storage_filesystem, storage.experiment_fs_path, None if reported is None else reported.path
        )
        folders = points.folders()
        latest = folders.pop(points.names[0]) if points.names else None
        prepared = prepare(config, worker, node, exchange, latest, folders)
        resumed = ResumedFrom(points, len(prepared.passed_over)) if points.names else None
        if resumed is not None:
            prepared = replace(prepared, kept=resumed.unreported_records() + prepared.kept)
        restored = None if resumed is None else resumed.name
        begin = partial(begin_best, points.filesystem, points.folder, restored, prepared.state.epoch)
        exchange.together(begin if worker.rank == 0 else lambda: None)
    except TrainingError as wrong:  # raised by all workers alike
        return {"error": str(wrong)}
    mark("data and net ready")
    notes = [] if config.micro_batch else [f"--micro-batch {prepared.config.micro_batch}, by default"]
    notes += prepared.passed_over
    if cluster_named():  # elsewhere the command has opened the data itself, and said it
        notes += prepared.remarks
    if resumed is not None:
        notes.append(f"goes on from step {prepared.state.step} (epoch {epoch_of(prepared):.2f})")
    elif prepared.state.origin:
        notes.append(f"starts from {masked(config.init_from)}: {prepared.state.origin}")
    reporter = Reporter(worker, node, exchange, prepared, _report, _storage(points, resumed), notes)
    if resumed is not None and resumed.is_unreported:
        reporter.found = Checkpoint(resumed.path, storage.storage_filesystem)
    memory = explained_memory_errors(prepared.config, len(prepared.class_names), worker.device, worker.world_size)
    try:
        with memory, stop.watching(training_key(config.name)):
            return train(prepared, worker, reporter, stop)
    except TrainingError:  # the driver says it in one line; Ray Train would print its traceback
        logging.getLogger("ray.train.v2._internal.util").setLevel(logging.CRITICAL)
        raise


def train(prepared: Prepared, worker: Worker, reporter: Reporter, stop: StopAgreement | None = None) -> dict[str, Any]:
    """Trains to the end, and says how that went, as `run_worker` returns it."""
    loaders = prepared.train_loader, prepared.val_loader
    trainer = Trainer(prepared.config, prepared.state, *loaders, worker, reporter, stop)
    reporter.trainer = trainer
    reporter.catch_up()
    # Where a run is stopped from outside in mid-step, Ray ends this process while the thread that trains is in torch, which,
    # coming back to an interpreter that is taken down, would abort with a page of stack trace.
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
    return {"metrics": reporter.validation | {"epoch": trainer.state.epoch}, "step": trainer.state.step}


def epoch_of(prepared: Prepared) -> float:
    """How many epochs are trained, with their fractions."""
    return prepared.state.epoch + prepared.state.samples / len(prepared.train_loader.store)


def _report(payload: dict[str, Any], checkpoint: Checkpoint | None) -> None:
    ray.train.report(payload, checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)


def _storage(points: ResumePoints, resumed: ResumedFrom | None) -> Store:
    """Writes into the run's folder, not over what the run goes on from: Ray Train has that in its list.

    Ray's own asynchronous upload would hold back every report behind a checkpoint until that is written, and take a full
    disk for a worker's failure, to be tried again.
    """
    filesystem, folder = points.filesystem, points.folder

    def store(name: str, write: Callable[[Path], None]) -> Checkpoint:
        if resumed is not None and resumed.path == f"{folder}/{name}":  # it was stopped in the validation at the same step
            name += "-again"
        name = write_checkpoint(filesystem, folder, name, write)
        keep_best(filesystem, folder, name)
        return Checkpoint(f"{folder}/{name}", filesystem)

    return store
