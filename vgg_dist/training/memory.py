"""Estimates the memory of a training without allocating it, and from that how large --micro-batch may be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy

from vgg_dist.config import TrainSettings
from vgg_dist.errors import TrainingError
from vgg_dist.models.build import build_model
from vgg_dist.models.precision import autocast, autocast_dtype
from vgg_dist.models.specs import MODELS
from vgg_dist.training.parallelism import Worker

MAX_IMAGES = 256  # per micro-batch: more do not make a GPU faster
CPU_IMAGES = 64

# For what the estimate leaves out: the CUDA context, workspaces of cuDNN and cuBLAS, NCCL's buffers, the image decoder, and
# fragmentation.
RESERVED_BYTES = 3 << 30
RESERVED_SHARE = 0.1
INPUT_COPIES = 6  # of each fp32 image: the loader's prefetched batches, and the buffers that they are made from


@dataclass(frozen=True)
class Footprint:
    """The memory of a training in bytes.

    `image`: activations that the forward pass of each image keeps for the backward pass; `input`: each fp32 image; `fixed`:
    what does not depend on the number of images.
    """

    image: int
    input: int
    fixed: int

    def images(self, total_bytes: int) -> int:
        """How many images fit at once into a memory of `total_bytes`, beside everything else; may be negative."""
        usable = total_bytes * (1 - RESERVED_SHARE) - RESERVED_BYTES - self.fixed
        return int(usable // (self.image + INPUT_COPIES * self.input))


def footprint(config: TrainSettings, num_classes: int, dtype: torch.dtype | None, fc_workers: int = 1) -> Footprint:
    """The footprint of a training with autocast to `dtype` (None: fp32), on rank 0.

    `fc_workers`: how many workers share the FC layers.
    """
    net = Net(config.arch, config.batch_norm, config.head, config.width, config.image_size, num_classes)
    return _footprint(net, dtype, fc_workers)


class Net(NamedTuple):
    """What the footprint of a net depends on."""

    arch: str
    batch_norm: bool
    head: str
    width: float
    image_size: int
    num_classes: int


@cache
def _footprint(net: Net, dtype: torch.dtype | None, fc_workers: int) -> Footprint:
    with FakeTensorMode():  # tracks shapes and dtypes without allocating
        model = build_model(**net._asdict())
        images = torch.empty(3, MODELS[net.arch].in_channels, net.image_size, net.image_size)
        two, three = (saved_bytes(model, images[:count].clone(), dtype) for count in (2, 3))
        features = model.features(images[:1]).numel()
    weights = sum(parameter.nbytes for parameter in model.parameters())
    fc = sum(parameter.nbytes for parameter in model.classifier.parameters())
    own = weights - fc + fc // fc_workers
    # Weights, gradients (DDP's buckets share their memory) and momentum; in autocast's dtype, copies of the weights and of
    # the gradients that are sent; and the snapshot of weights and momentum that a checkpoint is written from, for which FC
    # layers that are split are put together.
    copies = 3 * own + (0 if dtype is None else 2 * own * dtype.itemsize // 4)
    copies += 2 * weights + (2 * fc if fc_workers > 1 else 0)
    of_others = (fc_workers - 1) * features * (4 if dtype is None else dtype.itemsize)  # gathered for fc6
    return Footprint(three - two + of_others, images[0].nbytes, copies)


def saved_bytes(model: nn.Module, images: Tensor, dtype: torch.dtype | None) -> int:
    """Bytes that autograd keeps between forward and backward pass, besides parameters and buffers."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # views and in-place layers share their storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with autocast(images.device, dtype):
            logits = model(images)
        cross_entropy(logits.float(), torch.zeros(len(images), dtype=torch.long, device=images.device))
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in own)


def fitting_micro_batch(
    config: TrainSettings, num_classes: int, total_bytes: int, dtype: torch.dtype | None, fc_workers: int = 1
) -> int:
    """The largest micro-batch, up to 256, for a GPU with `total_bytes` of memory; 0 if none fits.

    Rounded down to a multiple of 32, or if it is smaller of 8, or to a power of two.
    """
    images = min(MAX_IMAGES, footprint(config, num_classes, dtype, fc_workers).images(total_bytes))
    return _rounded_down(images)


def _rounded_down(images: int) -> int:
    for unit in (32, 8, 4, 2, 1):
        if images >= unit:
            return images // unit * unit
    return 0


def default_micro_batch(config: TrainSettings, num_classes: int, worker: Worker) -> int:
    """The micro-batch that fits this worker, if --micro-batch is not given. Other workers may have other GPUs."""
    fits = CPU_IMAGES
    if worker.device.type == "cuda":
        dtype = autocast_dtype(config.precision, worker.device)
        total = torch.cuda.mem_get_info(worker.device)[1]
        fits = max(1, fitting_micro_batch(config, num_classes, total, dtype, worker.fc_workers))
    return min(fits, largest_share(config, worker.world_size))


def largest_share(config: TrainSettings, world_size: int) -> int:
    """The most images that one worker has in a step."""
    return -(-config.global_batch // world_size)


@contextmanager
def explained_memory_errors(config: TrainSettings, num_classes: int, worker: Worker) -> Iterator[None]:
    """Turns an out-of-memory error into a TrainingError that says how many images would fit."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        dtype = autocast_dtype(config.precision, worker.device)
        at_once = min(config.micro_batch or MAX_IMAGES, largest_share(config, worker.world_size))
        line = describe_shortage(config, num_classes, dtype, at_once, *_memory(worker.device), worker.fc_workers)
        raise TrainingError(line) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is out of memory, as torch, DALI, cuDNN, NCCL or the CPU's allocator raise it."""
    words = "out of memory", "ALLOC_FAILED", "can't allocate memory"
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def _memory(device: torch.device) -> tuple[str, int, int]:
    """A device's memory: its name, its bytes, and how many of them others than torch use."""
    if device.type != "cuda":
        return "memory", psutil.virtual_memory().total, 0
    free, total = torch.cuda.mem_get_info(device)
    return "GPU memory", total, total - free - torch.cuda.memory_reserved(device)


def describe_shortage(
    config: TrainSettings,
    num_classes: int,
    dtype: torch.dtype | None,
    at_once: int,
    kind: str,
    total: int,
    others: int,
    fc_workers: int = 1,
) -> str:
    """One line for a training that ran out of memory with `at_once` images; `kind`, `total`, `others`: see `_memory`."""
    foot = footprint(config, num_classes, dtype, fc_workers)
    precision = "fp32" if dtype is None else "bf16"
    taken = f"; other processes or the decoder use {others / 2**30:.0f} GB" if others > RESERVED_BYTES else ""
    fit = foot.images(total - others if taken else total)
    images = _rounded_down(min(fit, MAX_IMAGES) if fit < at_once else at_once // 2)  # the estimate was too high: try half
    said = f"about {images} should fit" if images else "not even one image fits"
    return (
        f"--micro-batch {at_once}: out of {kind} ({total / 2**30:.0f} GB{taken}) with {config.arch}"
        f"{' with batch norm' if config.batch_norm else ''} at {config.image_size} pixels in {precision},"
        f" about {_megabytes(foot.image)} MB an image; {said}"
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f}" if count >= 1e7 else f"{count / 1e6:.1g}"
