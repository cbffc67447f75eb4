"""How workers train a net together: DDP, split FC layers, gradient accumulation, compilation, memory format, batch norm."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from vgg_dist.config import TrainSettings
from vgg_dist.models.dropout import set_keys
from vgg_dist.models.precision import autocast, autocast_dtype, memory_format
from vgg_dist.models.vgg import ConvNet
from vgg_dist.training.fc_parallel import FcGroup, ShardedClassifier
from vgg_dist.training.network_wait import NetworkWait

# The argument's name since torch 2.15, and before.
_NAMES = inspect.signature(DistributedDataParallel.__init__).parameters
_SYNC_BUFFERS = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in _NAMES)

BUCKET_MB: int | None = None  # of DDP's buckets, MiB; None: 25, and 1 for the first. Measured in docs/scaling.md
POWERSGD_START = 10  # steps with whole gradients at the start; torch needs two, in which DDP orders its buckets


@dataclass(frozen=True)
class Worker:
    """One process of a training: its rank, how many there are, and the device that it computes on.

    `local_rank`, `local_world_size`: the same among the processes of its node, whose ranks are consecutive. `fc_workers`:
    how many workers share the FC layers, again of consecutive ranks; 1 if each has them whole.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009  a torch.device is immutable
    local_rank: int = 0
    local_world_size: int = 1
    fc_workers: int = 1

    @property
    def node_ranks(self) -> range:
        """The ranks of all processes of this node."""
        first = self.rank - self.local_rank
        return range(first, min(first + self.local_world_size, self.world_size))

    @property
    def fc_ranks(self) -> range:
        """The ranks of the workers that share the FC layers with this one."""
        first = self.rank // self.fc_workers * self.fc_workers
        return range(first, first + self.fc_workers)


class ParallelModel:
    """A model as one of several workers trains it. Constructing one is a collective call.

    How it is parallelised is decided here only. Its FC layers must have been split already (`TrainState.split_fc`).
    """

    def __init__(self, model: nn.Module, config: TrainSettings, worker: Worker, network_wait: NetworkWait) -> None:
        self.model = model
        self.seed = config.seed
        self.device = worker.device
        self.dtype = autocast_dtype(config.precision, worker.device)
        self.memory_format = memory_format(self.dtype, worker.device)
        self.net, self.ddps = wrap(model.train(), config, worker.world_size)
        self.network_wait = network_wait
        if self.ddps:  # the first layer's gradient is the last one: what follows is waiting for those of other workers
            first = next(model.parameters())
            first.register_post_accumulate_grad_hook(lambda parameter: network_wait.begin())

    def __call__(self, images: Tensor, members: Sequence[NDArray[np.int64]], step: int) -> Tensor:
        """Float images (N, C, H, W) to logits (N, num_classes), under autocast.

        `members`: which images each of the workers has that share the FC layers, by rank; or this worker's alone. `step`: of
        the run, for dropout.
        """
        set_sizes(self.model, [len(images) for images in members])
        set_keys(self.model.modules(), padded(members), self.seed, step, self.device)
        with autocast(self.device, self.dtype):
            return self.net(images.contiguous(memory_format=self.memory_format))

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss, and waits for those of other workers where `gradient_exchange` says so."""
        loss.backward()
        self.network_wait.end()

    def gradient_exchange(self, last: bool) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of a micro-batch: workers exchange gradients in the last one of a step."""
        without = ExitStack()
        for ddp in () if last else self.ddps:
            without.enter_context(ddp.no_sync())
        return without


def padded(members: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Arrays one after the other, each filled up with -1 to the length of the longest."""
    longest = max(map(len, members))
    return np.concatenate([np.pad(images, (0, longest - len(images)), constant_values=-1) for images in members])


def set_sizes(model: nn.Module, sizes: list[int]) -> None:
    """Says how many images each worker that shares the FC layers has in the next forward pass; by rank."""
    classifier = getattr(model, "classifier", None)
    if isinstance(classifier, ShardedClassifier):
        classifier.sizes = sizes


def wrap(model: nn.Module, config: TrainSettings, world_size: int) -> tuple[nn.Module, list[DistributedDataParallel]]:
    """The callable that trains, and the DDPs in it. A collective call.

    From the second step on DDP's buckets are in the order of the backward pass, so the gradients of the FC layers, which are
    most of the bytes, are sent while those of the convolutions are computed. DDP does not broadcast batch norm's statistics:
    see `share_buffers`.
    """
    ddps: list[DistributedDataParallel] = []

    def data_parallel(module: nn.Module, group: dist.ProcessGroup | None = None) -> nn.Module:
        options: dict[str, Any] = {"gradient_as_bucket_view": True, _SYNC_BUFFERS: False}
        ddp = DistributedDataParallel(module, process_group=group, bucket_cap_mb=BUCKET_MB, **options)
        compress(ddp, config, group)
        ddps.append(ddp)
        return ddp

    net, classifier = model, getattr(model, "classifier", None)
    if isinstance(classifier, ShardedClassifier):
        group: FcGroup = classifier.group
        body = data_parallel(_Features(cast(ConvNet, model)))
        body = cast(nn.Module, torch.compile(body)) if config.compile else body
        head = classifier if group.replicas is None else data_parallel(classifier, group.replicas)
        return nn.Sequential(body, head), ddps
    if world_size > 1:
        net = data_parallel(model)
    return cast(nn.Module, torch.compile(net)) if config.compile else net, ddps


class _Features(nn.Module):
    """A net without its classifier."""

    def __init__(self, model: ConvNet) -> None:
        super().__init__()
        self.features = model.features
        self.avgpool = model.avgpool

    def forward(self, images: Tensor) -> Tensor:
        return torch.flatten(self.avgpool(self.features(images)), 1)


def compress(ddp: DistributedDataParallel, config: TrainSettings, group: dist.ProcessGroup | None) -> None:
    """Compresses the gradients that a DDP exchanges, as --bf16-gradients and --powersgd-rank say."""
    hook: Any = default_hooks.allreduce_hook
    state: Any = group
    if config.powersgd_rank:
        state = powerSGD_hook.PowerSGDState(
            group, matrix_approximation_rank=config.powersgd_rank, start_powerSGD_iter=POWERSGD_START
        )
        hook = _powersgd
    if config.bf16_gradients:
        # torch has a hook in C++ for fp16 only, whose range the first gradients of a deep net leave.
        hook = default_hooks.bf16_compress_wrapper(hook) if config.powersgd_rank else default_hooks.bf16_compress_hook
    if config.powersgd_rank or config.bf16_gradients:
        ddp.register_comm_hook(state, hook)


@functools.wraps(powerSGD_hook.powerSGD_hook)  # DDP looks at the signature
def _powersgd(state: powerSGD_hook.PowerSGDState, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """torch's hook, which on gloo finishes each bucket before the next.

    It starts all-reduces in callbacks. On gloo, workers would start those of several buckets in different orders, and hang.
    """
    reduced = powerSGD_hook.powerSGD_hook(state, bucket)
    if dist.get_backend(state.process_group) == "gloo":
        reduced.wait()
    return reduced


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Broadcasts rank 0's buffers (batch norm's running statistics), which are the ones that a checkpoint holds.

    A collective call, needed before a validation.
    """
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
