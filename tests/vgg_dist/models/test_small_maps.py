"""Convolutions of small maps with matrix products: values and gradients are those of torch's convolution."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from vgg_dist.models.build import build_model
from vgg_dist.models.small_maps import LEAST_IMAGES, SmallMapConv2d

FORMATS = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
MAPS = pytest.mark.parametrize("size", [(2, 2), (3, 3), (4, 5), (7, 7)])


def results(layer: nn.Module, maps: Tensor, gradient: Tensor) -> list[Tensor]:
    """The output, and the gradients of the maps, the weights and the biases."""
    maps = maps.clone(memory_format=torch.preserve_format).requires_grad_()
    layer.zero_grad()
    output = layer(maps)
    output.backward(gradient.to(output.dtype))
    return [output.detach(), *(tensor.grad for tensor in (maps, *layer.parameters()))]  # type: ignore[list-item]


@pytest.fixture(autouse=True)
def amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every CPU computes what one with AMX does."""
    monkeypatch.setattr("vgg_dist.models.small_maps.has_amx", lambda: True)


def pair(
    dtype: torch.dtype, memory_format: torch.memory_format, size: tuple[int, int] = (2, 2)
) -> tuple[SmallMapConv2d, nn.Conv2d, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (kind(24, 40, 3, padding=1, dtype=dtype) for kind in (SmallMapConv2d, nn.Conv2d))
    theirs.load_state_dict(ours.state_dict())
    maps = torch.randn(LEAST_IMAGES, 24, *size, dtype=dtype, generator=generator)
    gradient = torch.randn(LEAST_IMAGES, 40, *size, dtype=dtype, generator=generator)
    return (*(each.to(memory_format=memory_format) for each in (ours, theirs)), maps, gradient)  # type: ignore[return-value]


@FORMATS
def test_in_fp64_it_is_torchs_convolution_to_the_last_digits(memory_format: torch.memory_format) -> None:
    ours, theirs, maps, gradient = pair(torch.float64, memory_format)
    for found, expected in zip(results(ours, maps, gradient), results(theirs, maps, gradient), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert ours.weight.grad is not None
    assert ours.weight.grad.stride() == ours.weight.stride()


@FORMATS
@MAPS
def test_under_autocast_it_rounds_as_torchs_convolution_does(
    memory_format: torch.memory_format, size: tuple[int, int]
) -> None:
    """Both are as far from the results in fp64: half a unit of bf16's eight digits, and the sums in fp32."""
    ours, theirs, maps, gradient = pair(torch.float32, memory_format, size)
    maps, gradient = maps.bfloat16(), gradient.bfloat16()
    exact = results(copy.deepcopy(theirs).double(), maps.double(), gradient.double())
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = results(ours, maps, gradient), results(theirs, maps, gradient)
    for mine, other, true in zip(found, expected, exact, strict=True):
        assert mine.dtype == other.dtype
        errors = [(each.double() - true).abs().max() / true.abs().max() for each in (mine, other)]
        assert errors[0] < 1.5 * errors[1] + 2**-8, errors
    assert ours.weight.grad is not None
    assert ours.weight.grad.stride() == ours.weight.stride()


@pytest.mark.parametrize(
    ("side", "images", "expected"),
    [
        (2, LEAST_IMAGES, "_AsMatrixProductBackward"),
        (7, LEAST_IMAGES, "_GradientAsProductBackward"),
        (7, LEAST_IMAGES - 1, "ConvolutionBackward0"),
        (8, LEAST_IMAGES, "ConvolutionBackward0"),
    ],
)
def test_which_maps_are_small(side: int, images: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = SmallMapConv2d(4, 4, 3, padding=1)
    maps = torch.zeros(images, 4, side, side)

    def used() -> set[str]:
        return {type(node).__name__ for node in nodes(layer(maps).grad_fn)}

    with torch.autocast("cpu", torch.bfloat16):
        assert expected in used()
        monkeypatch.setattr("vgg_dist.models.small_maps.has_amx", lambda: False)
        assert (expected in used()) == (expected != "_GradientAsProductBackward")
    assert "_GradientAsProductBackward" not in used()


def test_maps_that_need_no_gradient_get_none() -> None:
    layer = SmallMapConv2d(4, 4, 3, padding=1)
    maps = torch.randn(LEAST_IMAGES, 4, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        layer(maps).sum().backward()
    assert maps.grad is None
    assert layer.weight.grad is not None


def test_nets_for_small_images_train_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same gradients as with torch's convolutions, for a whole net; a smaller batch takes torch's."""
    model = build_model("D", num_classes=5, head="linear", image_size=32, width=0.125).double()
    plain = copy.deepcopy(model)
    monkeypatch.setattr("vgg_dist.models.small_maps.LEAST_IMAGES", LEAST_IMAGES)
    images = torch.randn(LEAST_IMAGES, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model(images).square().sum().backward()
    monkeypatch.setattr("vgg_dist.models.small_maps.LEAST_IMAGES", LEAST_IMAGES + 1)
    plain(images).square().sum().backward()
    for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-12)
    used = {type(node).__name__ for node in nodes(model(images).grad_fn)}
    assert "_AsMatrixProductBackward" not in used
    monkeypatch.setattr("vgg_dist.models.small_maps.LEAST_IMAGES", LEAST_IMAGES)
    used = {type(node).__name__ for node in nodes(model(images).grad_fn)}
    assert "_AsMatrixProductBackward" in used


def nodes(node: object) -> list[object]:
    """A node of the autograd graph and all before it."""
    found, waiting = [], [node]
    while waiting:
        each = waiting.pop()
        if each is not None and each not in found:
            found.append(each)
            waiting += [before for before, _ in each.next_functions]  # type: ignore[attr-defined]
    return found
