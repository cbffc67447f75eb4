"""Occlusion, against covering the image by hand for each position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.networks import build_drawn, images_of

from vgg_dist.models.layers import layers
from vgg_dist.visualization.occlusion import Covering, _on_image


def test_every_position_is_what_the_net_says_of_the_covered_image() -> None:
    model = build_drawn("A", image_size=40, head="linear", num_classes=7)
    layer = layers(model, 40)["conv3_2"]
    image = images_of(40)[0]
    kept = image.clone()
    result = Covering(model, layer, square=11, step=4, batch=5).occlude(image, 3)
    assert torch.equal(image, kept)
    assert result.posterior.shape == (8, 8)  # 0, 4 to 28
    with torch.no_grad():
        own = model.features[: layer.end](image[None].clone())[0]
        assert result.channel == int(own.sum(dim=(1, 2)).argmax())
        assert result.uncovered == pytest.approx(float(model(image[None]).softmax(1)[0, 3]), rel=1e-4)
        for row in range(8):
            for column in range(8):
                covered = image.clone()
                covered[:, 4 * row : 4 * row + 11, 4 * column : 4 * column + 11] = 0
                posteriors = model(covered[None]).softmax(1)[0]
                maps = model.features[: layer.end](covered[None].clone())[0]
                assert float(result.posterior[row, column]) == pytest.approx(float(posteriors[3]), rel=1e-4)
                assert float(result.activation[row, column]) == pytest.approx(float(maps[result.channel].sum()), rel=1e-4)
                assert int(posteriors.argmax()) == result.top[row, column]


def test_without_a_class_it_is_the_most_probable_one() -> None:
    model = build_drawn("zfnet", image_size=48, num_classes=5)
    image = images_of(48)[0]
    result = Covering(model, layers(model, 48)["conv5"], square=20, step=14, batch=2).occlude(image, None)
    with torch.no_grad():
        assert result.label == int(model(image[None]).argmax())


def test_a_net_that_averages_in_its_pools_has_no_projection() -> None:
    model = build_drawn("lenet5", num_classes=5)
    image = images_of(32, channels=1)[0]
    covering = Covering(model, layers(model, 32)["conv2"], square=20, step=6, batch=2)
    assert not covering.projection(image, covering.occlude(image, 0)).any()


@pytest.mark.parametrize(("square", "step"), [(7, 2), (7, 3), (8, 2), (7, 8), (3, 1)])
def test_values_are_drawn_around_the_middle_of_the_square(square: int, step: int) -> None:
    model = build_drawn("lenet5", num_classes=5)
    covering = Covering(model, layers(model, 32)["conv2"], square, step, 2)
    count = len(range(0, 32 - square + 1, step))
    values = np.arange(1, count * count + 1, dtype=np.uint8).reshape(count, count, 1).repeat(4, axis=2)
    drawn = _on_image(values, 32, covering)
    for row in range(count):
        for column in range(count):
            middle = row * step + square // 2, column * step + square // 2
            assert drawn[middle].tolist() == values[row, column].tolist()
