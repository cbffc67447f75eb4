"""Validation at the centre crop, by all workers together, as after each epoch. For the paper's tests see evaluation/."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from pipelines.loading.epoch_plan import Samples, evaluation_samples, pad_samples
from pipelines.loading.loader import Loader
from pipelines.stores.sample_store import ReadAhead, SampleStore
from vgg_dist.config import WorkerSettings
from vgg_dist.models.precision import autocast, autocast_dtype
from vgg_dist.training.bad_images import describe_bad
from vgg_dist.training.metrics import MetricSums
from vgg_dist.training.objective import CrossEntropy, Objective
from vgg_dist.training.parallelism import Worker, share_buffers
from vgg_dist.training.stopping import StopAgreement

_logger = logging.getLogger(__name__)


def validate(
    model: nn.Module,
    loader: Loader,
    config: WorkerSettings,
    worker: Worker,
    stop: StopAgreement | None = None,
    objective: Objective | None = None,
) -> dict[str, float]:
    """The objective's metrics (by default loss and errors) over all images of the loader's store, each counted exactly once.

    A collective call; the result does not depend on the number of workers. It uses rank 0's batch-norm statistics, as the
    checkpoint does. Images that cannot be decoded are left out; if there are any, `bad_images` is their number over all
    workers. Raises, on all workers alike, ValueError if there are more of them than --max-bad-images or no others, and
    AllStop if `stop` says so.
    """
    stop, objective = stop or StopAgreement(), objective or CrossEntropy()
    share_buffers(model)
    count = len(loader.store)
    first, last = (count * r // worker.world_size for r in (worker.rank, worker.rank + 1))
    sums = MetricSums(objective, worker.device)
    dtype = autocast_dtype(config.precision, worker.device)
    samples = evaluation_samples(np.arange(first, last), config.val_scale)
    model.eval()
    with torch.no_grad(), _read_ahead(loader.store, worker) as ahead:
        size = config.micro_batch
        for batch in loader.batches(_micro_batches(samples, size, 0 if worker.device.type == "cpu" else size, ahead)):
            stop.check()
            with autocast(worker.device, dtype):
                logits = model(batch.images).float()
            sums.add(logits, batch, objective.loss_sum(logits, batch))
    model.train()
    stop.begin()
    total = sums.reduce()
    bad = count - int(total.sums[-1])
    if not bad:
        return total.means()
    names = describe_bad(loader.bad_images, worker.device)
    which = f"{bad} of {count} validation images cannot be decoded"
    if bad > config.max_bad_images:
        raise ValueError(f"--max-bad-images {config.max_bad_images}: {which}: {names}")
    if bad == count:
        raise ValueError(f"--data {config.data}: {which}: {names}")
    if worker.rank == 0:
        _logger.warning("%s and are left out of the errors: %s", which, names)
    return total.means() | {"bad_images": float(bad)}


def _read_ahead(store: SampleStore, worker: Worker) -> AbstractContextManager[ReadAhead]:
    """Copies shards ahead of this node's workers, each of which reads a run of consecutive images."""
    if store.cache_use() is None:
        return nullcontext(ReadAhead())
    ends = [len(store) * r // worker.world_size for r in (*worker.node_ranks, worker.node_ranks.stop)]
    times = np.concatenate([np.arange(last - first) for first, last in pairwise(ends)])
    in_turn = np.argsort(times, kind="stable")
    return store.fetch_ahead(
        np.arange(ends[0], ends[-1])[in_turn], times[in_turn], worker.local_rank, len(worker.node_ranks)
    )


def _micro_batches(samples: Samples, size: int, fill: int, ahead: ReadAhead) -> Iterator[Samples]:
    for start in range(0, len(samples), size):
        ahead.reached(start)
        yield pad_samples(samples[start : start + size], fill)
