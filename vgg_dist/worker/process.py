"""One training worker, around `training.trainer.Trainer`.

It sets up data and net (`setup`), trains, and passes records and checkpoints (`reporter`) to its `launcher.Launcher`: Ray
Train in a process of its own (`on_ray`), or the command, in that one's process.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.secrets import masked
from vgg_dist.config import TrainSettings
from vgg_dist.config.worker_range import WorkerRange
from vgg_dist.errors import NonFinite, TrainingError
from vgg_dist.metric_names import EPOCH
from vgg_dist.ray_cluster.address import cluster_named
from vgg_dist.run_folder.best import begin_best, keep_best
from vgg_dist.run_folder.checkpoints import write_checkpoint
from vgg_dist.startup_marks import mark
from vgg_dist.training.memory import explained_memory_errors
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.stopping import AllStop, StopAgreement, training_key
from vgg_dist.training.trainer import Trainer
from vgg_dist.worker.exchange import Exchange
from vgg_dist.worker.launcher import Launcher
from vgg_dist.worker.reporter import Reporter, Store
from vgg_dist.worker.resume_point import ResumedFrom, ResumePoints, find_resume_points
from vgg_dist.worker.setup import Node, Prepared, prepare


def run_worker(config: TrainSettings, launcher: Launcher) -> dict[str, Any]:
    """Trains as one of the workers; returns what `launch.driver.train_worker` documents.

    A failure that all workers agree on is returned. TrainingError is raised for one of this worker alone that is not
    retried.
    """
    # DDP's hint on nets whose first convolution has one channel: a copy of a few bytes, which nobody can avoid.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    worker = launcher.worker
    node = Node(worker.local_rank, worker.local_world_size)
    exchange = Exchange()
    group = exchange.gather(uuid.uuid4().hex)[0]
    stop = StopAgreement(launcher.messages, group, worker.rank, worker.world_size)
    try:
        prepared, points, resumed = _prepare_or_resume(config, launcher, node, exchange)
    except TrainingError as error:  # raised by all workers alike
        return {"error": str(error)}
    mark("data and net ready")
    worker = prepared.worker
    notes = _start_notes(config, prepared, resumed)
    store = _checkpoint_store(points, resumed)
    reporter = Reporter(worker, node, exchange, prepared, launcher.report, store, launcher.report_every_s, notes)
    if resumed is not None:
        reporter.unreported = resumed.unreported()
    launcher.await_record()
    memory = explained_memory_errors(prepared.config, len(prepared.class_names), worker)
    with memory, stop.watching(training_key(config.name)):
        return train(prepared, worker, reporter, stop)


def _prepare_or_resume(
    config: TrainSettings, launcher: Launcher, node: Node, exchange: Exchange
) -> tuple[Prepared, ResumePoints, ResumedFrom | None]:
    """Sets up the worker, from the run's last whole checkpoint if it has one, and brings best/ up to date.

    A collective call; raises on all workers alike, as `Exchange.run_on_all` does.
    """
    worker, run = launcher.worker, launcher.run
    points = find_resume_points(exchange, run, launcher.last_reported())
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
        on = f" on {prepared.worker.world_size} workers" if isinstance(config.num_workers, WorkerRange) else ""
        notes.append(f"resumes from step {prepared.state.step} (epoch {epoch_of(prepared):.2f}){on}")
    elif prepared.state.origin:
        notes.append(f"starts from {masked(config.init_from)}: {prepared.state.origin}")
    return notes


def train(prepared: Prepared, worker: Worker, reporter: Reporter, stop: StopAgreement | None = None) -> dict[str, Any]:
    """Trains to the end and returns the outcome, as `run_worker` does."""
    loaders = prepared.train_loader, prepared.val_loader
    trainer = Trainer(prepared.config, prepared.state, *loaders, worker, reporter, stop)
    reporter.trainer = trainer
    reporter.catch_up()
    try:
        trainer.run()
        reporter.close()
    except AllStop:
        reporter.close()
        if trainer.stop.leaves:
            return {"left": trainer.state.step}
        return {"stopped": trainer.state.step, "unsaved": reporter.storage_error}
    except (ValueError, NonFinite) as wrong:  # raised by all workers alike
        reporter.close()
        return {"error": str(wrong), "non_finite": isinstance(wrong, NonFinite)}
    except Exception:  # the next try may be in this process, and write the same checkpoint
        with suppress(Exception):
            reporter.writer.wait()
        raise
    mark("training done")
    return {"metrics": reporter.validation | {EPOCH: trainer.state.epoch}, "step": trainer.state.step}


def epoch_of(prepared: Prepared) -> float:
    """Epochs trained so far, with a fraction."""
    return prepared.state.epoch + prepared.state.samples / len(prepared.train_loader.store)


def _checkpoint_store(points: ResumePoints, resumed: ResumedFrom | None) -> Store:
    """Returns the function that writes checkpoints into the run's folder, updates best/, and returns the checkpoint's path.

    It does not overwrite the checkpoint that the run resumed from, as that has been reported.
    """
    run = points.run

    def store(name: str, write: Callable[[Path], None]) -> str:
        if resumed is not None and resumed.path == run.checkpoint(name):  # stopped in the validation after this step
            name += "-again"
        name = write_checkpoint(run, name, write)
        keep_best(run, name)
        return run.checkpoint(name)

    return store
