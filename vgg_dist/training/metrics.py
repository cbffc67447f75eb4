"""Metrics as sums on the device, divided once, after one all-reduce over the workers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.loading.loader import Batch
from vgg_dist.training.objective import Objective


class MetricSums:
    """An objective's sums over the images of any number of batches.

    `sums`: (len(objective.fields),) float64 on the device. Nothing waits for the device until `means` is called.
    """

    def __init__(self, objective: Objective, device: torch.device) -> None:
        self.objective = objective
        self.sums = torch.zeros(len(objective.fields), dtype=torch.float64, device=device)

    def add(self, outputs: Tensor, batch: Batch, loss_sum: Tensor) -> None:
        """Adds a batch: the net's outputs for it, and the loss summed over its images."""
        self.sums += self.objective.sums(outputs, batch, loss_sum)

    def reduce(self) -> MetricSums:
        """The sums over all workers; a collective call, every worker must make it."""
        total = MetricSums(self.objective, self.sums.device)
        total.sums.copy_(self.sums)
        if dist.is_initialized():
            dist.all_reduce(total.sums)
        return total

    def means(self) -> dict[str, float]:
        """The metrics by name; NaN if no image was counted. Waits for the device."""
        return self.objective.means(self.sums.tolist())


def reduce_with_one_read(sums: Tensor, local: Sequence[float], smallest: Tensor) -> tuple[list[float], list[float], float]:
    """`sums` and `local` summed over all workers, and the minimum of `smallest` (a scalar), with one read of the device.

    A collective call. `sums`, `smallest`: float64 on the device; `local`: numbers of this worker's host.
    """
    total = torch.cat([sums, torch.tensor(local, dtype=torch.float64, device=sums.device)])
    least = smallest.clone()
    if dist.is_initialized():
        dist.all_reduce(total)
        dist.all_reduce(least, dist.ReduceOp.MIN)
    *values, last = torch.cat([total, least[None]]).tolist()
    return values[: len(sums)], values[len(sums) :], last
