"""A worker in a process that Ray Train has started."""

from __future__ import annotations

import atexit
import logging
import os
from typing import Any

import ray.train
from ray.train import Checkpoint, CheckpointUploadMode

from vgg_dist.config import TrainSettings
from vgg_dist.errors import TrainingError
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.training.parallelism import Worker
from vgg_dist.worker.process import run_worker


def run_on_ray(config: TrainSettings) -> dict[str, Any]:
    """Runs in each worker's process: see `process.run_worker`."""
    # Some of Ray Train's loggers are named by their file, so its LoggingConfig does not reach them.
    logging.getLogger().setLevel(logging.WARNING)
    # If a run is stopped from outside within a step, Ray exits this process while the training thread is in torch. Returning
    # to an interpreter that is shutting down, that thread would abort with a page of stack trace.
    atexit.register(os._exit, 0)
    try:
        return run_worker(config, RayLauncher())
    except TrainingError:  # the driver prints it in one line; keep Ray Train from printing its traceback
        logging.getLogger("ray.train.v2._internal.util").setLevel(logging.CRITICAL)
        raise
    finally:
        atexit.unregister(os._exit)


class RayLauncher:
    """Ray Train, to one of its workers (a `worker.launcher.Launcher`)."""

    report_every_s = 5.0  # a report is a barrier: all workers wait for each other and for the controller

    def __init__(self) -> None:
        context = ray.train.get_context()
        rank, world_size = context.get_world_rank(), context.get_world_size()
        local_rank, local_world_size = context.get_local_rank(), context.get_local_world_size()
        self.worker = Worker(rank, world_size, ray.train.torch.get_device(), local_rank, local_world_size)
        storage = context.get_storage()
        self.run = RunFolder.within(storage.storage_filesystem, storage.experiment_fs_path)
        self.messages = JobMessages()

    def last_reported(self) -> str | None:
        """The path of the last checkpoint in Ray Train's list."""
        reported = ray.train.get_checkpoint()
        return None if reported is None else reported.path

    def await_record(self) -> None:
        """The driver has opened it before it started the workers."""

    def report(self, payload: dict[str, Any], checkpoint: str | None) -> None:
        """Ray Train passes it on to the callbacks on its controller.

        The checkpoint is in its place already. Ray's own asynchronous upload is not used: it would hold back all reports
        until a checkpoint is written, and retry a full disk as a worker's failure.
        """
        written = None if checkpoint is None else Checkpoint(checkpoint, self.run.filesystem)
        ray.train.report(payload, written, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)
