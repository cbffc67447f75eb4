"""How a net is trained by several workers: DDP, compilation, and batch norm's statistics, which are each worker's own."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from vgg_dist.config import TrainSettings

# Its name since torch 2.15, and before.
_NAMES = inspect.signature(DistributedDataParallel.__init__).parameters
_SYNC_BUFFERS = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in _NAMES)


@dataclass(frozen=True)
class Worker:
    """Which part of the work this process does, and where."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009  a torch.device is immutable


def wrap(model: nn.Module, config: TrainSettings, world_size: int) -> tuple[nn.Module, DistributedDataParallel | None]:
    """What the training calls, and the DDP in it, if there are several workers. A collective call.

    From the second step on DDP's buckets are in the order of the backward pass, so the FC layers' gradients, most of all
    bytes, are sent while the convolutions' are computed. Batch norm's statistics stay where they are: see `share_buffers`.
    """
    net, ddp = model, None
    if world_size > 1:
        options: dict[str, Any] = {"gradient_as_bucket_view": True, _SYNC_BUFFERS: False}
        net = ddp = DistributedDataParallel(model, **options)
        if config.bf16_gradients:
            ddp.register_comm_hook(None, default_hooks.bf16_compress_hook)
    if config.compile:
        net = cast(nn.Module, torch.compile(net))
    return net, ddp


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Gives all workers rank 0's buffers (batch norm's running statistics), which are the ones that a checkpoint holds.

    A collective call, needed before anything is measured with them.
    """
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
