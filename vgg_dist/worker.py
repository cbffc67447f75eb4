"""One training worker: Ray Train's process around `engine.Trainer`.

It opens the data, builds the net, takes up the last checkpoint, and passes the engine's metrics and checkpoints on to
`ray.train.report`.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint, CheckpointUploadMode

from vgg_dist.checkpoint import CONFIG, RECORDS, checkpoint_name
from vgg_dist.config import TrainConfig, TrainingError
from vgg_dist.engine import NonFiniteLoss, Trainer, Worker
from vgg_dist.exchange import Exchange
from vgg_dist.memory import explained_memory_errors
from vgg_dist.phases import mark
from vgg_dist.preparation import Node, Prepared, prepare
from vgg_dist.storage import write_folder
from vgg_dist.tracking import SystemSampler

REPORT_EVERY_S = 5.0  # a report makes all workers wait for each other and for the controller


def run_worker(config: TrainConfig) -> dict[str, Any]:
    """Trains this worker's part. See `driver.train_worker`.

    Raises TrainingError for what a restart does not mend, where it has happened to this worker and not to all.
    """
    # Some of Ray Train's loggers are named by their file, so its LoggingConfig does not reach them.
    logging.getLogger().setLevel(logging.WARNING)
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    node = Node(context.get_local_rank(), context.get_local_world_size())
    exchange = Exchange()
    saved = ray.train.get_checkpoint()
    try:
        prepared = prepare(config, worker, node, exchange, saved and saved.as_directory)
    except TrainingError as wrong:  # raised by all workers alike
        return {"error": str(wrong)}
    mark("data and net ready")
    notes = [] if config.micro_batch else [f"--micro-batch {prepared.config.micro_batch}, by default"]
    reporter = Reporter(worker, node, exchange, prepared, notes)
    try:
        with explained_memory_errors(prepared.config, len(prepared.class_names), worker.device, worker.world_size):
            return _train(prepared, worker, reporter)
    except TrainingError:  # the driver says it in one line; Ray Train would print its traceback
        logging.getLogger("ray.train.v2._internal.util").setLevel(logging.CRITICAL)
        raise


def _train(prepared: Prepared, worker: Worker, reporter: Reporter) -> dict[str, Any]:
    trainer = Trainer(prepared.config, prepared.state, prepared.train_loader, prepared.val_loader, worker, reporter)
    reporter.trainer = trainer
    reporter.catch_up()
    # Where a run is stopped from outside in mid-step, Ray ends this process while the thread that trains is in torch, which,
    # coming back to an interpreter that is taken down, would abort with a page of stack trace.
    atexit.register(os._exit, 0)
    try:
        trainer.run()
    except (ValueError, NonFiniteLoss) as wrong:  # raised by all workers alike
        return {"error": str(wrong), "non_finite": isinstance(wrong, NonFiniteLoss)}
    finally:
        atexit.unregister(os._exit)
    return {"metrics": reporter.validation | {"epoch": trainer.state.epoch}, "step": trainer.state.step}


class Reporter:
    """Collects records and reports them every few seconds, and with each checkpoint at once."""

    def __init__(self, worker: Worker, node: Node, exchange: Exchange, prepared: Prepared, notes: list[str]) -> None:
        """`notes`: what is to be said of the start, once."""
        self.config = prepared.config
        self.notes = notes
        self.worker = worker
        self.exchange = exchange
        self.class_names = prepared.class_names
        self.trainer: Trainer | None = None
        self.records: list[dict[str, Any]] = []
        self.unsaved: list[dict[str, Any]] = []
        """The records since the last checkpoint, which the next one keeps."""
        self.kept = prepared.kept
        """Those of the checkpoint that the run goes on from."""
        self.validation: dict[str, float] = {}
        self.last_report = time.monotonic()
        one_node = node.workers == worker.world_size
        self.sampler = SystemSampler(None if one_node else socket.gethostname()) if node.rank == 0 else None

    def __call__(self, metrics: dict[str, float], save: bool) -> None:
        """The engine's Report: called by all workers with the same metrics."""
        assert self.trainer is not None
        mark("first step done")
        self.validation |= {key: value for key, value in metrics.items() if key.startswith("val/")}
        record = {"step": self.trainer.state.step, "time": time.time(), "metrics": metrics}
        self.records.append(record)
        self.unsaved.append(record)
        if save or self._due():
            self._report(save)

    def catch_up(self) -> None:
        """Reports what the checkpoint kept: its writer may have been killed before that was heard of.

        MLflow is not sent a step twice (see `Outbox`).
        """
        for record in self.kept:
            self.validation |= {key: value for key, value in record["metrics"].items() if key.startswith("val/")}
        if self.kept:
            ray.train.report({"records": [], "earlier": self.kept, "system": {}, "done": False})

    def _due(self) -> bool:
        """Rank 0's clock decides for all."""
        (due,) = self.exchange.of_first(time.monotonic() - self.last_report > REPORT_EVERY_S)
        return bool(due)

    def _report(self, save: bool) -> None:
        assert self.trainer is not None
        system = self.sampler.sample() if self.sampler else {}
        payload = {"records": self.records, "system": system, "done": save and self.trainer.done, "notes": self.notes}
        checkpoint = self._write_checkpoint(payload) if save else None
        ray.train.report(payload, checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)
        self.records, self.notes = [], []
        if save:
            self.unsaved = []
        self.last_report = time.monotonic()

    def _write_checkpoint(self, payload: dict[str, Any]) -> Checkpoint | None:
        """Rank 0's checkpoint; ValueError on all ranks if the storage does not take it."""
        assert self.trainer is not None
        state, checkpoint, error = self.trainer.state, None, None
        if self.worker.rank == 0:
            storage = ray.train.get_context().get_storage()
            path = f"{storage.experiment_fs_path}/{checkpoint_name(state.step)}"
            filesystem = storage.storage_filesystem

            def write(folder: Path) -> None:
                state.save(folder, self.config, self.class_names)
                (folder / RECORDS).write_text(json.dumps(self.unsaved))

            try:
                write_folder(filesystem, path, write, CONFIG)
                checkpoint = Checkpoint(path, filesystem)
            except OSError as wrong:
                error = f"--storage-path {self.config.storage_path}: checkpoint of step {state.step} not written: {wrong}"
        if errors := [text for text in self.exchange.gather(error) if text]:
            ray.train.report(payload | {"done": False})  # the metrics are not lost
            raise ValueError(errors[0])
        return checkpoint
