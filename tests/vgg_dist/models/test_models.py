"""The networks against their oracles: the paper's counts, torchvision, NumPy, the same arithmetic written by hand."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from support.networks import build_drawn, build_on_meta, images_of
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vgg_dist.models import lrn
from vgg_dist.models.build import build_model, macs
from vgg_dist.models.dense import fully_convolutional
from vgg_dist.models.lrn import LocalResponseNorm
from vgg_dist.models.specs import MODELS
from vgg_dist.models.warm_start import init_from_shallower

# Parameters without and with batch norm for 1000 classes (lenet5: 10), and published GMACs at 224.
COUNTS: dict[str, tuple[int, int | None, float | None]] = {
    "A": (132_863_336, 132_868_840, 7.609),
    "A-LRN": (132_863_336, None, 7.609),
    "B": (133_047_848, 133_053_736, 11.308),
    "B-5x5": (
        134_503_528,
        134_503_528 + 2 * 1472,
        None,
    ),  # weight and bias of the norm for its 64 + 128 + 256 + 2 * 512 channels
    "C": (133_638_952, 133_647_400, 11.771),
    "D": (138_357_544, 138_365_992, 15.470),
    "E": (143_667_240, 143_678_248, 19.632),
    "lenet5": (61_706, None, None),
    "alexnet": (62_378_344, None, None),
    "zfnet": (62_357_608, None, None),
}
NETS = [(arch, batch_norm) for arch, spec in MODELS.items() for batch_norm in (False, True)[: 1 + spec.batch_norm]]
TORCHVISION = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}


# --- The table -------------------------------------------------------------------------------------------------------


def test_the_table_holds_the_nets_of_the_paper_and_its_ancestors() -> None:
    assert set(MODELS) == set(COUNTS)


@pytest.mark.parametrize(("arch", "batch_norm"), NETS)
def test_parameter_count(arch: str, batch_norm: bool) -> None:
    model = build_on_meta(arch, batch_norm=batch_norm, num_classes=10 if arch == "lenet5" else 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[arch][batch_norm]


def test_parameter_counts_of_the_other_heads() -> None:
    small = build_on_meta("D", batch_norm=True, head="linear", num_classes=3, image_size=32)
    assert sum(parameter.numel() for parameter in small.parameters()) == 14_724_675
    pooled = build_on_meta("D", head="gap", num_classes=10)
    fc_head = 123_642_856
    assert sum(parameter.numel() for parameter in pooled.parameters()) == 138_357_544 - fc_head + 5130


@pytest.mark.parametrize(("arch", "batch_norm"), NETS)
def test_macs_equal_torchs_flop_counter(arch: str, batch_norm: bool) -> None:
    spec = MODELS[arch]
    model = build_on_meta(arch, batch_norm=batch_norm)
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, spec.in_channels, spec.image_size, spec.image_size, device="meta"))
    assert macs(model, spec.image_size) == counter.get_total_flops() // 2
    published = COUNTS[arch][2]
    if published is not None:
        assert macs(model, 224) / 1e9 == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize(("arch", "width"), [("A", 0.5), ("B-5x5", 0.25), ("E", 0.125), ("D", 2.0), ("C", 0.01)])
def test_the_width_scales_the_channels_of_every_convolution(arch: str, width: float) -> None:
    def channels(model: nn.Module) -> list[tuple[int, int]]:
        return [(layer.in_channels, layer.out_channels) for layer in model.modules() if isinstance(layer, nn.Conv2d)]

    whole, scaled = (build_on_meta(arch, head="linear", num_classes=7, image_size=64, width=w) for w in (1.0, width))
    expected = [(a if a == 3 else max(1, round(width * a)), max(1, round(width * b))) for a, b in channels(whole)]
    assert channels(scaled) == expected
    assert scaled.classifier.in_features == 4 * expected[-1][1]
    if width > 0.1:  # the first convolution has three channels in any case
        assert macs(scaled, 64) == pytest.approx(width**2 * macs(whole, 64), rel=0.15)


def test_macs_of_the_dense_form_and_the_gap_head() -> None:
    for model, size in [
        (fully_convolutional(build_on_meta("A")), 256),
        (build_on_meta("A", head="gap", num_classes=7), 100),
    ]:
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, size, size, device="meta"))
        assert macs(model, size) == counter.get_total_flops() // 2


@pytest.mark.parametrize("arch", MODELS)
def test_the_smallest_image_leaves_one_pixel_and_a_smaller_one_is_refused(arch: str) -> None:
    smallest = MODELS[arch].min_image_size
    model = build_on_meta(arch, image_size=smallest)
    images = torch.empty(2, MODELS[arch].in_channels, smallest, smallest, device="meta")
    assert model.features(images).shape[-2:] == (1, 1)
    assert model(images).shape == (2, 1000)
    with pytest.raises(RuntimeError, match="too small"):
        model.features(images[..., 1:, 1:])
    with pytest.raises(ValueError, match=f"--image-size {smallest - 1} .* {arch}; allowed: {smallest} or more"):
        build_model(arch, image_size=smallest - 1)


@pytest.mark.parametrize("head", ["fc", "gap", "linear"])
@pytest.mark.parametrize("size", [33, 63, 75, 224, 230])
def test_any_image_size_of_32_or_more(head: str, size: int) -> None:
    model = build_on_meta("B", head=head, image_size=size, num_classes=7)
    assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 7)


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("F", {}, "--arch 'F' is unknown; allowed: A, A-LRN, B, B-5x5, C, D, E, lenet5, alexnet, zfnet"),
        ("D", {"head": "cnn"}, "--head 'cnn' is unknown for D; allowed: fc, gap, linear"),
        ("alexnet", {"head": "gap"}, "--head 'gap' is unknown for alexnet; allowed: fc"),
        ("A-LRN", {"batch_norm": True}, "--batch-norm does not exist for A-LRN; allowed with: A, B, B-5x5, C, D, E"),
        ("zfnet", {"batch_norm": True}, "--batch-norm does not exist for zfnet; allowed with: A, B, B-5x5, C, D, E"),
        ("D", {"image_size": 31}, "--image-size 31 is too small for D; allowed: 32 or more"),
        ("D", {"num_classes": 0}, "num_classes 0 is too small; allowed: 1 or more"),
        ("D", {"dropout": 1.0}, "--dropout 1.0 is out of range; allowed: 0 or more and less than 1"),
    ],
)
def test_a_wrong_choice_is_named_in_one_line(arch: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build_model(arch, **options)


def test_dropout_is_the_one_asked_for() -> None:
    model = build_on_meta("A", dropout=0.3)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.3, 0.3]


# --- The forward pass ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier_weights() -> dict[str, Tensor]:
    """An FC head for 224 pixels, drawn once: it is most of a network and the same in all."""
    model = build_drawn("A")
    return {key: value for key, value in model.state_dict().items() if key.startswith("classifier.")}


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("arch", TORCHVISION)
@pytest.mark.slow
def test_torchvision_gives_the_same_output(arch: str, batch_norm: bool, classifier_weights: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, TORCHVISION[arch] + ("_bn" if batch_norm else ""))().eval()
    ours = build_drawn(arch, batch_norm=batch_norm, head="gap")
    features = {key: value for key, value in ours.state_dict().items() if key.startswith("features.")}
    ours = build_on_meta(arch, batch_norm=batch_norm).eval()
    ours.load_state_dict(features | classifier_weights, assign=True)
    theirs.load_state_dict(ours.state_dict(), assign=True)
    build_on_meta(arch, batch_norm=batch_norm).load_state_dict(theirs.state_dict(), assign=True)
    images = images_of(224)
    with torch.inference_mode():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_lrn_is_krizhevskys_sum(memory_format: torch.memory_format) -> None:
    maps = (10 * images_of(6, channels=9, count=2)).to(memory_format=memory_format)
    values = maps.double().numpy()
    expected = np.empty_like(values)
    for channel in range(9):
        neighbours = values[:, max(0, channel - 2) : channel + 3]
        expected[:, channel] = values[:, channel] / (2 + 1e-4 * (neighbours**2).sum(axis=1)) ** 0.75
    np.testing.assert_allclose(LocalResponseNorm()(maps).numpy(), expected, rtol=1e-5)
    theirs = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    torch.testing.assert_close(LocalResponseNorm()(maps.requires_grad_()), theirs(maps))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("part", [1 << 22, 1])
def test_lrns_gradient_is_that_of_its_formula(
    memory_format: torch.memory_format, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lrn, "PART", part)
    maps = (100 * images_of(3, channels=7, count=2)).double().to(memory_format=memory_format).requires_grad_()
    assert torch.autograd.gradcheck(LocalResponseNorm(), maps)
    normalised = LocalResponseNorm()(maps)
    (gradient,) = torch.autograd.grad(normalised.sum(), maps)
    assert torch.equal(normalised, LocalResponseNorm()(maps.detach()))
    assert normalised.is_contiguous(memory_format=memory_format)
    assert gradient.is_contiguous(memory_format=memory_format)


def test_lrn_of_bf16_maps_is_computed_in_fp32() -> None:
    maps = (100 * images_of(6, channels=9)).bfloat16()
    exact, rounded = maps.float().requires_grad_(), maps.clone().requires_grad_()
    expected, normalised = LocalResponseNorm()(exact), LocalResponseNorm()(rounded)
    assert torch.equal(normalised, expected.bfloat16())
    gradient = torch.randn(maps.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    (wide,) = torch.autograd.grad(expected, exact, gradient.float())
    (narrow,) = torch.autograd.grad(normalised, rounded, gradient)
    assert torch.equal(narrow, wide.bfloat16())


def test_a_lrn_normalises_between_conv1_and_its_pool() -> None:
    plain, normalised = build_drawn("A", head="gap"), build_drawn("A-LRN", head="gap")
    init_from_shallower(normalised, plain.state_dict())
    images = images_of(40)
    with torch.inference_mode():
        maps = LocalResponseNorm()(F.relu(plain.features[0](images)))
        assert torch.equal(normalised.features(images), plain.features[2:](maps))


def test_lenet5_by_hand() -> None:
    model = build_drawn("lenet5", num_classes=10)
    weights = list(model.parameters())
    images = images_of(32, channels=1, count=3)
    with torch.inference_mode():
        maps = images
        for weight, bias in (weights[0:2], weights[2:4]):
            maps = F.avg_pool2d(torch.sigmoid(F.conv2d(maps, weight, bias)), 2)
        values = maps.reshape(3, 400)
        for weight, bias in (weights[4:6], weights[6:8]):
            values = torch.sigmoid(values @ weight.T + bias)
        torch.testing.assert_close(model(images), values @ weights[8].T + weights[9])


def test_alexnets_maps_by_hand() -> None:
    features = build_drawn("alexnet", image_size=67).features
    convs = [module for module in features if isinstance(module, nn.Conv2d)]
    images = images_of(227)
    with torch.inference_mode():
        maps = F.relu(F.conv2d(images, convs[0].weight, convs[0].bias, stride=4))
        assert maps.shape[-1] == 55
        maps = F.max_pool2d(LocalResponseNorm()(maps), 3, 2)
        maps = F.relu(F.conv2d(maps, convs[1].weight, convs[1].bias, padding=2))
        assert maps.shape[-1] == 27
        maps = F.max_pool2d(LocalResponseNorm()(maps), 3, 2)
        assert torch.equal(features(images), last_stage_by_hand(maps, convs))


def test_zfnets_maps_by_hand() -> None:
    features = build_drawn("zfnet", image_size=47).features
    convs = [module for module in features if isinstance(module, nn.Conv2d)]
    images = images_of(224)
    with torch.inference_mode():
        maps = F.relu(F.conv2d(images, convs[0].weight, convs[0].bias, stride=2, padding=1))
        maps = LocalResponseNorm()(F.max_pool2d(maps, 3, 2, ceil_mode=True))
        assert maps.shape[-1] == 55
        maps = F.relu(F.conv2d(maps, convs[1].weight, convs[1].bias, stride=2))
        maps = LocalResponseNorm()(F.max_pool2d(maps, 3, 2, ceil_mode=True))
        assert torch.equal(features(images), last_stage_by_hand(maps, convs))


def last_stage_by_hand(maps: Tensor, convs: list[nn.Conv2d]) -> Tensor:
    assert maps.shape[1:] == (256, 13, 13)
    for conv in convs[2:]:
        maps = F.relu(F.conv2d(maps, conv.weight, conv.bias, padding=1))
    maps = F.max_pool2d(maps, 3, 2)
    assert maps.shape[1:] == (256, 6, 6)
    return maps


@pytest.mark.parametrize(("arch", "head"), [("A", "gap"), ("A-LRN", "linear"), ("lenet5", "fc")])
def test_channels_last_changes_neither_output_nor_gradient(arch: str, head: str) -> None:
    images = images_of(64, channels=MODELS[arch].in_channels, count=2)
    model = build_drawn(arch, head=head, image_size=64, num_classes=5)
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    logits, twin_logits = model(images), twin(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(twin_logits, logits, rtol=1e-4, atol=1e-4)
    logits.square().sum().backward()
    twin_logits.square().sum().backward()
    gradient, twin_gradient = (next(net.parameters()).grad for net in (model, twin))
    assert gradient is not None
    torch.testing.assert_close(twin_gradient, gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item())


@pytest.mark.parametrize(("arch", "size", "head"), [("A-LRN", 32, "gap"), ("lenet5", 32, "fc")])
@pytest.mark.slow
def test_compiles_as_one_graph(arch: str, size: int, head: str) -> None:
    model = build_drawn(arch, image_size=size, head=head, num_classes=5)
    images = images_of(size, channels=MODELS[arch].in_channels)
    with torch.inference_mode():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.equal(compiled(images), model(images))


# --- The dense form --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("A", {"image_size": 64}),
        ("A", {"image_size": 64, "head": "linear"}),
        ("A", {"image_size": 64, "head": "gap"}),
        ("C", {"image_size": 32, "batch_norm": True, "head": "gap"}),
        ("A-LRN", {"image_size": 100, "head": "linear"}),
        ("zfnet", {"image_size": 80}),
        ("lenet5", {}),
    ],
)
def test_dense_form_equals_the_fc_form_and_shares_its_weights(arch: str, options: dict) -> None:
    model = build_drawn(arch, num_classes=7, **options)
    dense = fully_convolutional(model)
    images = images_of(options.get("image_size", 32), channels=MODELS[arch].in_channels, count=2)
    with torch.inference_mode():
        torch.testing.assert_close(dense(images).mean((2, 3)), model(images), rtol=1e-4, atol=1e-4)
    own = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    assert {tensor.untyped_storage().data_ptr() for tensor in dense.parameters()} == own


@pytest.mark.parametrize(("head", "size"), [("fc", 64), ("linear", 96), ("gap", 64)])
def test_dense_form_is_the_classifier_at_every_window_of_the_map(head: str, size: int) -> None:
    model = build_drawn("A", head=head, image_size=size, num_classes=7)
    images = images_of(145, width=170)
    window = 1 if head == "gap" else size // 32
    with torch.inference_mode():
        maps = model.features(images)
        assert maps.shape[-2:] == (4, 5)
        scores = fully_convolutional(model)(images)
        assert scores.shape == (1, 7, 5 - window, 6 - window)
        for y in range(scores.shape[2]):
            for x in range(scores.shape[3]):
                logits = model.classifier(maps[:, :, y : y + window, x : x + window].flatten(1))
                torch.testing.assert_close(scores[:, :, y, x], logits, rtol=1e-4, atol=1e-4)


def test_dense_form_at_224_is_7x7_1x1_1x1() -> None:
    dense = fully_convolutional(build_on_meta("D"))
    convs = [module for module in dense.get_submodule("classifier") if isinstance(module, nn.Conv2d)]  # type: ignore[attr-defined]
    assert [conv.kernel_size for conv in convs] == [(7, 7), (1, 1), (1, 1)]
    assert dense(torch.empty(1, 3, 384, 512, device="meta")).shape == (1, 1000, 6, 10)
