"""FC layers that a group of workers shares, while the convolutions are data-parallel (Krizhevsky 2014, arXiv:1404.5997).

Each worker of a group of N has 1/N of every FC layer. The features of all images of the group are gathered, and each worker
computes its units of fc6 from them. Of fc7 and fc8 it has the weights of the inputs that it computed; their outputs are
summed over the group and split again, after fc7 by units, after fc8 by images. So a group exchanges features and their
gradients; the gradients of weights are exchanged between groups only.

    (n, F) --gather--> fc6: (N n, 4096 / N) --fc7, sum, split--> (N n, 4096 / N) --fc8, sum, split--> (n, classes)

These are Megatron's column- and row-parallel layers (arXiv:1909.08053), as in torch's ColwiseParallel and RowwiseParallel
with inputs and outputs split by images. They are written out here because workers may have different numbers of images,
dropout masks must not depend on the layout, and gloo's reduce-scatter sends twice the bytes that are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from vgg_dist.models.dropout import KeyedDropout
from vgg_dist.training.collectives import GRADIENTS_WAIT_S, all_gather, start_reduce_scatter
from vgg_dist.training.network_wait import NetworkWait

CUT_DIMENSIONS = ({"weight": 0, "bias": 0}, {"weight": 1, "bias": 0}, {"weight": 1, "bias": 0})
"""Along which dimension the parameters of fc6, fc7 and fc8 are split: fc6 by its outputs, the others by their inputs."""


@dataclass(frozen=True)
class FcGroup:
    """The workers that share the FC layers with this one, and those of other groups that have the same part of them."""

    number: int
    """Which group this is."""
    rank: int
    """Which of its parts this worker has."""
    size: int
    process_group: dist.ProcessGroup
    replicas: dist.ProcessGroup | None
    """The workers with the same part, one of each group; None if there is one group only."""
    network_wait: NetworkWait
    """Measures how long the device waits for the group."""

    def cut(self, tensor: Tensor, dimension: int) -> Tensor:
        """This worker's part of a tensor: a copy."""
        return tensor.tensor_split(self.size, dimension)[self.rank].clone(memory_format=torch.contiguous_format)

    def gather(self, part: Tensor, dimension: int, length: int) -> Tensor:
        """The whole tensor, on the first worker of the group; on the others their part. All of the group must call it.

        `length`: of the whole tensor, along `dimension`.
        """
        lengths = _lengths(length, self.size)
        padding = [0, 0] * (part.ndim - 1 - dimension) + [0, lengths[0] - part.shape[dimension]]
        padded = pad(part, padding).contiguous()
        parts = None if self.rank else [torch.empty_like(padded) for _ in range(self.size)]
        first = dist.get_global_rank(self.process_group, 0)
        dist.gather(padded, parts, first, self.process_group)
        if parts is None:
            return part
        return torch.cat([p.narrow(dimension, 0, n) for p, n in zip(parts, lengths, strict=True)], dimension)


def _lengths(length: int, parts: int) -> list[int]:
    """The lengths that `tensor_split` gives."""
    return [length // parts + (k < length % parts) for k in range(parts)]


def make_group(size: int, rank: int, world_size: int, network_wait: NetworkWait) -> FcGroup:
    """The group of `size` consecutive workers that this one is in. A collective call of all workers."""
    number, place = divmod(rank, size)
    timeout = timedelta(seconds=GRADIENTS_WAIT_S)

    def process_groups(ranks: list[range]) -> list[dist.ProcessGroup]:  # which all workers must make, in this order
        return [cast(dist.ProcessGroup, dist.new_group(list(each), timeout)) for each in ranks]

    groups = process_groups([range(first, first + size) for first in range(0, world_size, size)])
    same_part = process_groups([range(part, world_size, size) for part in range(size if size < world_size else 0)])
    return FcGroup(number, place, size, groups[number], same_part[place] if same_part else None, network_wait)


class _GatherLinear(torch.autograd.Function):
    """A linear layer on the inputs of all workers of a group. Gradients of its parameters are divided by their number.

    The latter because DDP divides the gradients of the convolutions by the number of all workers, and those of the FC layers
    by the number of groups only.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, group: FcGroup) -> Tensor:
        gathered = all_gather(inputs, group.process_group, group.network_wait)
        ctx.save_for_backward(gathered, weight)
        ctx.group = group
        return linear(gathered, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gathered, weight = ctx.saved_tensors
        pending = start_reduce_scatter(gradient @ weight, ctx.group.process_group, ctx.group.network_wait)
        of_weight, of_bias = gradient.t() @ gathered, gradient.sum(0)  # while the inputs' gradients travel
        return pending.wait() * ctx.group.size, of_weight, of_bias, None


class _SplitUnits(torch.autograd.Function):
    """The sum over a group of (rows, units) -> this worker's units of all rows."""

    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: FcGroup) -> Tensor:
        ctx.group = group
        pieces = partial.unflatten(1, (group.size, -1)).transpose(0, 1)
        return start_reduce_scatter(pieces.flatten(0, 1), group.process_group, group.network_wait).wait()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gathered = all_gather(gradient, ctx.group.process_group, ctx.group.network_wait)
        return gathered.unflatten(0, (ctx.group.size, -1)).transpose(0, 1).flatten(1), None


