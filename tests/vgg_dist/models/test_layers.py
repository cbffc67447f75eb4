"""Layers by name: their receptive fields against a perturbation of every pixel, shapes and counts against the net itself."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from vgg_dist.models.build import build_model, macs
from vgg_dist.models.dense import fully_convolutional
from vgg_dist.models.layers import Layer, layers
from vgg_dist.models.lrn import LocalResponseNorm
from vgg_dist.models.specs import MODELS
from vgg_dist.models.vgg import ConvNet

CHANNELS = 2


def on_meta(arch: str, size: int, batch_norm: bool = False) -> ConvNet:
    with torch.device("meta"):
        return build_model(arch, image_size=size, batch_norm=batch_norm)


def thin(features: nn.Sequential) -> list[nn.Module]:
    """The same windows with two channels, no padding across, and positive weights, through which every pixel is seen."""
    found: list[nn.Module] = []
    for module in features:
        if isinstance(module, nn.Conv2d):
            kernel, stride, padding = module.kernel_size[0], module.stride[0], int(module.padding[0])
            into = 1 if not found else CHANNELS
            module = nn.Conv2d(into, CHANNELS, (kernel, 1), (stride, 1), (padding, 0), bias=False).double()
            nn.init.uniform_(module.weight, 0.9 / kernel, 1.1 / kernel)
        elif isinstance(module, nn.MaxPool2d):
            kernel, stride = int(module.kernel_size), int(module.stride)
            module = nn.MaxPool2d((kernel, 1), (stride, 1), ceil_mode=module.ceil_mode)
        elif isinstance(module, nn.AvgPool2d):
            module = nn.AvgPool2d((int(module.kernel_size), 1), (int(module.stride), 1))
        elif isinstance(module, LocalResponseNorm):
            module = nn.Identity()  # it sees other channels only, and would shrink what has grown
        found.append(module)
    return found


def windows_by_perturbation(modules: list[nn.Module], size: int) -> list[tuple[int, int]]:
    """For each position along the last maps, the first and last pixel of a column that change it when they grow.

    They grow so much that what is left of it at the edge of the receptive field still is the maximum in every pool.
    """
    features = nn.Sequential(*modules)
    torch.manual_seed(0)
    with torch.no_grad():
        column = torch.rand(1, 1, size, 1, dtype=torch.float64) + 1
        before = features(column.clone())[0, 0, :, 0]
        pixels = column.repeat(size, 1, 1, 1)
        pixels[range(size), 0, range(size), 0] += 1e12
        changed = (features(pixels)[:, 0, :, 0] - before).abs() > 1e-9 * before.abs()
    seen = [changed[:, position].nonzero().flatten() for position in range(changed.shape[1])]
    return [(int(each[0]), int(each[-1])) for each in seen]


@pytest.mark.parametrize("arch", MODELS)
def test_receptive_fields_are_those_of_a_perturbation_of_every_pixel(arch: str) -> None:
    size = 420 if arch != "lenet5" else 60
    model = on_meta(arch, MODELS[arch].image_size)
    modules = thin(model.features)
    for layer in layers(model, size).values():
        if layer.kind == "fc":
            continue
        windows = windows_by_perturbation(modules[: layer.end], size)
        assert len(windows) == layer.size
        inside = 0
        for y, (first, last) in enumerate(windows):
            top, _, bottom, _ = layer.window(y, 0)
            assert first == max(0, top), layer.name
            if bottom <= size:
                assert last == bottom - 1, layer.name
                inside += top >= 0
            else:  # strides may leave the last pixels unseen
                assert size - layer.jump < last + 1 <= size, layer.name
        assert inside > 2
        whole = layer.window(layer.size // 2, 0)
        assert whole[2] - whole[0] == whole[3] - whole[1] == layer.field


@pytest.mark.parametrize("arch", MODELS)
def test_the_first_fc_layer_sees_what_its_window_of_maps_sees(arch: str) -> None:
    size = MODELS[arch].image_size
    model = on_meta(arch, size)
    dense = fully_convolutional(model)
    found = list(layers(model, size).values())
    modules = thin(nn.Sequential(*model.features, next(m for m in dense.classifier if isinstance(m, nn.Conv2d))))
    beyond = size + 16 * found[-1].jump
    windows = windows_by_perturbation(modules, beyond)
    fc = next(layer for layer in found if layer.kind == "fc")
    inner = [(first, last) for first, last in windows if first > 0 and last < beyond - 1]
    assert inner
    assert {last - first + 1 for first, last in inner} == {fc.field}
    assert {after - before for (before, _), (after, _) in pairwise(inner)} <= {fc.jump}


NETS = [(arch, batch_norm) for arch in MODELS for batch_norm in (False, True) if MODELS[arch].batch_norm or not batch_norm]


@pytest.mark.parametrize(("arch", "batch_norm"), NETS)
def test_shapes_parameters_and_multiply_adds_are_the_nets(arch: str, batch_norm: bool) -> None:
    size = MODELS[arch].min_image_size + 32
    model = on_meta(arch, size, batch_norm).eval()
    found = layers(model, size)
    maps = torch.empty(1, MODELS[arch].in_channels, size, size, device="meta")
    for number, module in enumerate(model.features, start=1):
        maps = module(maps)
        for layer in found.values():
            if layer.kind != "fc" and layer.end == number:
                assert maps.shape == (1, layer.channels, layer.size, layer.size), layer.name
    assert sum(layer.parameters for layer in found.values()) == sum(each.numel() for each in model.parameters())
    assert sum(layer.macs for layer in found.values()) == macs(model, size)
    assert [found[name].channels for name in found if found[name].kind == "fc"] == [
        module.out_features for module in model.classifier if isinstance(module, nn.Linear)
    ]


def test_layers_have_the_papers_names() -> None:
    d = list(layers(on_meta("D", 224), 224))
    assert d[:3] == ["conv1_1", "conv1_2", "pool1"]
    assert d[-8:] == ["pool4", "conv5_1", "conv5_2", "conv5_3", "pool5", "fc6", "fc7", "fc8"]
    zfnet = " ".join(layers(on_meta("zfnet", 224), 224))
    assert zfnet == "conv1 pool1 norm1 conv2 pool2 norm2 conv3 conv4 conv5 pool5 fc6 fc7 fc8"
    assert list(layers(on_meta("lenet5", 32), 32)) == ["conv1", "pool1", "conv2", "pool2", "fc3", "fc4", "fc5"]
    assert list(layers(on_meta("A-LRN", 224), 224))[:3] == ["conv1_1", "norm1", "pool1"]


@pytest.mark.parametrize(("name", "field"), [("conv1_2", 5), ("conv3_3", 40), ("conv5_3", 196), ("pool5", 212)])
def test_receptive_fields_of_d_are_the_known_ones(name: str, field: int) -> None:
    found: dict[str, Layer] = layers(on_meta("D", 224), 224)
    assert found[name].field == field
