"""Where a network's first weights come from: the random schemes, and the copy of a shallower trained net."""

from __future__ import annotations

import pytest
import torch
from support.networks import build_drawn, build_on_meta
from torch import nn

from vgg_dist.models.build import initialize
from vgg_dist.models.vgg import ConvNet, conv_names
from vgg_dist.models.warm_start import init_from_shallower

# --- Initialisation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["glorot", "gaussian", "he"])
def test_initialize_draws_the_scheme_and_only_from_its_generator(scheme: str) -> None:
    def draw(seed: int) -> ConvNet:
        model = build_on_meta("A", batch_norm=True, head="gap", num_classes=100).to_empty(device="cpu")
        initialize(model, scheme, std=0.02, generator=torch.Generator().manual_seed(seed))
        return model

    global_state = torch.get_rng_state()
    model, again, other = draw(1), draw(1).state_dict(), draw(2)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())
    assert not torch.equal(next(model.parameters()), next(other.parameters()))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            std = {"glorot": (2 / (fan_in + fan_out)) ** 0.5, "gaussian": 0.02, "he": (2 / fan_in) ** 0.5}[scheme]
            error_of_estimate = 4 / module.weight.numel() ** 0.5
            assert module.weight.std().item() == pytest.approx(std, rel=error_of_estimate)
            assert abs(module.weight.mean().item()) < std * error_of_estimate
            if scheme == "glorot":
                assert module.weight.abs().max() <= 3**0.5 * std * (1 + 1e-6)
            assert not module.state_dict()["bias"].any()
        if isinstance(module, nn.BatchNorm2d):
            for name, value in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
                assert (module.state_dict()[name] == value).all()


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^--init 'zeros' is unknown; allowed: glorot, gaussian, he$"):
        initialize(nn.Linear(2, 2), "zeros")


# --- The start from a shallower net ----------------------------------------------------------------------------------


FIRST_FOUR = {"conv1_1", "conv2_1", "conv3_1", "conv3_2"}
FC = {"fc6", "fc7", "fc8"}


def paper_names(model: ConvNet) -> dict[str, str]:
    """The paper's names of the layers with weights (norms aside), and their names in the model."""
    names = {name: f"features.{index}" for name, index in conv_names(model.features).items()}
    if isinstance(model.classifier, nn.Linear):
        return names | {"classifier": "classifier"}
    return names | {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}


def copied_layers(model: ConvNet, source: ConvNet) -> set[str]:
    """Run the copy; the paper's names of the copied layers, proven equal to the source's, and all else untouched."""
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    copied = init_from_shallower(model, source.state_dict())
    after = model.state_dict()
    assert {key for key in after if not torch.equal(after[key], before[key])} <= set(copied)
    layers, source_layers = paper_names(model), paper_names(source)
    names = {name for name, layer in layers.items() if f"{layer}.weight" in copied}
    for name in names:
        for tensor in ("weight", "bias"):
            assert torch.equal(after[f"{layers[name]}.{tensor}"], source.state_dict()[f"{source_layers[name]}.{tensor}"])
    return names


@pytest.mark.parametrize(("arch", "head"), [("B", "fc"), ("C", "gap"), ("D", "linear"), ("E", "gap")])
def test_a_deeper_net_takes_a_s_first_four_convs_and_its_head(arch: str, head: str) -> None:
    model, source = (
        build_drawn(name, seed=seed, image_size=32, head=head, num_classes=5) for seed, name in enumerate((arch, "A"))
    )
    assert copied_layers(model, source) == FIRST_FOUR | (FC if head == "fc" else {"classifier"})


def test_a_deeper_net_starts_from_an_a_of_its_own_width_only() -> None:
    options = {"image_size": 32, "head": "linear", "num_classes": 5}
    half, whole = (build_drawn("A", seed=2, width=width, **options) for width in (0.5, 1.0))
    assert copied_layers(build_drawn("D", seed=1, width=0.5, **options), half) == FIRST_FOUR | {"classifier"}
    with pytest.raises(ValueError, match=r"^--init-from: no layer .* has the shape"):
        init_from_shallower(build_drawn("D", seed=1, width=0.5, **options), whole.state_dict())


