"""The deconvnet, against autograd: its rules as custom backward passes, and without them the plain gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vgg_dist.models.build import build_model
from vgg_dist.models.layers import Layer, layers
from vgg_dist.models.lrn import LocalResponseNorm
from vgg_dist.models.specs import MODELS
from vgg_dist.models.vgg import ConvNet
from vgg_dist.visualization.deconvnet import check_deconvnet, crop_around, forward, project, project_places, unpool

NETS = [(arch, bn) for arch, spec in MODELS.items() if arch != "lenet5" for bn in (False, True)[: 1 + spec.batch_norm]]


class Rectified(torch.autograd.Function):
    """A ReLU whose way back is a ReLU too."""

    @staticmethod
    def forward(context: Any, maps: Tensor) -> Tensor:
        return maps.clamp(min=0)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient.clamp(min=0)


class PassedBy(torch.autograd.Function):
    """A local response normalisation that the way back ignores."""

    @staticmethod
    def forward(context: Any, maps: Tensor, norm: nn.Module) -> Tensor:
        return norm(maps)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def with_the_rules(features: nn.Sequential, images: Tensor) -> list[Tensor]:
    """The output of each of the same modules, whose backward passes follow the rules above."""
    maps, found = images, list[Tensor]()
    for module in features:
        if isinstance(module, nn.ReLU):
            maps = Rectified.apply(maps)
        elif isinstance(module, LocalResponseNorm):
            maps = PassedBy.apply(maps, module)
        else:
            maps = module(maps)
        found.append(maps)
    return found


def random_net(arch: str, batch_norm: bool, size: int) -> ConvNet:
    """In double precision, so that no two values of a pool's window are equal; batch norms are not the identity."""
    torch.manual_seed(0)
    head = "gap" if "gap" in MODELS[arch].heads else "fc"
    model = build_model(arch, batch_norm=batch_norm, head=head, image_size=size)
    model.features.double().eval()
    for module in model.features:
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.normal_(module.bias, std=0.1)
    return model


def small_size(arch: str) -> int:
    return MODELS[arch].min_image_size + 1


@pytest.mark.parametrize(("arch", "batch_norm"), NETS)
def test_every_layer_is_projected_as_by_autograd(arch: str, batch_norm: bool) -> None:
    size = small_size(arch)
    model = random_net(arch, batch_norm, size)
    images = torch.randn(1, 3, size, size, dtype=torch.float64)
    images.requires_grad_()
    expected_maps = with_the_rules(model.features, images)
    for layer in layers(model, size).values():
        if layer.kind == "fc":
            continue
        passed = forward(model.features, images.detach(), layer.end)
        torch.testing.assert_close(passed.maps, expected_maps[layer.end - 1].detach())
        chosen = torch.randn_like(passed.maps)
        (expected,) = torch.autograd.grad(expected_maps[layer.end - 1], images, chosen, retain_graph=True)
        assert expected.abs().max() > 0
        torch.testing.assert_close(project(passed, chosen), expected, msg=layer.name)


@pytest.mark.parametrize("arch", sorted({arch for arch, _ in NETS}))
def test_a_net_without_pools_and_relus_is_projected_as_by_its_gradient(arch: str) -> None:
    size = small_size(arch)
    model = random_net(arch, MODELS[arch].batch_norm, size)
    linear = nn.Sequential(*(each for each in model.features if isinstance(each, nn.Conv2d | nn.BatchNorm2d)))
    side = size if arch in ("alexnet", "zfnet") else 14  # without pools, the maps of a VGG stay as large as the image
    images = torch.randn(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    maps = linear(images)
    chosen = torch.randn_like(maps)
    (gradient,) = torch.autograd.grad(maps, images, chosen)
    torch.testing.assert_close(project(forward(linear, images.detach(), len(linear)), chosen), gradient)


@pytest.mark.parametrize(("kernel", "stride", "ceil"), [(2, 2, False), (3, 2, False), (3, 2, True)])
def test_unpooling_puts_each_value_where_its_maximum_was(kernel: int, stride: int, ceil: bool) -> None:
    torch.manual_seed(1)
    below = torch.randperm(2 * 3 * 8 * 9).double().reshape(2, 3, 8, 9)
    maps, where = functional.max_pool2d(below, kernel, stride, ceil_mode=ceil, return_indices=True)
    values = torch.rand_like(maps)
    expected = torch.zeros_like(below)
    for n, c, y, x in torch.cartesian_prod(*(torch.arange(side) for side in maps.shape)).tolist():
        window = below[n, c, y * stride : y * stride + kernel, x * stride : x * stride + kernel]
        row, column = divmod(int(window.argmax()), window.shape[1])
        expected[n, c, y * stride + row, x * stride + column] += values[n, c, y, x]
    torch.testing.assert_close(unpool(values, where, below.shape), expected)


SOME = "conv1", "conv1_1", "pool2", "conv3", "conv3_2", "conv5", "pool4"


@pytest.mark.parametrize(("arch", "size"), [("A", 96), ("C", 72), ("B-5x5", 70), ("alexnet", 163), ("zfnet", 97)])
def test_a_crop_gives_the_activation_and_projection_of_the_whole_image(arch: str, size: int) -> None:
    model = random_net(arch, MODELS[arch].batch_norm, small_size(arch))
    image = torch.randn(1, 3, size, size, dtype=torch.float64)
    for layer in layers(model, size).values():
        if layer.name not in SOME:
            continue
        maps = forward(model.features, image, layer.end).maps
        last = maps.shape[2] - 1
        for y, x in {(0, 0), (last, last), (last // 2, last // 3), (1, last)}:
            check_crop(model, layer, image, maps, (int(maps[0, :, y, x].argmax()), y, x))


def check_crop(model: ConvNet, layer: Layer, image: Tensor, maps: Tensor, place: tuple[int, int, int]) -> None:
    whole = project_places(model.features, image, layer, [place])
    crop = crop_around(layer, place, image.shape[-1])
    cut = image[:, :, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    passed = forward(model.features, cut, layer.end).maps
    torch.testing.assert_close(passed[(0, *crop.place)], maps[(0, *place)])
    part = project_places(model.features, cut, layer, [crop.place])
    pasted = torch.zeros_like(whole)
    top, left, bottom, right = crop.window
    rows, columns = slice(crop.top + top, crop.top + bottom), slice(crop.left + left, crop.left + right)
    pasted[:, :, rows, columns] = part[:, :, top:bottom, left:right]
    torch.testing.assert_close(pasted, whole)


def test_lenet_has_no_deconvnet() -> None:
    with pytest.raises(ValueError, match=r"^deconvnet: lenet5 .*; allowed: A, A-LRN, B, .*zfnet$"):
        check_deconvnet("lenet5")


@pytest.mark.gpu
@pytest.mark.parametrize("arch", ["A", "alexnet", "zfnet"])
def test_projections_on_a_gpu_are_those_of_the_cpu(arch: str) -> None:
    size = small_size(arch)
    model = random_net(arch, False, size)
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    layer = layers(model, size)["pool5"]
    on_cpu = project_places(model.features, images, layer, [(3, 0, 0), (5, 0, 0)])
    on_gpu = project_places(model.features.to("cuda"), images.to("cuda"), layer, [(3, 0, 0), (5, 0, 0)])
    torch.testing.assert_close(on_gpu.cpu(), on_cpu)
