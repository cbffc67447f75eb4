"""3x3 convolutions of small maps on CPUs, which the last stages of a VGG net have for small images.

Of 2x2 maps (images of 32 to 47 pixels), most of what a convolution multiplies is padding. There it is one matrix product, as
each of the four outputs depends on each of the four inputs. Of maps up to 7x7, only the gradient of the weights is one: with
AMX, torch's own takes 2 to 11 times as long. docs/performance.md has what both save.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

LEAST_IMAGES = 16
"""With fewer images arranging weights or maps takes longer than is saved."""

LARGEST_SIDE = 7
"""Of maps; with larger ones torch's gradient of the weights is as fast."""

PLACES = [(row, column) for row in (0, 1) for column in (0, 1)]
"""Of a 2x2 map."""


class SmallMapConv2d(nn.Conv2d):
    """A 3x3 convolution, stride 1, padding 1, that is fast on small maps too; elsewhere torch's own."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, out_channels, H, W)."""
        # Asked first: a traced graph must not depend on the number of images.
        if torch.compiler.is_compiling() or maps.device.type != "cpu" or len(maps) < LEAST_IMAGES:
            return super().forward(maps)
        if maps.shape[2:] == (2, 2):
            product: Tensor = _AsMatrixProduct.apply(maps, self.weight, self.bias)
            return product.view(-1, 2, 2, self.out_channels).permute(0, 3, 1, 2)
        if max(maps.shape[2:]) <= LARGEST_SIDE and _dtype(maps) == torch.bfloat16 and has_amx():
            convolved: Tensor = _GradientAsProduct.apply(maps, self.weight, self.bias)
            return convolved
        return super().forward(maps)


@cache
def has_amx() -> bool:
    """Whether this CPU multiplies tiles of bf16 matrices."""
    return torch.cpu._is_amx_tile_supported()


class _AsMatrixProduct(torch.autograd.Function):
    """Of maps (N, C, 2, 2), weights (D, C, 3, 3) and biases (D,): (N, 4 C) times (4 C, 4 D), channels last in both."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        dtype = _dtype(maps)
        outputs, inputs = weight.shape[:2]
        taps = weight.permute(0, 2, 3, 1)
        matrix = torch.empty(2, 2, outputs, 2, 2, inputs, dtype=dtype)
        for row, column in PLACES:  # input (y, x) reaches output (row, column) through the tap (y - row + 1, x - column + 1)
            matrix[row, column] = taps[:, 1 - row : 3 - row, 1 - column : 3 - column]
        matrix = matrix.view(4 * outputs, 4 * inputs)
        flat = maps.to(dtype).permute(0, 2, 3, 1).reshape(len(maps), 4 * inputs)
        ctx.save_for_backward(flat, matrix, weight)
        return torch.addmm(bias.to(dtype).repeat(4), flat, matrix.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat, matrix, weight = ctx.saved_tensors
        outputs, inputs = weight.shape[:2]
        of_maps = (gradient @ matrix).view(-1, 2, 2, inputs).permute(0, 3, 1, 2)
        of_matrix = (gradient.t() @ flat).view(2, 2, outputs, 2, 2, inputs)
        of_taps = torch.zeros(outputs, 3, 3, inputs, dtype=weight.dtype)
        for row, column in PLACES:
            of_taps[:, 1 - row : 3 - row, 1 - column : 3 - column] += of_matrix[row, column]
        return of_maps, _like(weight, of_taps), gradient.reshape(-1, outputs).sum(0, dtype=weight.dtype)


class _GradientAsProduct(torch.autograd.Function):
    """torch's convolution; the gradient of its weights is (D, N H W) times (N H W, 9 C): the 3x3 inputs of each place."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        dtype = _dtype(maps)
        maps, taps = maps.to(dtype), weight.to(dtype)
        ctx.save_for_backward(maps, taps, weight)
        return functional.conv2d(maps, taps, bias.to(dtype), padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        maps, taps, weight = ctx.saved_tensors
        outputs, inputs = weight.shape[:2]
        one = [1, 1]
        wanted = [ctx.needs_input_grad[0], False, False]
        of_maps, *_ = torch.ops.aten.convolution_backward(
            gradient, maps, taps, None, one, one, one, False, [0, 0], 1, wanted
        )
        bordered = functional.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        columns = bordered.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * inputs)
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)
        of_taps = (rows.t() @ columns).view(outputs, 3, 3, inputs)
        return of_maps, _like(weight, of_taps), rows.sum(0, dtype=weight.dtype)


def _dtype(maps: Tensor) -> torch.dtype:
    """What a convolution of these maps computes in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else maps.dtype


def _like(weight: Tensor, taps: Tensor) -> Tensor:
    """Gradients (D, 3, 3, C) as a tensor like the weights (D, C, 3, 3), in their memory format, as DDP wants it."""
    return torch.empty_like(weight).copy_(taps.permute(0, 3, 1, 2))