@pytest.mark.slow
def test_another_number_of_classes_keeps_the_last_layer_and_another_size_the_first() -> None:
    source = build_drawn("A", seed=2, image_size=32, num_classes=5)
    larger = build_drawn("B", seed=1, image_size=64, num_classes=6)
    assert copied_layers(larger, source) == FIRST_FOUR | {"fc7"}
    larger = build_drawn("B", seed=1, image_size=64, num_classes=5, head="linear")
    assert copied_layers(larger, build_drawn("A", seed=2, image_size=32, num_classes=5, head="linear")) == FIRST_FOUR


def test_batch_norm_goes_with_its_convolution_where_both_have_one() -> None:
    source = build_drawn("A", image_size=32, seed=2, batch_norm=True, head="gap")
    model = build_drawn("D", image_size=32, seed=1, batch_norm=True, head="gap")
    copied = init_from_shallower(model, source.state_dict())
    own_convs, source_convs = conv_names(model.features), conv_names(source.features)
    expected = {"classifier.weight", "classifier.bias"}
    for name in FIRST_FOUR:
        for index, source_index in (
            (own_convs[name], source_convs[name]),
            (own_convs[name] + 1, source_convs[name] + 1),
        ):
            for tensor, value in source.features[source_index].state_dict().items():
                assert torch.equal(model.features[index].state_dict()[tensor], value)
                expected.add(f"features.{index}.{tensor}")
    assert len(copied) == len(set(copied)) == 4 * (2 + 5) + 2
    assert set(copied) == expected
    assert copied_layers(build_drawn("D", image_size=32, head="gap"), source) == FIRST_FOUR | {"classifier"}


@pytest.mark.parametrize(
    ("arch", "batch_norm", "head"), [("E", True, "gap"), ("A-LRN", False, "linear"), ("lenet5", False, "fc")]
)
def test_the_same_net_gives_all_its_weights(arch: str, batch_norm: bool, head: str) -> None:
    model, source = (build_drawn(arch, image_size=32, seed=seed, batch_norm=batch_norm, head=head) for seed in (1, 2))
    init_from_shallower(model, source.state_dict())
    assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("options", [({}, {"batch_norm": True}), ({"head": "gap"}, {"head": "fc"})])
def test_the_same_convolutions_are_copied_whole_into_a_twin_or_another_head(options: tuple[dict, dict]) -> None:
    model, source = (
        build_drawn("B", image_size=32, seed=seed, num_classes=5, **chosen) for seed, chosen in enumerate(options)
    )
    assert copied_layers(model, source) - FC == set(conv_names(model.features))


@pytest.mark.slow
def test_weights_that_do_not_fit_are_refused() -> None:
    alexnet = build_drawn("alexnet", image_size=67)
    vgg = build_drawn("B-5x5", image_size=32, seed=1, head="gap", num_classes=3)
    with pytest.raises(ValueError, match=r"^--init-from: .* allowed: a network of A, A-LRN, B, .*E$"):
        init_from_shallower(vgg, alexnet.state_dict())
    with pytest.raises(ValueError, match=r"^--init-from: .* allowed: AlexNet$"):
        init_from_shallower(alexnet, build_drawn("A", image_size=32, seed=1).state_dict())
    before = {key: tensor.clone() for key, tensor in vgg.state_dict().items()}
    with pytest.raises(ValueError, match=r"^--init-from: no layer .* has the shape"):
        init_from_shallower(vgg, build_drawn("A", image_size=32, seed=1, head="gap", num_classes=4).state_dict())
    assert all(torch.equal(tensor, before[key]) for key, tensor in vgg.state_dict().items())