class _SplitRows(torch.autograd.Function):
    """The sum over a group of (rows of all workers, units) -> the rows of this worker's images."""

    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: FcGroup) -> Tensor:
        ctx.group = group
        return start_reduce_scatter(partial, group.process_group, group.network_wait).wait()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        # The division makes the gradients of all FC parameters means over the group; see _GatherLinear.
        return all_gather(gradient, ctx.group.process_group, ctx.group.network_wait) / ctx.group.size, None


class _ShardedLinear(nn.Module):
    """The part of an FC layer that one worker has. Its parameters are called as those of nn.Linear."""

    def __init__(self, layer: nn.Linear, number: int, group: FcGroup) -> None:
        super().__init__()
        self.number = number
        self.group = group
        self.out_features = layer.out_features
        dimensions = CUT_DIMENSIONS[number]
        self.weight = nn.Parameter(group.cut(layer.weight.detach(), dimensions["weight"]))
        self.bias = nn.Parameter(group.cut(layer.bias.detach(), dimensions["bias"]))

    def forward(self, inputs: Tensor) -> Tensor:
        """See the module's docstring."""
        kind = inputs.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
        with torch.autocast(kind, enabled=False):  # it does not reach into autograd functions
            inputs, weight, bias = (tensor.to(dtype) for tensor in (inputs, self.weight, self.bias))
            if self.number == 0:
                return _GatherLinear.apply(inputs, weight, bias, self.group)
            if self.number == 1:
                return _SplitUnits.apply(linear(inputs, weight), self.group) + bias
            before = sum(_lengths(self.out_features, self.group.size)[: self.group.rank])
            whole_bias = pad(bias, (before, self.out_features - before - len(bias)))
            return _SplitRows.apply(linear(inputs, weight, whole_bias), self.group)


class ShardedClassifier(nn.Sequential):
    """One worker's part of a net's fc head (`models.vgg.fc_head`, or that of LeNet-5); keys of its state dict as there."""

    sizes: list[int]
    """How many images each worker of the group has in the next inputs; to be set before each forward pass."""

    def __init__(self, classifier: nn.Sequential, group: FcGroup) -> None:
        layers: list[nn.Module] = []
        number = -1
        for layer in classifier:
            if isinstance(layer, nn.Linear):
                number += 1
                layers.append(_ShardedLinear(layer, number, group))
            else:
                if isinstance(layer, KeyedDropout):
                    layer.first_unit = classifier_width(classifier, number) // group.size * group.rank
                layers.append(layer)
        super().__init__(*layers)
        self.group = group
        self.lengths = {name: (dimension, _whole_length(classifier, name, dimension)) for name, dimension in _cuts(self)}

    def forward(self, features: Tensor) -> Tensor:
        """This worker's features (n, F) to their logits (n, classes). A collective call of the group."""
        count = self.sizes[self.group.rank]
        return super().forward(pad(features, (0, 0, 0, max(self.sizes) - count)))[:count]


def classifier_width(classifier: nn.Sequential, number: int) -> int:
    """The outputs of the FC layer `number` of an fc head."""
    return [layer.out_features for layer in classifier if isinstance(layer, nn.Linear)][number]


def _cuts(classifier: ShardedClassifier) -> Iterator[tuple[str, int]]:
    for place, layer in classifier.named_children():
        if isinstance(layer, _ShardedLinear):
            for name, dimension in CUT_DIMENSIONS[layer.number].items():
                yield f"{place}.{name}", dimension


def _whole_length(classifier: nn.Sequential, name: str, dimension: int) -> int:
    return classifier.get_parameter(name).shape[dimension]
