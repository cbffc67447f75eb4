"""The data of a training: its augmentation, the plans of its epochs, this worker's steps, and its loaders.

For data in shards behind a URL, also what this node copies into its cache, and when.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.loading.epoch_plan import Augmentation, EpochPlan, Samples, Step, pad_samples
from pipelines.loading.loader import Loader
from pipelines.loading.open import loader_threads, open_loader
from pipelines.loading.preprocessing import Preprocessing
from pipelines.stores.sample_store import ReadAhead, SampleStore
from vgg_dist.config import TrainSettings, WorkerSettings
from vgg_dist.models.precision import autocast_dtype
from vgg_dist.models.specs import MODELS
from vgg_dist.training.parallelism import Worker

FILLED_SHARE = 8  # a micro-batch that lacks at most an eighth of the images is padded to the common shape


def augmentation(config: TrainSettings) -> Augmentation:
    """The scales, flips and colour shifts that the plan of an epoch draws."""
    return Augmentation(config.train_scale.ends, config.flip, config.color_shift)


def check_images(config: TrainSettings, num_train: int, num_val: int, world_size: int) -> None:
    """ValueError, one line, if the data has fewer images than there are workers."""
    for split, count in (("train", num_train), ("val", num_val)):
        if count < world_size:
            raise ValueError(f"--data {config.data}: {count} images in {split} for {world_size} workers; at least one each")


def open_loaders(config: WorkerSettings, worker: Worker, train: SampleStore, val: SampleStore) -> tuple[Loader, Loader]:
    """The loader of training images, which are cropped at random, and that of validation images, cropped at the centre."""
    spec = MODELS[config.arch]

    def loader(store: SampleStore, center: bool, pad: int) -> Loader:
        preprocessing = Preprocessing(config.image_size, spec.pixel_mean, spec.pixel_std, center, pad, config.max_pixels)
        return open_loader(
            store,
            preprocessing,
            num_threads=loader_threads(config.loader_threads),
            max_batch=config.micro_batch,
            device=worker.device,
            dtype=autocast_dtype(config.precision, worker.device) or torch.float32,
            deterministic=config.deterministic,
        )

    return loader(train, False, config.pad), loader(val, True, 0)


class EpochPlans:
    """The plan of each epoch. The next one is drawn in the background, as a million images take seconds."""

    def __init__(self, config: WorkerSettings, store: SampleStore) -> None:
        self.config = config
        self.num_images = len(store)
        self.shards = store.shards() if config.shuffle == "blocks" else None
        self._next: tuple[int, Future[EpochPlan]] | None = None

    def plan(self, epoch: int) -> EpochPlan:
        """The samples of an epoch, a function of the seed and the epoch alone; starts drawing the next one."""
        plan = self._next[1].result() if self._next and self._next[0] == epoch else self._draw(epoch)
        if epoch + 1 < self.config.epochs:
            thread = ThreadPoolExecutor(1, thread_name_prefix="plan")
            self._next = epoch + 1, thread.submit(self._draw, epoch + 1)
            thread.shutdown(wait=False)
        return plan

    def _draw(self, epoch: int) -> EpochPlan:
        return EpochPlan(self.num_images, self.config.seed, epoch, augmentation(self.config), self.shards)


def worker_steps(
    plan: EpochPlan, config: WorkerSettings, worker: Worker, samples: int, first_step: int, one_shape: bool
) -> Iterator[Step]:
    """This worker's part of the rest of an epoch, of which `samples` images are used, from optimizer step `first_step` on.

    `one_shape`: micro-batches are padded to one size, because kernels are tuned per shape.
    """
    micro_batch = config.micro_batch
    size = plan.largest_micro_batch(config.global_batch, worker.world_size, micro_batch)
    steps = plan.steps(samples, config.global_batch, worker.rank, worker.world_size, micro_batch)
    for number, step in enumerate(steps, start=first_step):
        if config.max_steps is not None and number >= config.max_steps:
            return
        largest = -(-step.count // (worker.world_size * len(step.micro_batches)))  # over all workers, which so do the same
        # A step that lacks more is the rest of one that was begun with other settings: its micro-batches keep their shape.
        if one_shape and largest >= size - size // FILLED_SHARE:
            step = Step(step.end, step.count, [pad_samples(micro, size) for micro in step.micro_batches])
        yield step


Members = Sequence[NDArray[np.int64]]
"""Which images each of the workers has in a micro-batch that share the FC layers, by rank; -1 for what pads it."""


def fc_members(plan: EpochPlan, step: Step, config: WorkerSettings, worker: Worker) -> list[Members]:
    """For each micro-batch of a step what the workers have that share the FC layers; or this one, if it has them alone."""
    own = [micro.index for micro in step.micro_batches]
    if worker.fc_workers == 1:
        return [[images] for images in own]
    of_ranks = plan.micro_batch_images(step, worker.fc_ranks, worker.world_size, config.micro_batch)
    of_ranks[worker.fc_ranks.index(worker.rank)] = own  # padded, if all workers pad theirs to one size
    return list(zip(*of_ranks, strict=True))


def read_ahead(
    plan: EpochPlan, config: WorkerSettings, worker: Worker, samples: int, store: SampleStore
) -> AbstractContextManager[ReadAhead]:
    """Copies shards ahead of this node's workers while they train the rest of an epoch, of which `samples` images are used.

    Only for --shuffle blocks: with a full shuffle any image may be next, so no shard is worth copying for what is next.
    """
    if config.shuffle == "full" or store.cache_use() is None:
        return nullcontext(ReadAhead())
    ranks = worker.node_ranks
    indices, ends = plan.node_samples(samples, config.global_batch, ranks, worker.world_size)
    return store.fetch_ahead(indices, ends, worker.local_rank, len(ranks))


def micro_batches(steps: Iterable[Step], ahead: ReadAhead) -> Iterator[Samples]:
    """The micro-batches of these steps; tells `ahead` which step is being read."""
    for step in steps:
        ahead.reached(step.end)
        yield from step.micro_batches
