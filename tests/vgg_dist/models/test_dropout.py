"""Dropout masks by image, step and unit, against SplitMix64 in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from vgg_dist.models.build import build_model
from vgg_dist.models.dropout import KeyedDropout, image_keys, mask, set_keys

ALL = 2**64 - 1


def splitmix64(seed: int, count: int) -> list[int]:
    """The first numbers of the generator, as its authors' C code computes them."""
    found = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & ALL
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & ALL
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & ALL
        found.append(z ^ (z >> 31))
    return found


@pytest.mark.parametrize("p", [0.5, 0.1, 0.83])
def test_a_mask_is_the_sequence_of_its_key(p: float) -> None:
    keys = [0, 1, 2**63 - 1, 2**64 - 1, 123456789123456789]
    found = mask(torch.from_numpy(np.array(keys, np.uint64).view(np.int64)), 0, 100, p)
    expected = [[number / 2**64 >= p for number in splitmix64(key, 100)] for key in keys]
    assert found.tolist() == expected


def test_a_part_of_the_units_has_the_same_part_of_the_mask() -> None:
    keys = torch.from_numpy(image_keys(np.arange(9), 1, 2, 0).view(np.int64))
    whole = mask(keys, 0, 4096, 0.5)
    assert torch.equal(mask(keys, 1024, 512, 0.5), whole[:, 1024:1536])


def test_keys_differ_by_image_step_layer_and_seed_and_nothing_else() -> None:
    keys = {
        (seed, step, layer, image): int(key)
        for seed in (0, 1)
        for step in range(20)
        for layer in (0, 1)
        for image, key in enumerate(image_keys(np.arange(100), seed, step, layer))
    }
    assert len(set(keys.values())) == len(keys)
    assert keys[1, 7, 1, 5] == image_keys(np.array([5]), 1, 7, 1)[0]


def test_units_are_kept_at_the_rate_and_independently_of_each_other() -> None:
    kept = mask(torch.from_numpy(image_keys(np.arange(2000), 0, 0, 0).view(np.int64)), 0, 1000, 0.3).double()
    deviations = 4 * (0.3 * 0.7) ** 0.5
    assert abs(kept.mean() - 0.7) < deviations / 2_000_000**0.5
    assert ((kept.mean(0) - 0.7).abs() < 1.5 * deviations / 2000**0.5).all()
    assert ((kept.mean(1) - 0.7).abs() < 1.5 * deviations / 1000**0.5).all()
    centred = kept - 0.7
    for shifted in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1], centred[:, 64:] * centred[:, :-64]):
        assert abs(shifted.mean()) < 4 * 0.21 / shifted.numel() ** 0.5


def test_the_layer_drops_and_scales_in_both_passes() -> None:
    layer = KeyedDropout(0.25)
    set_keys([nn.ReLU(), layer], np.arange(6), 3, 4, torch.device("cpu"))
    inputs = torch.randn(6, 50, dtype=torch.float64, requires_grad=True)
    outputs = layer(inputs)
    kept = outputs != 0
    assert torch.equal(kept, mask(layer.keys, 0, 50, 0.25))  # type: ignore[arg-type]
    torch.testing.assert_close(outputs, torch.where(kept, inputs / 0.75, 0.0))
    outputs.sum().backward()
    torch.testing.assert_close(inputs.grad, kept / torch.tensor(0.75, dtype=torch.float64))
    assert torch.equal(layer.eval()(inputs), inputs)


def test_the_two_layers_of_a_net_have_different_masks() -> None:
    model = build_model("A", image_size=32)
    set_keys(model.modules(), np.arange(3), 0, 0, torch.device("cpu"))
    first, second = (layer.keys for layer in model.modules() if isinstance(layer, KeyedDropout))
    assert not set(first.tolist()) & set(second.tolist())  # type: ignore[union-attr]
