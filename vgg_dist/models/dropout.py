"""Dropout whose masks depend on the image, the step and the unit only: not on how images and units are split over workers.

The mask of an image is a SplitMix64 sequence (Steele, Lea & Flood 2014): its seed is the image's key, and output u decides
about unit u. A worker can compute the part of a mask that it needs.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

GOLDEN = 0x9E3779B97F4A7C15
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
KEPT_BITS = 24


class KeyedDropout(nn.Dropout):
    """Dropout of (n, units) with one key per row. Without keys it draws from torch's generator, as nn.Dropout does."""

    def __init__(self, p: float) -> None:
        super().__init__(p)
        self.keys: Tensor | None = None
        """(n,) int64 on the device: the key of each row of the next inputs."""
        self.first_unit = 0
        """Which unit the first column is, where a worker has only a part of the units."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (n, units), some of them zero and the others divided by 1 - p; in evaluation as they are."""
        if self.keys is None or not self.training or self.p == 0:
            return super().forward(inputs)
        kept = mask(self.keys, self.first_unit, inputs.shape[1], self.p)
        return inputs * kept.to(inputs.dtype).mul_(1 / (1 - self.p))


def mask(keys: Tensor, first_unit: int, units: int, p: float) -> Tensor:
    """Which of the units [first_unit, first_unit + units) stay, for each key: (n, units) bool. `p`: the dropout rate."""
    unit = torch.arange(first_unit + 1, first_unit + units + 1, device=keys.device)
    mixed = keys[:, None] + unit * _signed(GOLDEN)
    mixed = (mixed ^ _shifted(mixed, 30)).mul_(_signed(FIRST))
    mixed = (mixed ^ _shifted(mixed, 27)).mul_(_signed(SECOND))
    # SplitMix64's last step changes only the lower bits.
    return _shifted(mixed, 64 - KEPT_BITS) >= round(p * 2**KEPT_BITS)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; torch shifts int64 arithmetically."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64)


def set_keys(layers: Iterable[nn.Module], images: NDArray[np.int64], seed: int, step: int, device: torch.device) -> None:
    """Sets the keys of all dropout layers among `layers` for the next inputs; `images` (n,): what identifies each image."""
    dropouts = [layer for layer in layers if isinstance(layer, KeyedDropout)]
    if not dropouts:
        return
    of_layers = [image_keys(images, seed, step, number) for number in range(len(dropouts))]
    keys = torch.from_numpy(np.stack(of_layers).view(np.int64))
    if device.type != "cpu":
        keys = keys.pin_memory().to(device, non_blocking=True)  # one copy, which nothing waits for
    for layer, of_layer in zip(dropouts, keys, strict=True):
        layer.keys = of_layer


def image_keys(images: NDArray[np.int64], seed: int, step: int, layer: int) -> NDArray[np.uint64]:
    """The key of each image (n,) in the dropout layer number `layer` of a net."""
    start = np.random.SeedSequence([seed, step, layer]).generate_state(1, np.uint64)
    mixed = start + (images.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(FIRST)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(SECOND)
    return mixed ^ (mixed >> np.uint64(31))
