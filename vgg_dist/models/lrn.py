"""Local response normalisation, of AlexNet, ZFNet and VGG's A-LRN (Krizhevsky et al. 2012, section 3.3).

The paper's section 4.1 finds that it does not help; it should at least cost little. torch.nn.LocalResponseNorm pads and
pools in three dimensions, raises to a power, and differentiates each of these steps by autograd. Here forward and backward
pass are written out; `python -m vgg_dist.benchmark step --archs A-LRN` measures them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE, ALPHA, BETA, K = 5, 1e-4, 0.75, 2.0
PART = 1 << 22  # numbers at a time, 16 MiB in fp32: the maps of one image of A-LRN at 224 pixels


class LocalResponseNorm(nn.Module):
    """Divides maps (N, C, H, W) by (2 + 1e-4 * the sum of squares over 5 neighbouring channels) ** 0.75.

    As in Krizhevsky et al., alpha multiplies the sum; torch's module divides alpha by the number of channels. Computed in
    fp32 or wider; the result has the dtype of the maps.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """The normalised maps."""
        if torch.is_grad_enabled() and maps.requires_grad:
            return _Normalise.apply(maps)
        return _normalise(maps)[0]


class _Normalise(torch.autograd.Function):
    """With y = x s^-b, s = k + a sum(x^2): dx = g s^-b - 2 a b x sum(g x s^-b / s), summed over the same neighbours."""

    @staticmethod
    def forward(context: Any, maps: Tensor) -> Tensor:
        normalised, base = _in_parts(_normalise, maps)
        context.save_for_backward(maps, base)
        return normalised

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _in_parts(_backward, *context.saved_tensors, gradient)[0]


def _in_parts(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """`function` of the tensors; on a CPU for a few images at a time, so that intermediate results stay in the caches."""
    images = max(1, PART // max(1, tensors[0][:1].numel()))
    if tensors[0].device.type != "cpu" or torch.compiler.is_compiling() or len(tensors[0]) <= images:
        return function(*tensors)
    parts = [function(*part) for part in zip(*(tensor.split(images) for tensor in tensors), strict=True)]
    return tuple(torch.cat(results) for results in zip(*parts, strict=True))


def _normalise(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The normalised maps, and the base of the power that divides them, for the backward pass."""
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    base = _window_sum(wide * wide).mul_(ALPHA).add_(K)
    return _to_minus_beta(base).mul_(wide).to(maps.dtype), base


def _backward(maps: Tensor, base: Tensor, gradient: Tensor) -> tuple[Tensor]:
    maps = maps.to(base.dtype)
    scaled = _to_minus_beta(base).mul_(gradient)
    neighbours = _window_sum((scaled * maps).div_(base)).mul_(maps)
    return (scaled.sub_(neighbours, alpha=2 * ALPHA * BETA).to(gradient.dtype),)


def _window_sum(maps: Tensor) -> Tensor:
    channels, reach = maps.shape[1], SIZE // 2
    padded = functional.pad(maps, (0, 0, 0, 0, reach, reach))
    total = padded[:, :channels] + padded[:, 1 : channels + 1]
    for first in range(2, SIZE):
        total += padded[:, first : first + channels]
    return total


def _to_minus_beta(base: Tensor) -> Tensor:
    """base ** -0.75, on a CPU in a third of the time of `pow`."""
    root = base.rsqrt()
    return root.sqrt().mul_(root)
