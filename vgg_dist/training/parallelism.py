"""How workers train a net together: DDP, gradient accumulation, compilation, memory format, and batch norm's statistics."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from vgg_dist.config import TrainSettings
from vgg_dist.models.precision import autocast, autocast_dtype, memory_format

# The argument's name since torch 2.15, and before.
_NAMES = inspect.signature(DistributedDataParallel.__init__).parameters
_SYNC_BUFFERS = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in _NAMES)


@dataclass(frozen=True)
class Worker:
    """One process of a training: its rank, how many there are, and the device that it computes on.

    `local_rank`, `local_world_size`: the same among the processes of its node, whose ranks are consecutive.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009  a torch.device is immutable
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def node_ranks(self) -> range:
        """The ranks of all processes of this node."""
        first = self.rank - self.local_rank
        return range(first, min(first + self.local_world_size, self.world_size))


class ParallelModel:
    """A model as one of several workers trains it. Constructing one is a collective call.

    The model may be any module; how it is parallelised is decided here only.
    """

    def __init__(self, model: nn.Module, config: TrainSettings, worker: Worker) -> None:
        self.device = worker.device
        self.dtype = autocast_dtype(config.precision, worker.device)
        self.memory_format = memory_format(self.dtype, worker.device)
        self.net, self.ddp = wrap(model.train(), config, worker.world_size)

    def __call__(self, images: Tensor) -> Tensor:
        """Float images (N, C, H, W) to logits (N, num_classes), under autocast."""
        with autocast(self.device, self.dtype):
            return self.net(images.contiguous(memory_format=self.memory_format))

    def gradient_exchange(self, last: bool) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of a micro-batch: workers exchange gradients in the last one of a step."""
        return nullcontext() if self.ddp is None or last else self.ddp.no_sync()


def wrap(model: nn.Module, config: TrainSettings, world_size: int) -> tuple[nn.Module, DistributedDataParallel | None]:
    """The callable that trains, and the DDP in it if there are several workers. A collective call.

    From the second step on DDP's buckets are in the order of the backward pass, so the gradients of the FC layers, which are
    most of the bytes, are sent while those of the convolutions are computed. DDP does not broadcast batch norm's statistics:
    see `share_buffers`.
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
    """Broadcasts rank 0's buffers (batch norm's running statistics), which are the ones that a checkpoint holds.

    A collective call, needed before a validation.
    """
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
