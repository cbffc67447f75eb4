"""The page of occlusion: what is left of a class and of a map while a grey square covers parts of the image.

python -m vgg_dist.visualize occlusion runs/first --images 6

As figure 7 of Zeiler & Fergus (arXiv:1311.2901). If the posterior falls where the object is covered, the net has found the
object, and not its surroundings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.progress import Progress
from vgg_dist.config.visualize import OcclusionPictures
from vgg_dist.evaluation.open import open_images
from vgg_dist.models.layers import Layer, layers
from vgg_dist.models.vgg import ConvNet
from vgg_dist.visualization.deconvnet import NoWayBack, project_places
from vgg_dist.visualization.images import Images, choose_layers
from vgg_dist.visualization.open_net import open_trained
from vgg_dist.visualization.page import Page, Picture, Section
from vgg_dist.visualization.plots import colored
from vgg_dist.visualization.tiles import grey_level, mosaic, opaque, png, resized

TILE = 208  # pixels
SQUARE = 2 / 9  # of the image's side: 50 of 225 pixels
HALF_SURE = 0.75  # posterior: what a square takes away shows, and what it adds
CANDIDATES = 20  # images looked at for each that is shown
STEPS = 6  # positions within a square's side


@dataclass(frozen=True)
class Occluded:
    """What a net makes of one image with a square at each of n x n positions, from the top left, `step` pixels apart."""

    label: int
    """The class whose posterior it is."""
    uncovered: float
    """Its posterior for the uncovered image."""
    posterior: NDArray[np.float32]
    """(n, n): its posterior."""
    activation: NDArray[np.float32]
    """(n, n): the sum over the map that answers most to the uncovered image."""
    top: NDArray[np.int64]
    """(n, n): the most probable class."""
    channel: int
    """The number of that map."""
    own_map: NDArray[np.float32]
    """(h, w): that map of the uncovered image."""


def draw_occlusion(options: OcclusionPictures) -> Page:
    """The page. ValueError or OSError, one line, for what stops it."""
    net = open_trained(options)
    size = net.image_size
    square = round(SQUARE * size) if options.square is None else options.square
    if square >= size:
        raise ValueError(f"--square {square}: must be smaller than the image, {size} pixels")
    step = max(1, square // STEPS) if options.step is None else options.step
    wanted = () if options.layer is None else (options.layer,)
    layer = choose_layers(layers(net.model, size), wanted, "--layer")[-1]
    store, names = open_images(options.evaluation(), [net])
    images = Images(store, net)
    candidates = images.spread(CANDIDATES * options.images)
    chosen = _half_sure(images, candidates)[: options.images]
    pictures = []
    total = len(chosen) * len(range(0, size - square + 1, step)) ** 2
    with Progress(total=total, desc="covering", unit="image") as progress:
        covering = Covering(images.model, layer, square, step, images.batch, progress.update)
        for batch, rows in images.batches(np.array(sorted(chosen), np.int64)):
            for image, row in zip(batch, rows.tolist(), strict=True):
                pictures.append(_picture(covering, images, image, row, net.class_labels or names))
    text = (
        f"Of {len(candidates):,} images those to whose class the net gives a posterior nearest to {HALF_SURE}. A grey"
        f" square of {square} pixels, the mean colour, covers each part of them, at positions {step} pixels apart. Above:"
        f" the image; the map of {layer.name} that answers most to it, first what its strongest activation comes from by"
        " the deconvnet, then the map itself. Below, each where the middle of the square is: the sum of that map, the"
        " posterior of the class, and the most probable class. Dark is little, bright is much; the colours of classes"
        " have no meaning."
    )
    about = (net.origin,) if net.origin else ()
    return Page(
        f"occlusion-{net.name}", f"Occlusion of {net.name}", about, [Section("Images", (text,), pictures=pictures, width=34)]
    )


def _half_sure(images: Images, candidates: NDArray[np.int64]) -> list[int]:
    """The candidates by the posterior of their class, nearest to HALF_SURE first; without a class, of the most probable."""
    found: dict[int, float] = {}
    with Progress(total=len(candidates), desc="choosing", unit="image") as progress:
        for batch, rows in images.batches(candidates):
            with torch.no_grad():
                posteriors = images.model(batch).softmax(1)
            for row, posterior in zip(rows.tolist(), posteriors, strict=True):
                label = int(images.store.labels[row])
                found[row] = float(posterior[label] if label >= 0 else posterior.max())
            progress.update(len(rows))
    return sorted(found, key=lambda row: abs(found[row] - HALF_SURE))


@dataclass(frozen=True)
class Covering:
    """How images are covered."""

    model: ConvNet
    layer: Layer
    square: int
    """Its side, pixels."""
    step: int
    """Between its positions, pixels."""
    batch: int
    """Covered images at once."""
    done: Callable[[int], object] = lambda count: None
    """Is told how many have been computed."""

    @torch.no_grad()
    def occlude(self, image: Tensor, label: int | None) -> Occluded:
        """Covers parts of an image (C, S, S), normalised, by 0, the mean colour. None: for the most probable class."""
        model, end, square = self.model, self.layer.end, self.square
        own = model.features[:end](image[None].clone())[0]
        posterior = _posteriors(model, own[None].clone(), end)[0]
        label = int(posterior.argmax()) if label is None else label
        channel = int(own.flatten(1).sum(dim=1).argmax())
        starts = range(0, image.shape[-1] - square + 1, self.step)
        corners = [(top, left) for top in starts for left in starts]
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for first in range(0, len(corners), self.batch):
            part = corners[first : first + self.batch]
            covered = image.repeat(len(part), 1, 1, 1)
            for each, (top, left) in zip(covered, part, strict=True):
                each[:, top : top + square, left : left + square] = 0
            maps = model.features[:end](covered)
            posteriors = _posteriors(model, maps, end)
            self.done(len(part))
            found.append((posteriors[:, label], maps[:, channel].sum(dim=(1, 2)), posteriors.argmax(dim=1)))
        shape = len(starts), len(starts)
        of_class, sums, tops = (torch.cat(each).cpu().numpy().reshape(shape) for each in zip(*found, strict=True))
        return Occluded(label, float(posterior[label]), of_class, sums, tops, channel, own[channel].cpu().numpy())

    def projection(self, image: Tensor, result: Occluded) -> NDArray[np.uint8]:
        """RGBA (S, S, 4): the map's strongest activation by the deconvnet; empty for a net that has none."""
        y, x = divmod(int(result.own_map.argmax()), result.own_map.shape[1])
        try:
            projected = project_places(self.model.features, image[None], self.layer, [(result.channel, y, x)])[0]
        except NoWayBack:
            return np.zeros((1, 1, 4), np.uint8)
        return opaque(grey_level(projected.permute(1, 2, 0).cpu().numpy()))


