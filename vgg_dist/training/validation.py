"""The errors of a net on the validation images, by all workers together (paper, section 4)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pipelines.loading.epoch_plan import Samples, evaluation_samples, filled
from pipelines.loading.loader import Loader
from vgg_dist.config import WorkerSettings
from vgg_dist.models.precision import autocast, autocast_dtype
from vgg_dist.training.bad_images import describe_bad
from vgg_dist.training.metrics import ErrorSums
from vgg_dist.training.parallelism import Worker, share_buffers
from vgg_dist.training.stopping import StopAgreement

_logger = logging.getLogger(__name__)


def validate(
    model: nn.Module, loader: Loader, config: WorkerSettings, worker: Worker, stop: StopAgreement | None = None
) -> dict[str, float]:
    """Loss and errors over all images of the loader's store, each counted exactly once, on whatever number of workers.

    With rank 0's batch-norm statistics, so that the errors are the checkpoint's. Images that cannot be decoded are left out
    and counted, over all workers, as `bad_images` where there are any. ValueError, on all workers alike, if there are more
    than --max-bad-images, or no others. AllStop, on all workers alike, where `stop` says so.
    """
    stop = stop or StopAgreement()
    share_buffers(model)
    count = len(loader.store)
    first, last = (count * r // worker.world_size for r in (worker.rank, worker.rank + 1))
    sums = ErrorSums(worker.device)
    dtype = autocast_dtype(config.precision, worker.device)
    samples = evaluation_samples(np.arange(first, last), config.val_scale)
    model.eval()
    with torch.no_grad():
        size = config.micro_batch
        for batch in loader.batches(_micro_batches(samples, size, 0 if worker.device.type == "cpu" else size)):
            stop.check()
            with autocast(worker.device, dtype):
                logits = model(batch.images).float()
            sums.add(logits, batch.labels, cross_entropy(logits, batch.labels, reduction="sum"))
    model.train()
    stop.begin()
    total = sums.reduce()
    bad = count - int(total.sums[-1])
    if not bad:
        return total.result()
    names = describe_bad(loader.bad_images, worker.device)
    which = f"{bad} of {count} validation images cannot be decoded"
    if bad > config.max_bad_images:
        raise ValueError(f"--max-bad-images {config.max_bad_images}: {which}: {names}")
    if bad == count:
        raise ValueError(f"--data {config.data}: {which}: {names}")
    if worker.rank == 0:
        _logger.warning("%s and are left out of the errors: %s", which, names)
    return total.result() | {"bad_images": float(bad)}


def _micro_batches(samples: Samples, size: int, fill: int) -> Iterator[Samples]:
    for start in range(0, len(samples), size):
        yield filled(samples[start : start + size], fill)
