"""One run of a TorchTrainer: how it is built, and how it ends: with a result, a failure, or because it is told to stop."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ray.exceptions
import ray.train
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.callback import RayTrainCallback

from vgg_dist.config import TrainSettings
from vgg_dist.config.worker_range import WorkerRange
from vgg_dist.errors import TrainingError
from vgg_dist.launch.elastic import LOOK_S, ElasticTrainer
from vgg_dist.launch.failures import root_cause
from vgg_dist.launch.follow import Started, check_value, follow
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.ray_cluster.lost_ray import describe_loss
from vgg_dist.storage import open_storage
from vgg_dist.training.collectives import GRADIENTS_WAIT_S
from vgg_dist.training.stopping import training_key


def build_trainer(
    config: TrainSettings,
    resources: list[dict[str, float]],
    train_worker: Callable[[], Any],
    callbacks: Sequence[RayTrainCallback],
    prefix: str = "",
) -> TorchTrainer:
    """The TorchTrainer of a run; `resources`: what each worker reserves. `prefix`: in front of each line.

    The settings travel within `train_worker`, secrets included: train_loop_config is shown on Ray's dashboard, and in its
    logs.
    """
    filesystem, path = open_storage(config.storage_path)
    kind: Callable[..., TorchTrainer] = TorchTrainer
    workers: int | tuple[int, int] = len(resources)
    if isinstance(config.num_workers, WorkerRange):
        kind = partial(ElasticTrainer, run=config.name, prefix=prefix)
        workers = config.num_workers.least, config.num_workers.most
    if "GPU" in resources[0]:
        # Restarts the group where its workers' counts of NCCL operations differ and stand still for ten minutes, as loaders
        # retry their storage for seven.
        os.environ.setdefault("RAY_TRAIN_ENABLE_NCCL_HANG_DETECTOR", "1")
        os.environ.setdefault("RAY_TRAIN_NCCL_RAS_ACTION", "fail")
    return kind(
        train_worker,
        train_loop_config=config.to_dict(),
        torch_config=TorchConfig(timeout_s=GRADIENTS_WAIT_S),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu="GPU" in resources[0],
            resources_per_worker=resources[0],
            elastic_resize_monitor_interval_s=LOOK_S,
        ),
        run_config=RunConfig(
            name=config.name,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            # Preempted nodes are not counted: max_preemption_failures is -1, no limit.
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=list(callbacks),
            # Its warnings repeat every second without a dashboard; failures reach `ReportCallback.after_exception`.
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def fit(trainer: TorchTrainer, config: TrainSettings, messages: JobMessages, say: Callable[[str], None]) -> ray.train.Result:
    """Trains, and returns the result. TrainingError for a failure; Interrupted once the training has stopped as told.

    `say` is called with a line on a stop that takes a while.
    """
    messages.remove(training_key(config.name))  # left by an earlier start
    try:
        result = follow(Started(trainer.fit), config, messages, say)
    except ray.train.TrainingFailedError as error:
        raise TrainingError(root_cause(error)) from None
    except ray.exceptions.RayError as error:
        raise TrainingError(describe_loss(error, "Ray Train's controller", f"--name {config.name}")) from None
    check_value(result.return_value or {}, config, messages)
    return result
