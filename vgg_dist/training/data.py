"""What a training reads: its epoch plan's draws, its loaders, and whether its images suffice."""

from __future__ import annotations

import torch

from pipelines.loading.epoch_plan import Augmentation
from pipelines.loading.loader import Loader
from pipelines.loading.open import loader_threads, open_loader
from pipelines.loading.preprocessing import Preprocessing
from pipelines.stores.sample_store import SampleStore
from vgg_dist.config import TrainConfig
from vgg_dist.models.precision import (
    autocast_dtype,
)
from vgg_dist.models.specs import MODELS
from vgg_dist.training.parallelism import Worker


def augmentation(config: TrainConfig) -> Augmentation:
    """What the config says about the plan's draws."""
    assert config.train_scale is not None
    return Augmentation(config.train_scale.ends, config.flip, config.color_shift)


def check_images(config: TrainConfig, num_train: int, num_val: int, world_size: int) -> None:
    """ValueError, one line, if the data has fewer images than there are workers."""
    for split, count in (("train", num_train), ("val", num_val)):
        if count < world_size:
            raise ValueError(f"--data {config.data}: {count} images in {split} for {world_size} workers; at least one each")


def open_loaders(config: TrainConfig, worker: Worker, train: SampleStore, val: SampleStore) -> tuple[Loader, Loader]:
    """The loaders of a worker's training images, cropped at random, and of its validation images, cropped at the centre."""
    spec = MODELS[config.arch]

    def loader(store: SampleStore, center: bool, pad: int) -> Loader:
        preprocessing = Preprocessing(
            config.image_size or 0, spec.pixel_mean, spec.pixel_std, center, pad, config.max_pixels
        )
        return open_loader(
            store,
            preprocessing,
            num_threads=loader_threads(config.loader_threads),
            max_batch=config.micro_batch or 0,
            device=worker.device,
            dtype=autocast_dtype(config.precision, worker.device) or torch.float32,
            deterministic=config.deterministic,
        )

    return loader(train, False, config.pad), loader(val, True, 0)
