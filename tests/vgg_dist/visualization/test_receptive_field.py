"""The gradient of the middle position, against differences; and the size of an effective receptive field."""

from __future__ import annotations

import numpy as np
import torch
from support.networks import build_drawn, images_of

from vgg_dist.models.layers import layers
from vgg_dist.visualization.receptive_field import effective_size, middle_gradient


def test_the_gradient_is_that_of_differences_and_within_the_receptive_field() -> None:
    model = build_drawn("B", image_size=48, head="gap")
    model.features.double()
    layer = layers(model, 48)["conv3_1"]
    images = images_of(48, count=2).double()
    gradient = middle_gradient(model.features, layer, images)

    def middle(image: torch.Tensor) -> float:
        with torch.no_grad():
            maps = model.features[: layer.end](image[None].clone())
        return float(maps[0, :, layer.size // 2, layer.size // 2].sum())

    top, left, bottom, right = layer.window(layer.size // 2, layer.size // 2)
    inside = torch.zeros(48, 48, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    assert (gradient[~inside] == 0).all()
    assert (gradient[inside] > 0).any()
    for y, x in [(24, 24), (20, 27), (top, left), (bottom - 1, right - 1)]:
        expected = 0.0
        for image in images:
            for color in range(3):
                low, high = image.clone(), image.clone()
                low[color, y, x] -= 1e-6
                high[color, y, x] += 1e-6
                expected += abs(middle(high) - middle(low)) / 2e-6 / 3
        torch.testing.assert_close(float(gradient[y, x]), expected, rtol=1e-4, atol=1e-7)


def test_of_a_gaussian_the_size_is_that_of_two_standard_deviations() -> None:
    place = np.arange(201) - 100
    gaussian = np.exp(-np.add.outer(place**2, place**2) / (2 * 12.0**2))
    radius = 12.0 * np.sqrt(-2 * np.log(1 - 0.9545))
    np.testing.assert_allclose(effective_size(gaussian), np.sqrt(np.pi) * radius, rtol=0.01)
    assert effective_size(np.zeros((4, 4))) == 0
