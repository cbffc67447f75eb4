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
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode

from pipelines.batch import Preprocessing
from pipelines.loader import open_loader
from pipelines.store import open_splits
from vgg_dist.checkpoint import CONFIG, RECORDS, checkpoint_name
from vgg_dist.config import TrainConfig
from vgg_dist.engine import NonFiniteLoss, Trainer, Worker, build_state, check_images, loader_threads
from vgg_dist.phases import mark
from vgg_dist.specs import MODELS
from vgg_dist.storage import write_folder
from vgg_dist.tracking import SystemSampler

REPORT_EVERY_S = 5.0  # a report makes all workers wait for each other and for the controller


def run_worker(config: TrainConfig) -> dict[str, Any]:
    """Trains this worker's part. See `train.train_worker`."""
    # Some of Ray Train's loggers are named by their file, so its LoggingConfig does not reach them.
    logging.getLogger().setLevel(logging.WARNING)
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    reporter = Reporter(config, worker)
    trainer, error = None, None
    try:
        trainer = _set_up(config, worker, reporter)
    except ValueError as wrong:
        error = str(wrong)
    # A mistake may show on one node only; all workers stop then, rather than wait for it in a collective.
    if errors := [text for text in _gather(error) if text]:
        return {"error": errors[0]}
    assert trainer is not None
    mark("data and net ready")
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


def _gather(value: str | None) -> list[str | None]:
    values: list[str | None] = [value]
    if dist.is_initialized():
        values = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
    return values


def _set_up(config: TrainConfig, worker: Worker, reporter: Reporter) -> Trainer:
    train, val = open_splits(config.data)
    check_images(config, len(train), len(val), worker.world_size)
    context = ray.train.get_context()
    for store in (train, val):
        # Batches are of images from all over: the first would wait for almost every shard.
        store.prefetch(context.get_local_rank(), context.get_local_world_size())
    reporter.class_names = train.class_names
    state = build_state(config, len(train.class_names), worker.device)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state.restore(Path(folder), config, train.class_names)
            if (kept := Path(folder, RECORDS)).exists():
                reporter.kept = json.loads(kept.read_text())
    spec = MODELS[config.arch]

    def loader(store: Any, center: bool, pad: int) -> Any:
        preprocessing = Preprocessing(config.image_size or 0, spec.pixel_mean, spec.pixel_std, center, pad)
        return open_loader(
            store,
            preprocessing,
            num_threads=loader_threads(config.loader_threads),
            max_batch=config.micro_batch,
            device=worker.device,
        )

    loaders = loader(train, False, config.pad), loader(val, True, 0)
    return Trainer(config, state, *loaders, worker, reporter)


class Reporter:
    """Collects records and reports them every few seconds, and with each checkpoint at once."""

    def __init__(self, config: TrainConfig, worker: Worker) -> None:
        self.config = config
        self.worker = worker
        self.class_names: list[str] = []
        self.trainer: Trainer | None = None
        self.records: list[dict[str, Any]] = []
        self.unsaved: list[dict[str, Any]] = []
        """The records since the last checkpoint, which the next one keeps."""
        self.kept: list[dict[str, Any]] = []
        """Those of the checkpoint that the run goes on from."""
        self.validation: dict[str, float] = {}
        self.last_report = time.monotonic()
        context = ray.train.get_context()
        one_node = context.get_local_world_size() == worker.world_size
        first_of_node = context.get_local_rank() == 0
        self.sampler = SystemSampler(None if one_node else socket.gethostname()) if first_of_node else None

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
        due = torch.tensor(float(time.monotonic() - self.last_report > REPORT_EVERY_S), device=self.worker.device)
        if dist.is_initialized():
            dist.broadcast(due, 0)
        return bool(due.item())

    def _report(self, save: bool) -> None:
        assert self.trainer is not None
        system = self.sampler.sample() if self.sampler else {}
        payload = {"records": self.records, "system": system, "done": save and self.trainer.done}
        checkpoint = self._write_checkpoint(payload) if save else None
        ray.train.report(payload, checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)
        self.records = []
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
        if errors := [text for text in _gather(error) if text]:
            ray.train.report(payload | {"done": False})  # the metrics are not lost
            raise ValueError(errors[0])
        return checkpoint
