"""The page of the deconvnet: for maps of each layer the nine strongest activations, projected, beside their patches.

python -m vgg_dist.visualize deconvnet runs/first --layers conv3_1 conv4_2 --images 1000

As figure 2 of Zeiler & Fergus (arXiv:1311.2901). The maps are taken at equal distances, not selected.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.progress import Progress
from vgg_dist.config.visualize import DeconvnetPictures
from vgg_dist.evaluation.open import open_any_images
from vgg_dist.models.layers import Layer, layers
from vgg_dist.visualization.deconvnet import Crop, check_deconvnet, crop_around, project_places
from vgg_dist.visualization.images import Images, choose_layers
from vgg_dist.visualization.open_net import open_trained
from vgg_dist.visualization.page import Page, Picture, Section
from vgg_dist.visualization.strongest import KEPT, Strongest, find_strongest
from vgg_dist.visualization.tiles import Pixels, grey_level, mosaic, placed, png, resized

TILE = 72  # pixels


def draw_deconvnet(options: DeconvnetPictures) -> Page:
    """The page, and an overview of each layer as a PNG file. ValueError or OSError, one line, for what stops it."""
    net = open_trained(options)
    check_deconvnet(net.arch)
    chosen = choose_layers(layers(net.model, net.image_size), options.layers)
    for layer in chosen:
        if beyond := [number for number in options.maps if not 0 <= number < layer.channels]:
            raise ValueError(f"--maps {beyond[0]}: {layer.name} has the maps 0 to {layer.channels - 1}")
    images = Images(open_any_images(options.evaluation(), net), net)
    features = images.model.features
    found = _search(features, chosen, images, options.images)
    sections, overviews = [], {}
    for layer in Progress(chosen, desc="projecting", unit="layer"):
        strongest = found[layer.name]
        drawn = _draw_maps(features, layer, strongest, _choose_maps(options, strongest), images)
        sections.append(_section(layer, strongest, drawn, images))
        if drawn:
            overviews[f"{layer.name}.png"] = png(mosaic([pixels for _, pixels in drawn], columns=3, gap=16))
    text = (
        f"{net.arch}, {net.image_size} pixels{f'; {net.origin}' if net.origin else ''}.",
        f"Of each map the {KEPT} strongest activations among {len(images.spread(options.images)):,} images: on the left"
        " projected back to the pixels by the deconvnet of Zeiler & Fergus, on the right, in the same order, what these"
        " positions see of the images. Of each image only the strongest activation counts. The maps are taken at equal"
        f" distances among those that answer to {KEPT} images or more. Each projection is scaled to its own largest value;"
        " grey is zero.",
    )
    return Page(f"deconvnet-{net.name}", f"Deconvnet of {net.name}", text, sections, overviews)


def _search(features: nn.Sequential, chosen: Sequence[Layer], images: Images, count: int) -> dict[str, Strongest]:
    indices = images.spread(count)
    names = ", ".join(layer.name for layer in chosen)
    print(f"vgg_dist.visualize: searching {len(indices):,} images for what {names} answer to", flush=True)

    def shown() -> Iterator[tuple[Tensor, Tensor]]:
        with Progress(total=len(indices), desc="searching", unit="image") as progress:
            for batch, rows in images.batches(indices):
                yield batch, rows
                progress.update(len(rows))

    start = time.perf_counter()
    found = find_strongest(features, chosen, shown(), images.device)
    seconds = time.perf_counter() - start
    print(f"vgg_dist.visualize: searched in {seconds:.1f} s, {len(indices) / seconds:.3g} images/s", flush=True)
    return found


def _choose_maps(options: DeconvnetPictures, strongest: Strongest) -> list[int]:
    """--maps, or --num-maps at equal distances among those that answer to KEPT images; if there are none, to any."""
    if options.maps:
        return list(options.maps)
    answers = (strongest.values > 0).sum(dim=1)
    alive = (answers >= min(KEPT, int(answers.max()))).nonzero().flatten().tolist()
    places = np.linspace(0, len(alive) - 1, min(options.num_maps, len(alive))).round().astype(int)
    return [alive[place] for place in places]


@dataclass
class _Wanted:
    """One activation to project."""

    channel: int
    rank: int
    crop: Crop


Tiles = dict[tuple[int, int], tuple[Pixels, Pixels]]
"""By map and rank: the projection and the patch."""


def _draw_maps(
    features: nn.Sequential, layer: Layer, strongest: Strongest, maps: Sequence[int], images: Images
) -> list[tuple[int, Pixels]]:
    """Maps with any activation, and for each the tiles of its projections beside those of the patches."""
    size = images.net.image_size
    wanted: dict[int, list[_Wanted]] = defaultdict(list)
    for channel in maps:
        for rank, (_, image, y, x) in enumerate(strongest.of_map(channel)):
            wanted[image].append(_Wanted(channel, rank, crop_around(layer, (channel, y, x), size)))
    tiles: Tiles = {}
    waiting: dict[tuple[int, int], list[tuple[_Wanted, Tensor]]] = defaultdict(list)  # by the shape of the crop
    most = {shape: max(1, images.batch * size**2 // (shape[0] * shape[1])) for shape in _shapes(wanted)}
    for batch, rows in images.batches(np.array(sorted(wanted), np.int64)):
        for image, row in zip(batch, rows.tolist(), strict=True):
            for each in wanted[row]:
                crop = each.crop
                cut = image[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
                same = waiting[crop.height, crop.width]
                same.append((each, cut))
                if len(same) == most[crop.height, crop.width]:
                    tiles |= _project(features, layer, same, images)
                    same.clear()
    for same in waiting.values():
        tiles |= _project(features, layer, same, images)
    return [(channel, _both(tiles, channel)) for channel in maps if (channel, 0) in tiles]


def _shapes(wanted: dict[int, list[_Wanted]]) -> set[tuple[int, int]]:
    return {(each.crop.height, each.crop.width) for of_image in wanted.values() for each in of_image}


def _project(features: nn.Sequential, layer: Layer, same: Sequence[tuple[_Wanted, Tensor]], images: Images) -> Tiles:
    """The tiles of activations whose crops have one shape."""
    if not same:
        return {}
    crops = torch.stack([cut for _, cut in same])
    projections = project_places(features, crops, layer, [each.crop.place for each, _ in same])
    signed, patches = projections.permute(0, 2, 3, 1).cpu().numpy(), images.pixels(crops)
    found: Tiles = {}
    for (each, _), projection, patch in zip(same, signed, patches, strict=True):
        top, left, bottom, right = each.crop.window
        cuts = grey_level(projection)[top:bottom, left:right], patch[top:bottom, left:right]
        side = min(layer.field, images.net.image_size)
        at = _corner(layer, each.crop, side)
        projected, seen = (resized(placed(cut, *at, side), TILE) for cut in cuts)
        found[each.channel, each.rank] = projected, seen
    return found


def _corner(layer: Layer, crop: Crop, side: int) -> tuple[int, int]:
    """Where the visible part of a receptive field is in its tile: at an image's edge the rest stays empty."""
    if side < layer.field:
        return 0, 0
    top, left, _, _ = layer.window(*crop.position)
    return max(0, -top), max(0, -left)


