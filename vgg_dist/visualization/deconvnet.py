"""The deconvnet of Zeiler & Fergus (arXiv:1311.2901, section 2.1): from one activation back to the pixels that caused it.

Down from the layer of the activation, a pool puts each value where its maximum was, a ReLU keeps what is positive, and a
convolution is its transpose, with the same filters and without its bias. Where windows of a pool overlap, values at one
place are added. Batch normalisation belongs to its convolution: the transpose multiplies by the same factor. Local response
normalisation, of which the paper says nothing, is passed by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vgg_dist.models.feature_maps import side
from vgg_dist.models.layers import Layer
from vgg_dist.models.lrn import LocalResponseNorm
from vgg_dist.models.specs import MODELS

Place = tuple[int, int, int]
"""An activation: (map, y, x)."""


def check_deconvnet(arch: str) -> None:
    """ValueError, one line, for a net that has no deconvnet: LeNet-5 averages in its pools, which leaves no maxima."""
    if arch == "lenet5":
        others = ", ".join(name for name in MODELS if name != "lenet5")
        raise ValueError(f"deconvnet: lenet5 has no ReLU and no max-pools to go back through; allowed: {others}")


class NoWayBack(TypeError):
    """A net with a layer that the deconvnet cannot go back through."""


@dataclass(frozen=True)
class Forward:
    """A forward pass up to one layer, with what the way back needs."""

    maps: Tensor
    """(N, C, H, W) of the layer."""
    modules: list[nn.Module]
    shapes: list[torch.Size]
    """Of the input of each module."""
    maxima: list[Tensor | None]
    """Of each pool, where in its input each maximum was: (N, C, H, W), as row * width + column."""


@torch.no_grad()
def forward(features: nn.Sequential, images: Tensor, end: int) -> Forward:
    """The maps after the first `end` modules for images (N, C, H, W), normalised; the positions of all maxima recorded."""
    modules = list(features[:end])
    shapes: list[torch.Size] = []
    maxima: list[Tensor | None] = []
    maps = images
    for module in modules:
        shapes.append(maps.shape)
        if isinstance(module, nn.MaxPool2d):
            maps, where = functional.max_pool2d(
                maps, module.kernel_size, module.stride, module.padding, ceil_mode=module.ceil_mode, return_indices=True
            )
            maxima.append(where)
        else:
            maps = functional.relu(maps) if isinstance(module, nn.ReLU) else module(maps)
            maxima.append(None)
    return Forward(maps, modules, shapes, maxima)


@torch.no_grad()
def project(passed: Forward, maps: Tensor) -> Tensor:
    """What `maps`, shaped as those of the layer, come from: (N, C, H, W) in the pixels of the images.

    For the projection of one activation all other values are 0.
    """
    for module, shape, where in zip(passed.modules[::-1], passed.shapes[::-1], passed.maxima[::-1], strict=True):
        if isinstance(module, nn.Conv2d):
            maps = _transposed(module, maps, shape)
        elif isinstance(module, nn.ReLU):
            maps = functional.relu(maps)
        elif isinstance(module, nn.BatchNorm2d):
            maps = maps * _scale(module)[:, None, None]
        elif where is not None:
            maps = unpool(maps, where, shape)
        elif not isinstance(module, LocalResponseNorm):
            raise NoWayBack(f"deconvnet: has no way back through {type(module).__name__}")
    return maps


def unpool(maps: Tensor, where: Tensor, shape: torch.Size) -> Tensor:
    """Each value of `maps` at the place of its maximum in maps of `shape`, 0 elsewhere; `where` as of `Forward.maxima`."""
    spread = torch.zeros(shape, dtype=maps.dtype, device=maps.device)
    spread.flatten(2).scatter_add_(2, where.flatten(2), maps.flatten(2))
    return spread


def _transposed(module: nn.Conv2d, maps: Tensor, shape: torch.Size) -> Tensor:
    """The transpose of a convolution, without its bias; `shape`: of its input."""
    stride, padding, kernel = side(module.stride), side(module.padding), side(module.kernel_size)
    beyond = [
        full - ((small - 1) * stride - 2 * padding + kernel) for full, small in zip(shape[2:], maps.shape[2:], strict=True)
    ]
    return functional.conv_transpose2d(maps, module.weight, None, stride, padding, beyond)


def _scale(module: nn.BatchNorm2d) -> Tensor:
    """The factor of each map, in evaluation mode."""
    assert module.running_var is not None
    return module.weight * (module.running_var + module.eps).rsqrt()


@torch.no_grad()
def project_places(features: nn.Sequential, images: Tensor, layer: Layer, places: Sequence[Place]) -> Tensor:
    """The projection of one activation of each of the images (N, C, H, W), at `places`: (N, C, H, W)."""
    passed = forward(features, images, layer.end)
    chosen = torch.zeros_like(passed.maps)
    for number, (channel, y, x) in enumerate(places):
        chosen[number, channel, y, x] = passed.maps[number, channel, y, x]
    return project(passed, chosen)


@dataclass(frozen=True)
class Crop:
    """A part of an image in which an activation and its projection are what they are in the whole image."""

    top: int
    left: int
    height: int
    width: int
    position: tuple[int, int]
    """(y, x) of the activation in the maps of the whole image."""
    place: Place
    """Of the activation in the maps of the crop."""
    window: tuple[int, int, int, int]
    """What it sees, as far as the image extends: (top, left, bottom, right) in pixels of the crop."""


def crop_around(layer: Layer, place: Place, size: int) -> Crop:
    """The crop of a square image of `size` pixels that a projection needs: a deep net's first layers see little of it.

    It begins at a multiple of the layer's jump, so that windows of all pools lie as in the whole image, and holds the
    receptive field, so that the padding at its edges, which the whole image does not have, is seen by other positions only.
    """
    channel, y, x = place
    (top, height), (left, width) = (_extent(layer, position, size) for position in (y, x))
    first, second, bottom, right = layer.window(y, x)
    window = max(0, first) - top, max(0, second) - left, min(size, bottom) - top, min(size, right) - left
    return Crop(top, left, height, width, (y, x), (channel, y - top // layer.jump, x - left // layer.jump), window)


def _extent(layer: Layer, position: int, size: int) -> tuple[int, int]:
    """Start and length of a crop along one axis. Most have the same length, so that they can be computed together."""
    jump = layer.jump
    length = (-(-layer.field // jump) + 1) * jump
    start = max(0, (position * jump - layer.padding) // jump * jump)
    if start + length <= size:
        return start, length
    start = max(0, (size - length) // jump * jump)
    return start, size - start
