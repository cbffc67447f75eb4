"""How much memory a training takes, computed without taking any; from that, how many images a worker handles at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

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

MOST = 256  # images at once: with more of them a GPU is not faster
ON_CPU = 64

# For what is not computed here: the CUDA context, the workspaces of cuDNN and cuBLAS, NCCL's buffers, the image decoder, and
# what fragmentation takes.
RESERVED_BYTES = 3 << 30
RESERVED_SHARE = 0.1
INPUT_COPIES = 6  # of each image in fp32: the loader's batches that are ready or under way, and what they are made from


@dataclass(frozen=True)
class Footprint:
    """Bytes: `image` of what each image's forward pass keeps for the backward pass, and of its `input` in fp32; `fixed` of
    what does not depend on the number of images.
    """

    image: int
    input: int
    fixed: int

    def images(self, total_bytes: int) -> int:
        """How many images at once fit beside the rest into a memory of so many bytes; may be negative."""
        usable = total_bytes * (1 - RESERVED_SHARE) - RESERVED_BYTES - self.fixed
        return int(usable // (self.image + INPUT_COPIES * self.input))


def footprint(config: TrainSettings, num_classes: int, dtype: torch.dtype | None) -> Footprint:
    """Of a training with autocast to `dtype`, None for fp32."""
    return _footprint(config.arch, config.batch_norm, config.head, config.image_size, num_classes, dtype)


@cache
def _footprint(arch: str, batch_norm: bool, head: str, size: int, num_classes: int, dtype: torch.dtype | None) -> Footprint:
    with FakeTensorMode():  # knows the shape and dtype of everything, and allocates nothing
        model = build_model(arch, num_classes=num_classes, batch_norm=batch_norm, head=head, image_size=size)
        images = torch.empty(3, MODELS[arch].in_channels, size, size)
        two, three = (saved_bytes(model, images[:count].clone(), dtype) for count in (2, 3))
    weights = sum(parameter.nbytes for parameter in model.parameters())
    # Weights, gradients (in DDP's buckets, which need no copy) and momentum; the copies of weights and momentum that a
    # checkpoint is written from; autocast's copies of the weights, and those that gradients are sent as.
    copies = 5 * weights + (0 if dtype is None else 2 * weights * dtype.itemsize // 4)
    return Footprint(three - two, images[0].nbytes, copies)


def saved_bytes(model: nn.Module, images: Tensor, dtype: torch.dtype | None) -> int:
    """Bytes that autograd keeps between a step's forward and backward pass, besides the model's own tensors."""
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


def fitting_micro_batch(config: TrainSettings, num_classes: int, total_bytes: int, dtype: torch.dtype | None) -> int:
    """The most images at once, up to 256, for a GPU of so much memory; 0 if not even one fits.

    A multiple of 32, below that of 8, below that a power of two.
    """
    images = min(MOST, footprint(config, num_classes, dtype).images(total_bytes))
    return _rounded_down(images)


def _rounded_down(images: int) -> int:
    for unit in (32, 8, 4, 2, 1):
        if images >= unit:
            return images // unit * unit
    return 0


def default_micro_batch(config: TrainSettings, num_classes: int, device: torch.device, world_size: int) -> int:
    """What this worker can take where --micro-batch is not given; the other workers may have other GPUs."""
    fits = ON_CPU
    if device.type == "cuda":
        dtype = autocast_dtype(config.precision, device)
        fits = max(1, fitting_micro_batch(config, num_classes, torch.cuda.mem_get_info(device)[1], dtype))
    return min(fits, share(config, world_size))


def share(config: TrainSettings, world_size: int) -> int:
    """Images of the largest part of a step that a worker has."""
    return -(-config.global_batch // world_size)


@contextmanager
def explained_memory_errors(
    config: TrainSettings, num_classes: int, device: torch.device, world_size: int
) -> Iterator[None]:
    """Raises a TrainingError for an error that comes of too little memory: it says what would fit."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        dtype = autocast_dtype(config.precision, device)
        at_once = min(config.micro_batch or MOST, share(config, world_size))
        line = describe_shortage(config, num_classes, dtype, at_once, *_memory(device))
        raise TrainingError(line) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is torch's own kind, or what DALI, cuDNN, NCCL and the CPU's allocator say."""
    words = "out of memory", "ALLOC_FAILED", "can't allocate memory"
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def _memory(device: torch.device) -> tuple[str, int, int]:
    """What kind of memory a device has, its bytes, and how many of them are in use by others than torch."""
    if device.type != "cuda":
        return "memory", psutil.virtual_memory().total, 0
    free, total = torch.cuda.mem_get_info(device)
    return "GPU memory", total, total - free - torch.cuda.memory_reserved(device)


def describe_shortage(
    config: TrainSettings, num_classes: int, dtype: torch.dtype | None, at_once: int, kind: str, total: int, others: int
) -> str:
    """The line for a training that ran out of memory with `at_once` images; `kind`, `total`, `others`: see `_memory`."""
    foot = footprint(config, num_classes, dtype)
    precision = "fp32" if dtype is None else "bf16"
    taken = f"; {others / 2**30:.0f} GB of it are of other processes, or the decoder's" if others > RESERVED_BYTES else ""
    fit = foot.images(total - others if taken else total)
    images = _rounded_down(min(fit, MOST) if fit < at_once else at_once // 2)  # the estimate was wrong
    said = f"about {images} should fit" if images else "not even one image fits"
    return (
        f"--micro-batch {at_once}: out of {kind} ({total / 2**30:.0f} GB{taken}) with {config.arch}"
        f"{' with batch norm' if config.batch_norm else ''} at {config.image_size} pixels in {precision},"
        f" about {_megabytes(foot.image)} MB an image; {said}"
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f}" if count >= 1e7 else f"{count / 1e6:.1g}"
