"""What a training sends over the network in each step, by how its FC layers are split over workers; and the best split.

DDP averages the gradients of all weights. A group of N workers that share the FC layers exchanges features instead, and each
worker averages the gradients of its part of them with the other groups only: see `fc_parallel`. Collectives are counted as
rings over consecutive ranks, as NCCL lays them: each of W workers passes on (W - 1) / W of what is gathered or summed, and
twice that of what is all-reduced. A ring leaves each node once. The formulas are explained in docs/scaling.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from vgg_dist.config import TrainSettings
from vgg_dist.models.build import build_model
from vgg_dist.models.precision import autocast_dtype
from vgg_dist.models.specs import MODELS
from vgg_dist.models.vgg import ConvNet
from vgg_dist.training.parallelism import Worker


@dataclass(frozen=True)
class NetSize:
    """What of a net is sent: the weights of the convolutions and batch norms, those of the FC layers, and features."""

    convolutions: int
    fc: int
    features: int
    """The inputs of fc6, fc8's inputs and the logits: the numbers per image that a group exchanges in each direction."""


@dataclass(frozen=True)
class Traffic:
    """Bytes that are sent in a step."""

    of_worker: float
    """By each worker, also to others of its node."""
    of_node: float
    """By each node to others."""


def net_on_meta(config: TrainSettings, num_classes: int) -> ConvNet:
    """The net of a training with shapes only, on torch's meta device."""
    with torch.device("meta"):
        return build_model(
            config.arch,
            num_classes=num_classes,
            batch_norm=config.batch_norm,
            head=config.head,
            width=config.width,
            image_size=config.image_size,
        )


def net_size(config: TrainSettings, num_classes: int) -> NetSize:
    """The sizes of a net with an fc head."""
    model = net_on_meta(config, num_classes)
    first, hidden, last = (layer for layer in model.classifier.children() if isinstance(layer, nn.Linear))
    convolutions = sum(parameter.numel() for parameter in model.features.parameters())
    fc = sum(parameter.numel() for parameter in model.classifier.parameters())
    return NetSize(convolutions, fc, first.in_features + hidden.out_features + last.out_features)


def ring(amount: float, workers: int) -> float:
    """What each worker sends of an amount that is gathered or summed over `workers`."""
    return amount * (workers - 1) / workers


def traffic(
    size: NetSize, images: int, world_size: int, per_node: int, group: int, feature_bytes: int, gradient_bytes: int
) -> Traffic:
    """What a step of `images` sends, over all workers, with `per_node` workers on each node and groups of `group`.

    `feature_bytes`, `gradient_bytes`: of one number. The group is 1 if the FC layers are not split.
    """
    convolutions = 2 * ring(size.convolutions * gradient_bytes, world_size)
    groups = world_size // group
    part = 2 * ring(size.fc / group * gradient_bytes, groups)  # of each worker's part of the FC layers
    features = 2 * ring(images / groups * size.features * feature_bytes, group)  # forward and backward
    several = world_size > per_node
    return Traffic(
        of_worker=convolutions + part + features,
        of_node=several * (convolutions + min(per_node, group) * part + (group > per_node) * features),
    )


def group_sizes(config: TrainSettings, world_size: int) -> list[int]:
    """The sizes that a group may have: divisors of the number of workers and of the outputs of fc6 and fc7; 1 is off."""
    widths = MODELS[config.arch].fc_widths
    return [
        size for size in range(1, world_size + 1) if world_size % size == 0 and not any(width % size for width in widths)
    ]


def choose_group(config: TrainSettings, num_classes: int, worker: Worker) -> tuple[int, str]:
    """The size of the groups for --fc-parallel, and a line about it; 1 and no line where it is off or there is one worker.

    `auto` takes the size with the fewest bytes between nodes; on one node, between its workers.
    """
    if worker.world_size == 1 or config.fc_group == 1:
        return 1, ""
    size = net_size(config, num_classes)
    feature_bytes = 2 if autocast_dtype(config.precision, worker.device) else 4
    gradient_bytes = 2 if config.bf16_gradients else 4
    per_node = worker.local_world_size

    def sent(group: int) -> float:
        found = traffic(size, config.global_batch, worker.world_size, per_node, group, feature_bytes, gradient_bytes)
        return found.of_node if worker.world_size > per_node else found.of_worker

    group = config.fc_group or min(group_sizes(config, worker.world_size), key=sent)
    of_whom = "node" if worker.world_size > per_node else "worker"
    groups = worker.world_size // group
    what = f"{groups} group{'s' * (groups > 1)} of {group} workers" if group > 1 else "off"
    return group, (
        f"--fc-parallel {config.fc_parallel}: {what}; each {of_whom} sends {_megabytes(sent(group))} MB a step"
        + ("" if group == 1 else f", {_megabytes(sent(1))} MB with off")
    )


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f}" if count >= 1e7 else f"{count / 1e6:.2g}"
