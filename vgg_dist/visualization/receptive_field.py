"""The page of receptive fields: what each layer sees of the image, by arithmetic, and for a trained net by gradients.

python -m vgg_dist.visualize receptive-field runs/first

The paper's argument for small filters (section 2.3) is drawn: three 3x3 layers see 7x7 pixels, as one 7x7 layer does, with
27 C^2 weights in place of 49 C^2, and three rectifications in place of one. The effective receptive field is that of Luo et
al. (arXiv:1701.04128): the mean over images of the gradient's magnitude of the middle position, over its maps, for each
pixel; its size is the square root of the number of pixels with at least 4.55 % of the largest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipelines.progress import Progress
from vgg_dist.config.visualize import ReceptiveFieldPictures
from vgg_dist.evaluation.open import open_any_images
from vgg_dist.models.layers import Layer, layers
from vgg_dist.visualization.field_drawings import draw_nested, draw_stacks
from vgg_dist.visualization.images import Images, choose_layers
from vgg_dist.visualization.open_net import DescribedNet, describe_net
from vgg_dist.visualization.page import Page, Picture, Section, Table
from vgg_dist.visualization.plots import colored
from vgg_dist.visualization.tiles import png, resized

COUNTS = 1 - 0.9545  # of the largest gradient: of a Gaussian, what is within two standard deviations
SIDE = 256  # of a picture, pixels


def draw_receptive_fields(options: ReceptiveFieldPictures) -> Page:
    """The page. ValueError or OSError, one line, for what stops it."""
    net = describe_net(options)
    found = layers(net.model, net.image_size)
    chosen = choose_layers(found, options.layers)
    table = Table(("layer", "kernel", "stride", "maps", "field", "jump"), [_row(each) for each in found.values()])
    text = (
        "Field: the side of the square of pixels that one position of a layer's maps depends on. Jump: the distance between"
        " the squares of neighbouring positions, pixels. An FC layer sees what its window of maps sees."
    )
    size = net.image_size
    middle = f"Receptive fields in the middle of {size} x {size} pixels, which is the grey square."
    nested = Picture(draw_nested(list(found.values()), size), middle, "nested.png")
    sections = [
        Section("Layers", (text,), table, [nested]),
        Section("Three 3x3 layers beside one 7x7", pictures=[Picture(draw_stacks(), STACKS, "stacks.png")], width=44),
    ]
    if net.trained is not None:
        sections.append(_effective(options, net, chosen))
    return Page(f"receptive-field-{net.name}", f"Receptive fields of {net.name}", (net.words,), sections)


STACKS = (
    "Both see 7x7 pixels. For C channels in and out the three layers have 3 · 3² C² = 27 C² weights and rectify three"
    " times, the one layer has 7² C² = 49 C², 81 % more, and rectifies once (paper, section 2.3)."
)


def _row(layer: Layer) -> tuple[str, ...]:
    kernel, maps = f"{layer.kernel}x{layer.kernel}", f"{layer.size} x {layer.size}"
    return layer.name, kernel, str(layer.stride), maps, str(layer.field), str(layer.jump)


def _effective(options: ReceptiveFieldPictures, net: DescribedNet, chosen: Sequence[Layer]) -> Section:
    assert net.trained is not None
    images = Images(open_any_images(options.evaluation(), net.trained), net.trained)
    indices = images.spread(options.images)
    totals = {layer.name: torch.zeros(net.image_size, net.image_size, device=images.device) for layer in chosen}
    with Progress(total=len(indices), desc="gradients", unit="image") as progress:
        for batch, rows in images.batches(indices):
            for layer in chosen:
                totals[layer.name] += middle_gradient(images.model.features, layer, batch)
            progress.update(len(rows))
    pictures = [_effective_picture(layer, totals[layer.name].cpu().numpy(), net.image_size) for layer in chosen]
    text = (
        f"Mean over {len(indices)} images of the gradient's magnitude of the middle position with respect to each pixel,"
        " the brighter the larger. The frame is the receptive field of the table, as far as the image extends; the effective"
        f" one is the square root of the number of pixels with at least {100 * COUNTS:.3g} % of the largest gradient (Luo et"
        " al. 2016)."
    )
    return Section("Effective receptive fields", (text,), pictures=pictures, width=16)


def middle_gradient(features: nn.Sequential, layer: Layer, images: Tensor) -> Tensor:
    """(H, W): the sum over images (N, C, H, W) of the mean magnitude over colours of the gradient of the middle position.

    The middle position's value is the sum over its maps.
    """
    images = images.clone().requires_grad_()
    with torch.enable_grad():
        maps = images
        for module in features[: layer.end]:
            maps = nn.functional.relu(maps) if isinstance(module, nn.ReLU) else module(maps)
        middle = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2].sum()
        (gradient,) = torch.autograd.grad(middle, images)
    return gradient.abs().mean(dim=1).sum(dim=0)


def effective_size(gradients: NDArray[np.floating]) -> float:
    """The side of the square with as many pixels as have a gradient of at least COUNTS of the largest; 0 without any."""
    largest = gradients.max()
    return float(np.sqrt((gradients >= COUNTS * largest).sum())) if largest > 0 else 0.0


def _effective_picture(layer: Layer, gradients: NDArray[np.floating], image_size: int) -> Picture:
    largest = gradients.max()
    shown = resized(colored(np.sqrt(gradients / largest if largest > 0 else gradients)), max(SIDE, image_size)).copy()
    scale = len(shown) / image_size
    top, left, bottom, right = (round(edge * scale) for edge in layer.window(layer.size // 2, layer.size // 2))
    rows, columns = (slice(max(0, low), max(0, high)) for low, high in ((top, bottom), (left, right)))
    for edge in (top, bottom - 1):
        if 0 <= edge < len(shown):
            shown[edge, columns] = FRAME
    for edge in (left, right - 1):
        if 0 <= edge < len(shown):
            shown[rows, edge] = FRAME
    words = f"{layer.name}: receptive field {layer.field} pixels, effective {effective_size(gradients):.0f}"
    if layer.field > image_size:
        words += f"; the image has {image_size}"
    return Picture(png(shown), words, f"effective-{layer.name}.png")


FRAME = (120, 200, 255, 255)
