"""Local response normalisation, of AlexNet, ZFNet and VGG's A-LRN (Krizhevsky et al. 2012, section 3.3).

The paper's section 4.1 finds that it does not help, so what is asked of it is that finding this out costs little.
torch.nn.LocalResponseNorm pads and pools in three dimensions, raises to a power, and leaves the gradient of each of these
steps to autograd; `python -m vgg_dist.benchmark step --archs A-LRN` shows what that takes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE, ALPHA, BETA, K = 5, 1e-4, 0.75, 2.0


class LocalResponseNorm(nn.Module):
    """Divides maps (N, C, H, W) by (2 + 1e-4 * the sum of squares over 5 neighbouring channels) ** 0.75.

    The sum is plain, as Krizhevsky's; torch's module divides alpha by the number of channels. Computed in fp32 at least, and
    given in the dtype of the maps.
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
        normalised, base = _normalise(maps)
        context.save_for_backward(maps, base)
        return normalised

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        maps, base = context.saved_tensors
        maps = maps.to(base.dtype)
        scaled = _to_minus_beta(base) * gradient
        return (scaled - _window_sum(scaled * maps / base) * maps * (2 * ALPHA * BETA)).to(gradient.dtype)


def _normalise(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The normalised maps, and what they are divided by before its exponent."""
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    base = _window_sum(wide * wide) * ALPHA + K
    return (wide * _to_minus_beta(base)).to(maps.dtype), base


def _window_sum(maps: Tensor) -> Tensor:
    channels, reach = maps.shape[1], SIZE // 2
    padded = functional.pad(maps, (0, 0, 0, 0, reach, reach))
    total = padded[:, :channels]
    for first in range(1, SIZE):
        total = total + padded[:, first : first + channels]
    return total


def _to_minus_beta(base: Tensor) -> Tensor:
    """base ** -0.75, several times as fast as a power."""
    root = base.rsqrt()
    return root * root.sqrt()
