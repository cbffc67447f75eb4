"""The filters of the first layer, and the faults that Zeiler & Fergus see in AlexNet's (arXiv:1311.2901, section 4.1).

python -m vgg_dist.visualize filters runs/alexnet runs/zfnet

They found a mix of very high and very low frequencies, and filters that are dead, and changed 11x11 filters at stride 4 to
7x7 at stride 2. Here each fault is a number:

- dead: the filter's norm is less than a tenth of the largest filter's.
- aliased energy: the share of a filter's energy at frequencies above half the sampling rate, 1 / (2 stride) cycles a pixel
  along either axis. The layer's maps have a sample every `stride` pixels, so such a frequency looks like a lower one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vgg_dist.config.visualize import FilterPictures
from vgg_dist.evaluation.open import open_net
from vgg_dist.models.feature_maps import side
from vgg_dist.visualization.page import Page, Picture, Section, Table
from vgg_dist.visualization.tiles import grey_level, mosaic, opaque, png, resized
from vgg_dist.weights.net import TrainedNet

DEAD = 0.1  # of the largest norm
FREQUENCIES = 64  # of the transform along each axis; the filter is padded with zeros
TILE = 55  # pixels; a multiple of the kernel would waste space with 3x3


@dataclass(frozen=True)
class FilterFaults:
    """Of the filters of a first layer (n, C, k, k); all (n,)."""

    norms: NDArray[np.float64]
    aliased: NDArray[np.float64]
    """The share of each filter's energy that aliases; 0 of a filter without energy."""

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Which filters have almost no weight."""
        return self.norms < DEAD * self.norms.max()


def filter_faults(weights: NDArray[np.float64], stride: int) -> FilterFaults:
    """The norms and the aliased energy of filters (n, C, k, k) that are applied every `stride` pixels."""
    spectrum = np.abs(np.fft.fft2(weights, (FREQUENCIES, FREQUENCIES))) ** 2
    frequencies = np.abs(np.fft.fftfreq(FREQUENCIES))
    above = frequencies > 1 / (2 * stride) + 1e-12
    energy = spectrum.sum(axis=(1, 2, 3))
    high = (spectrum * (above[:, None] | above[None, :])).sum(axis=(1, 2, 3))
    aliased = np.divide(high, energy, out=np.zeros(len(weights)), where=energy > 0)
    return FilterFaults(np.sqrt((weights**2).sum(axis=(1, 2, 3))), aliased)


def draw_filters(options: FilterPictures) -> Page:
    """The page; a section for each net, and their numbers in one table. ValueError or OSError, one line, for a bad net."""
    config = options.evaluation()
    nets = [open_net(config, location) for location in config.nets]
    names = _different([net.name for net in nets])
    faults = [filter_faults(*_first_layer(net)) for net in nets]
    rows = [_row(name, net, of_net) for name, net, of_net in zip(names, nets, faults, strict=True)]
    headings = "net", "first layer", "filters", "dead", "aliased energy", "over half aliased"
    sections = [Section("Faults in numbers", (ABOUT,), Table(headings, rows, frozenset({0, 1})))]
    for name, net, of_net in zip(names, nets, faults, strict=True):
        sections.append(_section(name, net, of_net))
    title = "First-layer filters" + (f" of {names[0]}" if len(names) == 1 else "")
    return Page(f"filters-{'-'.join(names)}"[:100], title, (), sections)


ABOUT = (
    "Dead: the norm is less than a tenth of the largest filter's. Aliased energy: the mean over the live filters of the"
    " share of energy above half the sampling rate, which a stride of s pixels puts at 1 / (2 s) cycles a pixel: the maps"
    " cannot tell such a frequency from a lower one. Zeiler & Fergus saw both in AlexNet's first layer, and changed 11x11"
    " filters at stride 4 to 7x7 at stride 2. With stride 1 nothing aliases."
)


def _first_layer(net: TrainedNet) -> tuple[NDArray[np.float64], int]:
    """Its filters (n, C, k, k) and its stride."""
    layer = net.model.features[0]
    assert isinstance(layer, nn.Conv2d)
    return layer.weight.detach().to(torch.float64).numpy(), side(layer.stride)


def _different(names: Sequence[str]) -> list[str]:
    """Names that occur more than once, numbered."""
    return [name if names.count(name) == 1 else f"{name}-{number}" for number, name in enumerate(names, start=1)]


def _row(name: str, net: TrainedNet, faults: FilterFaults) -> tuple[str, ...]:
    weights, stride = _first_layer(net)
    live = faults.aliased[~faults.dead]
    return (
        name,
        f"{net.arch}, {weights.shape[2]}x{weights.shape[3]} at stride {stride}",
        str(len(weights)),
        f"{100 * faults.dead.mean():.1f} %",
        f"{100 * live.mean():.1f} %",
        f"{100 * (live > 0.5).mean():.1f} %",
    )


def _section(name: str, net: TrainedNet, faults: FilterFaults) -> Section:
    """The filters and their amplitude spectra, those with the largest norm first."""
    weights, stride = _first_layer(net)
    order = np.argsort(-faults.norms, kind="stable")
    across = weights[order].transpose(0, 2, 3, 1)
    columns = int(np.ceil(np.sqrt(1.5 * len(order))))
    tiles = [resized(opaque(grey_level(one)), TILE) for one in across]
    shared = [resized(opaque(each), TILE) for each in grey_level(across)]
    spectra = np.abs(np.fft.fft2(weights[order], (FREQUENCIES, FREQUENCIES))).mean(axis=1)
    levels = np.fft.fftshift(255 * spectra / spectra.max(axis=(1, 2), keepdims=True), axes=(1, 2)).astype(np.uint8)
    waves = [resized(opaque(_marked(each, stride)), TILE) for each in levels]
    own, all_ = "Each scaled to its own largest weight; the largest norms first.", "All on one scale: dead filters are grey."
    third = f"Their amplitude spectra, frequency 0 in the middle{'; outside the square they alias' * (stride > 1)}."
    pictures = [
        Picture(png(mosaic(tiles, columns)), own, f"{name}.png"),
        Picture(png(mosaic(shared, columns)), all_, f"{name}-one-scale.png"),
        Picture(png(mosaic(waves, columns)), third, f"{name}-spectra.png"),
    ]
    return Section(
        name if name == net.arch else f"{name}: {net.arch}", (net.origin,) if net.origin else (), pictures=pictures
    )


def _marked(levels: NDArray[np.uint8], stride: int) -> NDArray[np.uint8]:
    """An amplitude spectrum as RGB, with the square inside of which frequencies do not alias."""
    picture = np.repeat(levels[:, :, None], 3, axis=2)
    if stride > 1:
        middle, reach = FREQUENCIES // 2, FREQUENCIES // (2 * stride)
        low, high = middle - reach, middle + reach
        picture[[low, high], low : high + 1] = picture[low : high + 1, [low, high]] = (230, 90, 60)
    return picture