def _both(tiles: Tiles, channel: int) -> Pixels:
    """The projections of a map beside the patches."""
    empty = np.zeros((TILE, TILE, 4), np.uint8)
    nines = [[tiles.get((channel, rank), (empty, empty))[kind] for rank in range(KEPT)] for kind in range(2)]
    return mosaic([mosaic(nine, columns=3) for nine in nines], columns=2, gap=8)


def _section(layer: Layer, strongest: Strongest, drawn: Sequence[tuple[int, Pixels]], images: Images) -> Section:
    pictures = []
    for channel, pixels in drawn:
        activations = strongest.of_map(channel)
        classes = Counter(filter(None, (images.class_name(image) for _, image, _, _ in activations)))
        common = ", ".join(f"{count} {name}" for name, count in classes.most_common(3))
        values = f"map {channel}: activations {activations[0][0]:.3g} to {activations[-1][0]:.3g}"
        pictures.append(Picture(png(pixels), f"{values}{f'; {common}' if common else ''}"))
    size, dead = images.net.image_size, int(strongest.is_dead.sum())
    sees = f"a position sees {layer.field} x {layer.field} pixels"
    if layer.field > size:
        sees += f", more than the image has: whole images of {size} pixels are shown"
    none = f" {dead} maps answer to none of the images." if dead else ""
    text = f"{layer.channels} maps of {layer.size} x {layer.size}; {sees}.{none}"
    return Section(layer.name, (text,), pictures=pictures)
