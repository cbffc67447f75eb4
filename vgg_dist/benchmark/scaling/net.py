"""A network as the model of scaling sees it: its layers with weights, in the order of the forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from vgg_dist.models.build import build_model
from vgg_dist.models.feature_maps import output_size

NUM_CLASSES = 1000


@dataclass(frozen=True)
class Layer:
    """A convolution or FC layer. Its weight has `rows` outputs and `columns` inputs each, its bias `rows` numbers.

    `macs`: multiply-accumulates of the forward pass of one image.
    """

    rows: int
    columns: int
    macs: int
    is_fc: bool

    @property
    def parameters(self) -> int:
        """Weight and bias."""
        return self.rows * (self.columns + 1)


@dataclass(frozen=True)
class Net:
    """Convolutions, then FC layers."""

    layers: tuple[Layer, ...]

    @property
    def convolutions(self) -> tuple[Layer, ...]:
        """The layers that every layout replicates."""
        return tuple(layer for layer in self.layers if not layer.is_fc)

    @property
    def fc(self) -> tuple[Layer, ...]:
        """fc6, fc7, fc8: the layers that can be sharded."""
        return tuple(layer for layer in self.layers if layer.is_fc)

    @property
    def exchanged_features(self) -> int:
        """Numbers an image that the workers of an FC group exchange in the forward pass.

        F + 4096 + C for a VGG: the inputs of fc6, the outputs of fc7, and the logits.
        """
        return self.fc[0].columns + sum(layer.rows for layer in self.fc[1:])


def parameters(layers: tuple[Layer, ...]) -> int:
    """Of all these layers."""
    return sum(layer.parameters for layer in layers)


@cache
def describe(arch: str, image_size: int, num_classes: int = NUM_CLASSES) -> Net:
    """The layers of a VGG net with the paper's FC head, without batch norm. Nothing is allocated."""
    with torch.device("meta"):
        model = build_model(arch, image_size=image_size, num_classes=num_classes)
    layers, size = [], image_size
    for module in model.modules():
        size = output_size(module, size)
        if isinstance(module, nn.Conv2d):
            columns = module.weight[0].numel()
            layers.append(Layer(module.out_channels, columns, module.weight.numel() * size**2, is_fc=False))
        elif isinstance(module, nn.Linear):
            layers.append(Layer(module.out_features, module.in_features, module.weight.numel(), is_fc=True))
    return Net(tuple(layers))
