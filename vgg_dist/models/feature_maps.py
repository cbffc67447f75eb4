"""The sizes of a net's feature maps, and their receptive fields."""

from __future__ import annotations

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


def receptive_field(model: nn.Module) -> tuple[int, int, int]:
    """The receptive field of a position of the last map, along one side: (stride, padding, size) in pixels.

    Position k sees the `size` pixels from k * stride - padding on. For sequential nets, such as dense forms.
    """
    stride, padding, size = 1, 0, 1
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            size += (side(layer.kernel_size) - 1) * stride
            padding += int(side(layer.padding)) * stride
            stride *= side(layer.stride)
    return stride, padding, size


def side(value: int | str | tuple[int, ...]) -> int:
    """Of a square window: torch keeps one number or one for each axis."""
    return int(value if isinstance(value, int | str) else value[0])
