"""3x3 convolutions of 2x2 maps on CPUs, which the last stage of a VGG net has for images of 32 to 47 pixels.

Most of what a convolution multiplies there is padding. Here it is one matrix product, as each of the four outputs depends on
each of the four inputs. docs/performance.md has what that saves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST_IMAGES = 16
"""With fewer images arranging the weights takes longer than is saved."""

PLACES = [(row, column) for row in (0, 1) for column in (0, 1)]
"""Of a 2x2 map."""


class SmallMapConv2d(nn.Conv2d):
    """A 3x3 convolution, stride 1, padding 1, that is fast on 2x2 maps too; elsewhere torch's own."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, out_channels, H, W)."""
        # Asked first: a traced graph must not depend on the number of images.
        small = not torch.compiler.is_compiling() and maps.shape[2:] == (2, 2) and len(maps) >= LEAST_IMAGES
        if small and maps.device.type == "cpu":
            product: Tensor = _AsMatrixProduct.apply(maps, self.weight, self.bias)
            return product.view(-1, 2, 2, self.out_channels).permute(0, 3, 1, 2)
        return super().forward(maps)


class _AsMatrixProduct(torch.autograd.Function):
    """Of maps (N, C, 2, 2), weights (D, C, 3, 3) and biases (D,): (N, 4 C) times (4 C, 4 D), channels last in both."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else maps.dtype
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
        of_weight = torch.empty_like(weight).copy_(of_taps.permute(0, 3, 1, 2))  # in its memory format, as DDP wants it
        return of_maps, of_weight, gradient.reshape(-1, outputs).sum(0, dtype=weight.dtype)
