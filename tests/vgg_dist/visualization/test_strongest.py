"""The strongest activations, against a sort of all of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from vgg_dist.models.build import build_model
from vgg_dist.models.layers import layers
from vgg_dist.visualization.strongest import KEPT, Strongest, find_strongest


@pytest.mark.parametrize("count", [4, 23])
def test_the_strongest_of_each_map_are_found_over_batches(count: int) -> None:
    torch.manual_seed(0)
    model = build_model("zfnet", image_size=48).eval()
    chosen = [layer for layer in layers(model, 48).values() if layer.name in ("conv2", "pool2", "conv5", "conv1")]
    images, indices = torch.randn(count, 3, 48, 48), torch.randperm(1000)[:count]
    batches = list(zip(images.split(5), indices.split(5), strict=True))
    found = find_strongest(model.features, chosen[::-1], batches, torch.device("cpu"))
    for layer in chosen:
        with torch.no_grad():
            maps = torch.cat([model.features[: layer.end](part.clone()) for part in images.split(5)])
        for channel in range(0, layer.channels, 37):
            each = maps[:, channel]
            by_image = sorted(((float(each[n].max()), n) for n in range(count)), key=lambda item: -item[0])
            expected = []
            for value, n in by_image[:KEPT]:
                y, x = divmod(int(each[n].argmax()), each.shape[-1])
                if value > 0:
                    expected.append((value, int(indices[n]), y, x))
            assert found[layer.name].of_map(channel) == expected


def test_of_equal_activations_the_earlier_image_counts() -> None:
    [layer] = itertools.islice(layers(build_model("lenet5"), 32).values(), 1)
    strongest = Strongest.empty(layer, torch.device("cpu"))
    for first in range(0, 20, 4):
        strongest.update(torch.ones(4, 6, 28, 28), torch.arange(first, first + 4))
    assert strongest.images.tolist() == [list(range(KEPT))] * 6


def test_a_map_that_never_answers_is_dead() -> None:
    model = build_model("A", head="gap", image_size=32).eval()
    convolution = model.features[0]
    assert isinstance(convolution, nn.Conv2d)
    nn.init.zeros_(convolution.weight[3])
    nn.init.constant_(convolution.bias, 0.1)
    nn.init.zeros_(convolution.bias[3:4])
    first = layers(model, 32)["conv1_1"]
    batch = torch.randn(3, 3, 32, 32), torch.arange(3)
    found = find_strongest(model.features, [first], [batch], torch.device("cpu"))["conv1_1"]
    assert found.is_dead[3]
    assert found.of_map(3) == []
    assert not found.is_dead.all()
