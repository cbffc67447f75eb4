"""The sizes of a net's feature maps, and their receptive fields."""

from __future__ import annotations

import functools
from typing import NamedTuple

from torch import nn


def output_size(layer: nn.Module, size: int) -> int:
    """The side of a layer's output for square input maps with side `size`; below 1 if the input is too small."""
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return 1
    if isinstance(layer, nn.Conv2d):
        return (size + 2 * int(layer.padding[0]) - layer.kernel_size[0]) // layer.stride[0] + 1
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        kernel, stride = side(layer.kernel_size), side(layer.stride)
        # ceil_mode: the last window may extend over the edge.
        return (size - kernel + (stride - 1 if layer.ceil_mode else 0)) // stride + 1
    return size


class ReceptiveField(NamedTuple):
    """What the positions of maps see of the image, along one side, in pixels.

    Position k sees the `size` pixels from k * stride - padding on.
    """

    stride: int = 1
    padding: int = 0
    size: int = 1

    def through(self, layer: nn.Module) -> ReceptiveField:
        """What the positions of the layer's output see, if those of its input see this."""
        if not isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            return self
        size = self.size + (side(layer.kernel_size) - 1) * self.stride
        padding = self.padding + side(layer.padding) * self.stride
        return ReceptiveField(self.stride * side(layer.stride), padding, size)


def receptive_field(model: nn.Module) -> ReceptiveField:
    """What a position of the last map sees. For sequential nets, such as dense forms."""
    return functools.reduce(ReceptiveField.through, model.modules(), ReceptiveField())


def side(value: int | str | tuple[int, ...]) -> int:
    """Of a square window: torch keeps one number or one for each axis."""
    return int(value if isinstance(value, int | str) else value[0])
