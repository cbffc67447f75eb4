"""The strongest activations of every map of chosen layers over a data set, with where in which image they are.

Of each image a map counts once, with its strongest activation, as nine places in one image would show the same thing. One
pass over the images; memory is bounded by a batch and the lists, however many images there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vgg_dist.models.layers import Layer

KEPT = 9  # Zeiler & Fergus show nine


@dataclass
class Strongest:
    """The KEPT strongest activations of each map of a layer, in descending order; fewer images leave some with image -1.

    All (C, KEPT): `values`; `images`, indices as given to `update`; `places`, positions in the map, as y * width + x.
    """

    values: Tensor
    images: Tensor
    places: Tensor
    width: int
    """Of the maps."""

    @classmethod
    def empty(cls, layer: Layer, device: torch.device) -> Strongest:
        """Without any activation yet."""
        shape = layer.channels, KEPT
        nowhere = torch.full(shape, -1, dtype=torch.int64, device=device)
        return cls(torch.full(shape, -torch.inf, device=device), nowhere, nowhere.clone(), layer.size)

    def update(self, maps: Tensor, indices: Tensor) -> None:
        """Merges the maps (N, C, H, W) of the images `indices` (N,). Of equal activations the earlier image counts."""
        values, places = maps.permute(0, 2, 3, 1).flatten(1, 2).max(dim=1)  # no copy of channels-last maps
        values = torch.cat([self.values, values.t()], dim=1)
        images = torch.cat([self.images, indices.expand(maps.shape[1], -1)], dim=1)
        places = torch.cat([self.places, places.t()], dim=1)
        order = values.sort(dim=1, descending=True, stable=True).indices[:, :KEPT]
        self.values, self.images, self.places = (each.gather(1, order) for each in (values, images, places))

    @property
    def is_dead(self) -> Tensor:
        """(C,) whether a map answers to no image at all."""
        return self.values[:, 0] <= 0

    def of_map(self, channel: int) -> list[tuple[float, int, int, int]]:
        """(value, image, y, x) of the activations above 0, strongest first."""
        rows = zip(self.values[channel].tolist(), self.images[channel].tolist(), self.places[channel].tolist(), strict=True)
        return [(value, image, *divmod(place, self.width)) for value, image, place in rows if value > 0]


@torch.no_grad()
def find_strongest(
    features: nn.Sequential, layers: Sequence[Layer], batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> dict[str, Strongest]:
    """The strongest activations of each of `layers`, by its name.

    `batches`: images (N, C, H, W), normalised, and their indices (N,), both on the device.
    """
    found = {layer.name: Strongest.empty(layer, device) for layer in layers}
    for images, indices in batches:
        maps, start = images, 0
        for layer in sorted(layers, key=lambda layer: layer.end):
            maps = features[start : layer.end](maps)
            found[layer.name].update(maps, indices)
            start = layer.end
    return found
