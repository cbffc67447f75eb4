"""The part of a run's state that a worker keeps when workers share the FC layers, and how a checkpoint gets them whole."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from vgg_dist.training.fc_parallel import ShardedClassifier, make_group
from vgg_dist.training.network_wait import NetworkWait
from vgg_dist.training.parallelism import Worker

PREFIX = "classifier."
MOMENTUM = "momentum_buffer"


class SplitFc:
    """Replaces a net's FC layers, and their momentum in the optimizer, by this worker's part. A collective call."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, worker: Worker, wait: NetworkWait) -> None:
        self.group = make_group(worker.fc_workers, worker.rank, worker.world_size, wait)
        whole = cast(nn.Sequential, model.classifier)
        self.parameters = [name for name, _ in model.named_parameters()]  # in the optimizer's order
        self.classifier = ShardedClassifier(whole, self.group)
        for name, (dimension, _) in self.classifier.lengths.items():
            self._replace(optimizer, whole.get_parameter(name), self.classifier.get_parameter(name), dimension)
        model.classifier = self.classifier

    def _replace(self, optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter, dimension: int) -> None:
        for group in optimizer.param_groups:
            group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
        state = optimizer.state.pop(old, None)
        if state:
            cut = {key: self.group.cut(value, dimension) if key == MOMENTUM else value for key, value in state.items()}
            optimizer.state[new] = cut

    def join(self, weights: dict[str, Tensor], optimizer: dict[str, Any]) -> bool:
        """Puts the whole FC layers into a state dict, and their momentum into an optimizer's, on rank 0.

        A collective call. Returns whether this is rank 0.
        """
        if self.group.number:  # the first group has all of them
            return False
        for name, (dimension, length) in self.classifier.lengths.items():
            key = PREFIX + name
            weights[key] = self.group.gather(weights[key], dimension, length)
            index = self.parameters.index(key)
            kept = optimizer["state"].get(index, {})  # the optimizer's own, not a copy
            if kept.get(MOMENTUM) is not None:
                optimizer["state"][index] = kept | {MOMENTUM: self.group.gather(kept[MOMENTUM], dimension, length)}
        return self.group.rank == 0
