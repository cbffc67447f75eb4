"""The layers of a net by name (conv3_1, norm1, pool5, fc6): their shapes, weights, and what each sees of the image.

`layers(build_model("D"))` has the convolutions of the paper's table by stage and position, AlexNet's and ZFNet's as conv1 to
conv5, and the FC layers as fc6 and so on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from vgg_dist.models.feature_maps import ReceptiveField, output_size, side
from vgg_dist.models.lrn import LocalResponseNorm
from vgg_dist.models.vgg import VGG, ConvNet

Kind = Literal["convolution", "normalisation", "pool", "fc"]


@dataclass(frozen=True)
class Layer:
    """A convolution with its batch norm and non-linearity, a pool, a local response normalisation, or an FC layer.

    A position (y, x) of its maps sees a square of `field` pixels of the image, which begins at y * jump - padding and
    x * jump - padding, as far as the image extends.
    """

    name: str
    kind: Kind
    end: int
    """Modules of `features` up to and including it; of an FC layer, all."""
    kernel: int
    """Side of its filters or windows."""
    stride: int
    """Between its filters' positions, in positions of the layer below."""
    channels: int
    """Maps, or the units of an FC layer."""
    size: int
    """Side of its maps, for images of the net's own size."""
    field: int
    """Side of the receptive field, pixels of the image."""
    jump: int
    """Between the receptive fields of neighbours, pixels of the image."""
    padding: int
    """How far the first receptive field extends beyond the image's edge, pixels."""
    parameters: int
    """Weights and biases, those of its batch norm included."""
    macs: int
    """Multiply-adds in one forward pass of one image."""

    def window(self, y: int, x: int) -> tuple[int, int, int, int]:
        """What a position sees, as (top, left, bottom, right) in pixels; it may extend beyond the image."""
        top, left = y * self.jump - self.padding, x * self.jump - self.padding
        return top, left, top + self.field, left + self.field


def layers(model: ConvNet, image_size: int) -> dict[str, Layer]:
    """The layers by name, in the order of the forward pass, for square images of `image_size` pixels.

    The model may be on the meta device.
    """
    found = [_image(model, image_size)]
    stage, position, by_stage = 1, 0, isinstance(model, VGG)
    for end, module in enumerate(model.features, start=1):
        below = found[-1]
        if isinstance(module, nn.Conv2d):
            position += 1
            name = f"conv{stage}_{position}" if by_stage else f"conv{position}"
            found.append(_convolution(name, module, below))
        elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            found.append(_above(f"pool{stage if by_stage else position}", "pool", module, below))
            stage, position = stage + 1, 0 if by_stage else position
        elif isinstance(module, LocalResponseNorm):
            name = f"norm{stage if by_stage else position}"
            found.append(replace(below, name=name, kind="normalisation", kernel=1, stride=1, parameters=0, macs=0))
        else:  # batch norm or the non-linearity, which belong to the convolution
            found[-1] = replace(below, parameters=below.parameters + _parameters(module))
        found[-1] = replace(found[-1], end=end)
    first_fc = stage if by_stage else position + 1
    return {layer.name: layer for layer in found[1:] + _fc_layers(model, found[-1], first_fc)}


def _image(model: ConvNet, image_size: int) -> Layer:
    """The image as the layer below the first one."""
    [channels] = {module.in_channels for module in model.features[:1] if isinstance(module, nn.Conv2d)}
    return Layer(
        name="image", kind="pool", end=0, kernel=1, stride=1, channels=channels, size=image_size,
        field=1, jump=1, padding=0, parameters=0, macs=0,
    )  # fmt: skip


def _above(name: str, kind: Kind, module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d, below: Layer) -> Layer:
    """A layer of windows on `below`; without weights."""
    sees = ReceptiveField(below.jump, below.padding, below.field).through(module)
    return replace(
        below,
        name=name,
        kind=kind,
        kernel=side(module.kernel_size),
        stride=side(module.stride),
        size=output_size(module, below.size),
        field=sees.size,
        jump=sees.stride,
        padding=sees.padding,
        parameters=0,
        macs=0,
    )


def _convolution(name: str, module: nn.Conv2d, below: Layer) -> Layer:
    layer = _above(name, "convolution", module, below)
    macs = module.weight.numel() * layer.size**2
    return replace(layer, channels=module.out_channels, parameters=_parameters(module), macs=macs)


def _fc_layers(model: ConvNet, below: Layer, number: int) -> list[Layer]:
    """The FC layers as they are in the dense form: the first sees a window of the maps, the others its units."""
    found: list[Layer] = []
    for module in model.classifier.modules():
        if isinstance(module, nn.Linear):
            kernel = 1 if found else below.size
            below = replace(
                below,
                name=f"fc{number + len(found)}",
                kind="fc",
                kernel=kernel,
                stride=1,
                channels=module.out_features,
                size=1,
                field=below.field + (kernel - 1) * below.jump,
                parameters=_parameters(module),
                macs=module.weight.numel(),
            )
            found.append(below)
    return found


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