def _posteriors(model: ConvNet, maps: Tensor, end: int) -> Tensor:
    """(n, num_classes) from the maps (n, C, h, w) after the first `end` modules of the features."""
    features = model.avgpool(model.features[end:](maps))
    return model.classifier(torch.flatten(features, 1)).softmax(1)


def _picture(covering: Covering, images: Images, image: Tensor, row: int, names: list[str]) -> Picture:
    label = int(images.store.labels[row])
    result = covering.occlude(image, label if label >= 0 else None)
    above = [opaque(images.pixels(image[None])[0]), covering.projection(image, result)]
    panels = _panels(above, result, covering)
    low, high = float(result.posterior.min()), float(result.posterior.max())
    counted = Counter(result.top.ravel().tolist()).most_common(3)
    tops = ", ".join(f"{names[each]} at {100 * count / result.top.size:.0f} %" for each, count in counted)
    caption = (
        f"{images.store.name(row)}: {names[result.label]}, posterior {result.uncovered:.2f}, covered {low:.2f} to"
        f" {high:.2f}; map {result.channel} of {covering.layer.name}; most probable: {tops} of the positions"
    )
    return Picture(png(panels), caption, f"{row}.png")


def _panels(above: list[NDArray[np.uint8]], result: Occluded, covering: Covering) -> NDArray[np.uint8]:
    """The image, its projection and the map; below, three values by the middle of the square, on the area of the image."""
    order = {label: place for place, (label, _) in enumerate(Counter(result.top.ravel().tolist()).most_common())}
    classes = np.vectorize(lambda label: (order[label] % 10 + 0.5) / 10)(result.top)
    values = [
        colored(_of_largest(result.activation), "viridis"),
        colored(_of_largest(result.posterior), "viridis"),
        colored(classes, "tab10"),
    ]
    own_map = colored(_of_largest(result.own_map), "viridis")
    below = [_on_image(each, len(above[0]), covering) for each in values]
    return mosaic([resized(each, TILE) for each in (*above, own_map, *below)], columns=3, gap=6)


def _of_largest(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """From 0 to 1, the largest."""
    return values / max(float(values.max()), 1e-12)


def _on_image(values: NDArray[np.uint8], size: int, covering: Covering) -> NDArray[np.uint8]:
    """RGBA (n, n, 4), one for each position of the square, on the image's area: `step` pixels around its middle each."""
    start = covering.square // 2 - covering.step // 2
    position = (np.arange(size) - start) // covering.step
    seen = np.flatnonzero((position >= 0) & (position < len(values)))
    canvas = np.zeros((size, size, 4), np.uint8)
    canvas[np.ix_(seen, seen)] = values[np.ix_(position[seen], position[seen])]
    return canvas
