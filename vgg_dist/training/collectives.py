"""The two collective operations of FC layers that are split over workers: gathering rows, and summing and splitting them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from vgg_dist.training.network_wait import NetworkWait

# How long workers wait for each other's gradients. After that something hangs, and Ray Train restarts the workers. Long
# enough for a first step in which one worker compiles what the others have cached.
GRADIENTS_WAIT_S = 900


def all_gather(rows: Tensor, group: dist.ProcessGroup, wait: NetworkWait) -> Tensor:
    """The (n, ...) of all workers, by rank: (N n, ...). All must have the same shape."""
    gathered = rows.new_empty(dist.get_world_size(group) * len(rows), *rows.shape[1:])
    with wait.waiting():
        dist.all_gather_into_tensor(gathered, rows.contiguous(), group)
    return gathered


@dataclass(frozen=True)
class Pending:
    """A reduce-scatter that is under way."""

    work: dist.Work
    received: Tensor
    """The result; or with gloo what is still to be summed: (N, n, ...)."""
    inputs: Tensor
    """Kept until the work is done."""
    network_wait: NetworkWait

    def wait(self) -> Tensor:
        """The sum over all workers of this worker's part."""
        with self.network_wait.waiting():
            self.work.wait()
        if self.received.ndim == self.inputs.ndim:
            return self.received
        return self.received.sum(0, dtype=max_precision(self.received.dtype)).to(self.received.dtype)


def max_precision(dtype: torch.dtype) -> torch.dtype:
    """What values of `dtype` are summed in: fp32, or fp64 for fp64."""
    return torch.promote_types(dtype, torch.float32)


def start_reduce_scatter(rows: Tensor, group: dist.ProcessGroup, wait: NetworkWait) -> Pending:
    """Starts to sum the (N n, ...) of all workers; `Pending.wait` returns part number `rank` of N, (n, ...).

    gloo's own reduce-scatter is an all-reduce, with twice the bytes. There the parts are exchanged and summed here.
    """
    size, rows = dist.get_world_size(group), rows.contiguous()
    part = len(rows) // size
    if dist.get_backend(group) == "gloo":
        received = rows.new_empty(size, part, *rows.shape[1:])
        work = dist.all_to_all_single(received.flatten(0, 1), rows, group=group, async_op=True)
    else:
        received = rows.new_empty(part, *rows.shape[1:])
        work = dist.reduce_scatter_tensor(received, rows, group=group, async_op=True)
    assert work is not None
    return Pending(work, received, rows, wait)
