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
from vgg_dist.training.parallelism import Worker, set_sizes, share_buffers
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
    shares = [range(count * r // worker.world_size, count * (r + 1) // worker.world_size) for r in range(worker.world_size)]
    pieces = -(-max(map(len, shares)) // config.micro_batch)  # as many on all workers, which may share the FC layers
    sums = MetricSums(objective, worker.device)
    dtype = autocast_dtype(config.precision, worker.device)
    model.eval()
    with torch.no_grad(), _read_ahead(loader.store, worker) as ahead:
        members = [cut(shares[rank], pieces) for rank in worker.fc_ranks]
        fill = 0 if worker.device.type == "cpu" else config.micro_batch
        batches = loader.batches(_micro_batches(cut(shares[worker.rank], pieces), config.val_scale, fill, ahead))
        for number, batch in enumerate(batches):
            stop.check() if worker.fc_workers == 1 else stop.begin()
            set_sizes(model, [max(len(parts[number]), fill, 1) for parts in members])
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


def cut(images: range, pieces: int) -> list[range]:
    """Consecutive parts, as equal as possible; some are empty if there are fewer images than parts."""
    cuts = [images.start + len(images) * k // pieces for k in range(pieces + 1)]
    return [range(*ends) for ends in pairwise(cuts)]


def _micro_batches(parts: list[range], scale: int, fill: int, ahead: ReadAhead) -> Iterator[Samples]:
    """The samples of these images at smallest side `scale`, padded to `fill` and at least to one."""
    for part in parts:
        ahead.reached(part.start - parts[0].start)
        yield pad_samples(evaluation_samples(np.array(part, np.int64), scale), max(fill, 1))
