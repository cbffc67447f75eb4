"""Trained nets from everywhere: against torchvision's own classes, the authors' BGR nets, and files that are not whole."""

from __future__ import annotations

import argparse
import copy
import json
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from support.networks import build_drawn, build_on_meta
from torch import Tensor, nn

from vgg_dist.config import ScaleRange, TrainConfig
from vgg_dist.models.build import build_model
from vgg_dist.run_folder.digests import write_digests
from vgg_dist.training.optim import PlateauSchedule, build_optimizer
from vgg_dist.training.state import TrainState
from vgg_dist.weights.files import METADATA_KEY
from vgg_dist.weights.load import load_net
from vgg_dist.weights.net import TrainedNet

NETS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
RGB_MEAN = (123.68, 116.779, 103.939)


def fc_weights(num_classes: int, in_features: int = 25088) -> dict[str, Tensor]:
    """An FC head of which every row is the one above, moved by one: all values vary, and a file holds each only once."""
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for index, (rows, columns) in {0: (4096, in_features), 3: (4096, 4096), 6: (num_classes, 4096)}.items():
        values = torch.empty(rows + columns - 1).uniform_(-1, 1, generator=generator) * (6 / columns) ** 0.5
        weights[f"classifier.{index}.weight"] = values.as_strided((rows, columns), (1, 1))
        weights[f"classifier.{index}.bias"] = torch.empty(rows).uniform_(-0.1, 0.1, generator=generator)
    return weights


def state_dict_of(arch: str, *, batch_norm: bool = False, num_classes: int = 10, image_size: int = 224) -> dict[str, Tensor]:
    """Drawn weights of a net with FC head, under today's keys, in their order."""
    convs = build_drawn(arch, batch_norm=batch_norm, head="gap", num_classes=1).state_dict()
    features = {key: value for key, value in convs.items() if key.startswith("features.")}
    return OrderedDict(features | fc_weights(num_classes, 512 * (image_size // 32) ** 2))


def torchvision_net(name: str, weights: dict[str, Tensor]) -> nn.Module:
    """torchvision's own class with these weights."""
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(num_classes=len(weights["classifier.6.bias"]))
    model.load_state_dict({key: value.contiguous() for key, value in weights.items()}, strict=True, assign=True)
    return model.eval()


def pixels(size: int, count: int = 1) -> Tensor:
    """RGB images in grey levels of 255."""
    return torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(size)).float()


def normalise(net: TrainedNet, images: Tensor) -> Tensor:
    """Grey levels as the net takes them."""
    return (images - torch.tensor(net.mean).view(-1, 1, 1)) / torch.tensor(net.std).view(-1, 1, 1)


@pytest.fixture(scope="module")
def small() -> dict[str, Tensor]:
    """A whole A with FC head for 32 pixels and 3 classes."""
    return state_dict_of("A", num_classes=3, image_size=32)


# --- torchvision's ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_a_torchvision_net_gives_its_own_logits(name: str, batch_norm: bool, tmp_path: Path) -> None:
    weights = state_dict_of(NETS[name], batch_norm=batch_norm)
    name += "_bn" if batch_norm else ""
    torch.save(weights, tmp_path / f"{name}.pth")
    net = load_net(str(tmp_path / f"{name}.pth"), "torchvision")
    assert (net.name, net.arch, net.batch_norm, net.head) == (name, NETS[name[:5]], batch_norm, "fc")
    assert (net.image_size, net.num_classes, net.train_scale, net.class_names) == (224, 10, None, None)
    assert not net.model.training
    theirs, images = torchvision_net(name, weights), pixels(224)
    preset = torchvision.models.get_weight(f"{name.upper()}_Weights.IMAGENET1K_V1").transforms()
    normalised = torchvision.transforms.functional.normalize(images / 255, preset.mean, preset.std)
    torch.testing.assert_close(normalise(net, images), normalised)
    with torch.inference_mode():
        assert torch.equal(net.model(normalised), theirs(normalised))


@pytest.mark.slow
def test_files_of_earlier_years_and_of_safetensors_hold_the_same_net(tmp_path: Path) -> None:
    today = state_dict_of("A", batch_norm=True, num_classes=3, image_size=32)
    # Before 2018 batch norms did not count; before 2017 dropout came first; torch.save wrote no zip file before 2020.
    earlier = {"classifier.0": "classifier.1", "classifier.3": "classifier.4"}
    old = {
        earlier.get(key[:12], key[:12]) + key[12:]: value
        for key, value in today.items()
        if not key.endswith("num_batches_tracked")
    }
    torch.save(today, tmp_path / "today.pth")
    torch.save(OrderedDict(old), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    contiguous = {key: value.contiguous() for key, value in today.items()}
    safetensors.torch.save_file(contiguous, tmp_path / "net.safetensors")
    nets = [load_net(str(tmp_path / file), "torchvision") for file in ("today.pth", "old.pth", "net.safetensors")]
    assert len({net.digest for net in nets}) == 1
    assert all(torch.equal(value, nets[1].model.state_dict()[key]) for key, value in contiguous.items())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where torchvision keeps what it downloaded; nothing can be downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.slow
def test_torchvision_weights_by_name(hub: Path) -> None:
    torch.save(state_dict_of("A", num_classes=1000), hub / "vgg11-8a719046.pth")
    net = load_net("torchvision://VGG11_Weights.IMAGENET1K_V1")
    assert (net.name, net.arch, net.num_classes) == ("VGG11_Weights.IMAGENET1K_V1", "A", 1000)
    assert net.class_names is None  # those of folders are WordNet ids
    assert net.class_labels is not None
    assert net.class_labels[:2] == ["tench", "goldfish"]


def test_torchvision_weights_that_cannot_be_had(hub: Path) -> None:
    with pytest.raises(ValueError, match=r"^torchvision://VGG19_\S+: cannot be downloaded from https://\S+: .*$"):
        load_net("torchvision://VGG19_Weights.IMAGENET1K_V1")
    (hub / "vgg13-19584684.pth").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=rf"^torchvision://VGG13_\S+: is damaged in {hub.parent}: .*$"):
        load_net("torchvision://VGG13_Weights.IMAGENET1K_V1")
    for name in ("ResNet50_Weights.IMAGENET1K_V2", "VGG16_Weights.IMAGENET1K_FEATURES", "vgg16"):
        with pytest.raises(ValueError, match=rf"^torchvision://{name}: no such weights; allowed .*VGG19_BN_Weights"):
            load_net(f"torchvision://{name}")


# --- The authors' ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
@pytest.mark.slow
def test_a_net_of_the_authors_takes_rgb_here(name: str, tmp_path: Path) -> None:
    weights = state_dict_of(NETS[name], num_classes=5, image_size=64)
    theirs = build_on_meta(NETS[name], num_classes=5, image_size=64).eval()
    theirs.load_state_dict({key: value.contiguous() for key, value in weights.items()}, assign=True)
    # As the widely used conversions are: an old file, the FC layers numbered with dropout before them.
    earlier = {"classifier.0": "classifier.1", "classifier.3": "classifier.4"}
    old = {earlier.get(key[:12], key[:12]) + key[12:]: value for key, value in weights.items()}
    torch.save(OrderedDict(old), tmp_path / f"{name}-00b39a1b.pth", _use_new_zipfile_serialization=False)
    net = load_net(str(tmp_path / f"{name}-00b39a1b.pth"), "caffe")
    assert (net.arch, net.train_scale, net.mean, net.std) == (NETS[name], (256, 512), RGB_MEAN, (1, 1, 1))
    images = pixels(64, count=3)
    with torch.inference_mode():
        expected = theirs(images[:, [2, 1, 0]] - torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1))
        found, unflipped = net.model(normalise(net, images)), theirs(normalise(net, images))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max() < (unflipped - expected).abs().max()
    torch.save(weights, tmp_path / "today.pth")
    assert load_net(str(tmp_path / "today.pth"), "caffe").digest == net.digest
    assert load_net(str(tmp_path / "today.pth"), "torchvision").digest != net.digest


def test_the_authors_released_d_and_e_alone(small: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(small, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: is not the state dict of a known net; allowed: vgg16, vgg19, with "):
        load_net(str(tmp_path / "a.pth"), "caffe")


# --- The project's ---------------------------------------------------------------------------------------------------


def write_run(folder: Path, class_names: list[str], **settings: Any) -> nn.Module:
    """A run's folder with one checkpoint of a net that was just initialised."""
    config = TrainConfig(name=folder.name, storage_path=str(folder.parent), **settings).resolved()
    net = {"batch_norm": config.batch_norm, "head": config.head, "image_size": config.image_size}
    model = build_model(config.arch, num_classes=len(class_names), **net).eval()  # type: ignore[arg-type]
    checkpoint = folder / "checkpoint-000000007"
    checkpoint.mkdir(parents=True)
    schedule = PlateauSchedule(lr=config.lr, patience=config.patience, max_drops=config.lr_drops)
    TrainState(model, build_optimizer(model, config), schedule).save(checkpoint, config, class_names)
    return model


def test_a_run_is_what_its_config_says(tmp_path: Path) -> None:
    settings = {
        "arch": "C",
        "batch_norm": True,
        "head": "gap",
        "image_size": 64,
        "train_scale": ScaleRange(64, 128),
        "data": "synthetic",
    }
    model = write_run(tmp_path / "c-jitter", ["cat", "dog"], **settings)
    nets = [load_net(str(tmp_path / place)) for place in ("c-jitter", "c-jitter/checkpoint-000000007")]
    nets.append(load_net(f"file://{tmp_path}/c-jitter", "caffe"))  # for files that do not say what they are
    for net in nets:
        assert (net.name, net.arch, net.batch_norm, net.head) == ("c-jitter", "C", True, "gap")
        assert (net.image_size, net.train_scale, net.data) == (64, (64, 128), "synthetic")
        assert (net.num_classes, net.class_names, net.mean) == (2, ["cat", "dog"], RGB_MEAN)
        assert net.digest == nets[0].digest
    images = pixels(64)
    with torch.inference_mode():
        assert torch.equal(nets[0].model(normalise(nets[0], images)), model(images - torch.tensor(RGB_MEAN).view(3, 1, 1)))


def test_a_grey_net(tmp_path: Path) -> None:
    write_run(tmp_path / "digits", [str(digit) for digit in range(10)], arch="lenet5")
    net = load_net(str(tmp_path / "digits"))
    assert (net.image_size, net.mean, net.std) == (32, (33.3184,), (78.5675,))


def test_a_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", ["cat", "dog"], arch="A", head="gap", image_size=32)
    (checkpoint,) = (tmp_path / "run").iterdir()
    other = build_drawn("B", head="gap", num_classes=2).state_dict()
    safetensors.torch.save_file(other, checkpoint / "model.safetensors")
    write_digests(checkpoint)  # not damaged, but another net's
    with pytest.raises(ValueError, match=r"run: these are not the weights of its net, A: features.3.weight is missing"):
        load_net(str(tmp_path / "run"))


@pytest.mark.slow
def test_the_digest_knows_every_bit(small: dict[str, Tensor], tmp_path: Path) -> None:
    changed = {key: value.clone() for key, value in small.items()}
    changed["features.18.bias"][7] = torch.nextafter(changed["features.18.bias"][7], torch.tensor(9.0))
    half = {key: value.half() for key, value in small.items()}
    digests = []
    for name, weights in {"whole": small, "changed": changed, "half": half, "again": small}.items():
        torch.save(weights, tmp_path / f"{name}.pth")
        net = load_net(str(tmp_path / f"{name}.pth"), "torchvision")
        assert {value.dtype for value in net.model.state_dict().values()} == {torch.float32}
        digests.append(net.digest)
    assert len(set(digests)) == 3
    assert digests[0] == digests[3]
    assert re.fullmatch("[0-9a-f]{64}", digests[0])


@pytest.mark.slow
def test_weights_behind_a_url(small: dict[str, Tensor], tmp_path: Path, s3: Any) -> None:
    torch.save(small, tmp_path / "a.pth")
    s3.put(str(tmp_path / "a.pth"), "s3://bucket/nets/a.pth")
    net = load_net("s3://bucket/nets/a.pth", "torchvision")
    assert (net.name, net.digest) == ("a", load_net(str(tmp_path / "a.pth"), "torchvision").digest)
    with pytest.raises(ValueError, match=r"^s3://bucket/nets/b\.pth: does not exist"):
        load_net("s3://bucket/nets/b.pth", "torchvision")


# --- As other tools leave them ---------------------------------------------------------------------------------------


class OnlyFeatures(nn.Module):
    """As the ImageNet example of PyTorch wraps a VGG: DataParallel around its convolutions alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier = nn.DataParallel(net.features), net.classifier


class Trained(nn.Module):
    """A Lightning module or a training script's own: the net is a part of it, and so is the weighted loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.backbone, self.criterion = net, nn.CrossEntropyLoss(weight=torch.ones(3))


def timms(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under timm's keys: its FC layers are convolutions."""
    names = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
    renamed = {}
    for key, value in weights.items():
        layer, _, kind = key.rpartition(".")
        if layer in ("classifier.0", "classifier.3") and kind == "weight":
            side = 1 if layer == "classifier.3" else int((value.shape[1] // 512) ** 0.5)
            value = value.reshape(4096, -1, side, side)
        renamed[f"{names.get(layer, layer)}.{kind}"] = value
    return renamed


def script(net: nn.Module, **more: object) -> dict[str, object]:
    """What a training script saves, with an optimizer's state and settings of classes that are not read."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for parameter in list(net.parameters())[:2]:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    settings = argparse.Namespace(lr=0.1, folder=Path("x"))
    return {"epoch": 7, "arch": "vgg11", "optimizer": optimizer.state_dict(), "args": settings, "best": 0.5} | more


AS_LEFT: dict[str, Callable[[nn.Module], object]] = {
    "data_parallel": lambda net: nn.DataParallel(net).state_dict(),
    "data_parallel_features": lambda net: OnlyFeatures(net).state_dict(),
    "compiled": lambda net: torch.compile(net).state_dict(),
    "compiled_in_data_parallel": lambda net: nn.DataParallel(torch.compile(net)).state_dict(),  # type: ignore[arg-type]
    "averaged": lambda net: torch.optim.swa_utils.AveragedModel(net).state_dict(),
    "script": lambda net: script(net, state_dict=nn.DataParallel(net).state_dict()),
    "torchvision_script": lambda net: script(
        net, model=net.state_dict(), model_ema=prefixed("module.", moved(net.state_dict()))
    ),
    "timm_script": lambda net: script(
        net, state_dict=timms(net.state_dict()), state_dict_ema=timms(moved(net.state_dict()))
    ),
    "average_alone": lambda net: {"ema_state_dict": prefixed("module.", net.state_dict()) | {"n_averaged": torch.tensor(3)}},
    "lightning": lambda net: {"pytorch-lightning_version": "2.5", "state_dict": Trained(net).state_dict(), "callbacks": {},
                              "loops": {"fit_loop": {"state_dict": {}}}, "hyper_parameters": script(net)},
    "deepspeed": lambda net: {"module": net.state_dict(), "ds_version": "0.16"},
    "twice": lambda net: prefixed("model.", net.state_dict()) | prefixed("net.", net.state_dict()),
    "pair": lambda net: (net.state_dict(), 7),
    "counted": lambda net: net.state_dict() | {"features.1.num_batches_tracked": torch.tensor(4),
                                               "total_ops": torch.zeros(1), "features.0.total_params": torch.zeros(1)},
    "double": lambda net: {"model": {"net": copy.deepcopy(net).double().state_dict()}},
}  # fmt: skip


@pytest.fixture(scope="module")
def small_net(small: dict[str, Tensor]) -> nn.Module:
    net = build_on_meta("A", num_classes=3, image_size=32)
    net.load_state_dict({key: value.contiguous() for key, value in small.items()}, assign=True)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("how", AS_LEFT)
def test_weights_as_other_tools_leave_them(
    how: str, small_net: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(AS_LEFT[how](small_net), tmp_path / "left.ckpt")
    net = load_net(str(tmp_path / "left.ckpt"), "torchvision")
    assert (net.arch, net.image_size, net.num_classes) == ("A", 32, 3)
    expected = small_net.state_dict()
    assert net.model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in net.model.state_dict().items())
    said = capsys.readouterr().err
    both = {"torchvision_script": "uses model, not model_ema", "timm_script": "uses state_dict, not state_dict_ema"}
    assert both.get(how, "") in said
    assert bool(said) == (how in both)
    (tmp_path / "left.ckpt").unlink()


def test_objects_beside_the_weights_do_not_run(tmp_path: Path) -> None:
    """A file is read past a class that is not known; a function that would be called there is not."""
    weights = {"features.0.weight": torch.zeros(64, 3, 3, 3)}
    torch.save({"state_dict": weights, "hook": Evaluated(tmp_path / "it-ran")}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"net\.pth: is not the state dict of a known net"):
        load_net(str(tmp_path / "net.pth"), "torchvision")
    assert not (tmp_path / "it-ran").exists()
    torch.load(tmp_path / "net.pth", weights_only=False)  # the test's own check: it would have
    assert (tmp_path / "it-ran").exists()


class Evaluated:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return eval, (f"open({str(self.mark)!r}, 'w').close()",)


# --- Files that are not whole, or not weights ------------------------------------------------------------------------


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_that_runs_code_is_not_read(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    torch.save({"features.0.weight": Malicious(mark)}, tmp_path / "zip.pth")
    torch.save({"features.0.weight": Malicious(mark)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"features.0.weight": Malicious(mark)}, protocol=2))
    for file in ("zip.pth", "old.pth", "pickle.pth"):
        for weights_format in ("torchvision", "caffe", None):
            with pytest.raises(ValueError, match=rf"{file}: holds more than weights \(\S*system\), which could run code"):
                load_net(str(tmp_path / file), weights_format)
    (tmp_path / "zip.pth").rename(tmp_path / "renamed.safetensors")
    with pytest.raises(ValueError, match=r"renamed\.safetensors: is damaged or not a safetensors file"):
        load_net(str(tmp_path / "renamed.safetensors"))
    assert not mark.exists()
    pickle.loads((tmp_path / "pickle.pth").read_bytes())  # the test's own check: it would have
    assert mark.exists()


def without(key: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: {name: value for name, value in weights.items() if name != key}


def having(key: str, shape: tuple[int, ...]) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: weights | {key: torch.zeros(shape)}


def prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in weights.items()}


def moved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights | {"features.0.bias": weights["features.0.bias"] + 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("features.8.bias"), "resembles vgg11, but features.8.bias is missing; allowed: vgg11, .*vgg19_bn"),
        (without("classifier.6.weight"), "resembles vgg11, but classifier.6.weight is missing, .*allowed: "),
        (having("mask", (3,)), "resembles vgg11, but mask is unexpected; allowed: "),
        (
            having("features.3.weight", (128, 64, 5, 5)),
            r"resembles vgg11, but features.3.weight is \(128, 64, 5, 5\), not \(128, 64, 3, 3\); allowed: ",
        ),
        (
            lambda weights: weights | {"features.0.bias": torch.full((64,), torch.nan)},
            "features.0.bias has values .* finite",
        ),
        (lambda weights: build_drawn("alexnet").state_dict(), "is not the state dict of a known net; allowed: vgg11, "),
        (
            lambda weights: {"conv1.weight": torch.zeros(64, 3, 7, 7)},
            r"is not the state dict of a known net; allowed: vgg11, .*features\.0\.weight \(64, 3, 3, 3\).*"
            r" found: conv1\.weight \(64, 3, 7, 7\)$",
        ),
        (lambda weights: {}, "is not the state dict of a known net.* found: no tensors$"),
        (lambda weights: {"epoch": 7, "note": "x"}, "is not a state dict; allowed: .* found a dict with epoch, note$"),
        (lambda weights: list(weights.values()), "is not a state dict; allowed: a dict of tensors.* found a list$"),
        (lambda weights: prefixed("a.", weights) | prefixed("b.", moved(weights)), r"holds several nets \(a, b\): save one"),
        (lambda weights: {"a": weights, "b": moved(weights)}, r"holds several nets \(a, b\): save one"),
        (
            lambda weights: prefixed("module.", weights) | moved(weights),
            r"holds several nets \(module\.features\.0\.bias and features\.0\.bias\): save one",
        ),
        (
            lambda weights: prefixed("1.", weights) | {"0.mean": torch.zeros(3)},
            r"has, beside the net below 1\., 0\.mean, which may be a part of it",
        ),
        (lambda weights: build_drawn("lenet5"), r"holds more than weights \(vgg_dist\S+LeNet5\), which could run code"),
    ],
)
@pytest.mark.slow
def test_what_is_wrong_with_a_file_is_said_in_one_line(
    change: Callable[[dict[str, Tensor]], object], message: str, small: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(change(small), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/net\.pth: {message}") as raised:
        load_net(str(tmp_path / "net.pth"), "torchvision")
    assert "\n" not in str(raised.value)
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("name", ["net.pth", "old.pth", "net.safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.00001, 0.5, 0.999999])
def test_a_truncated_file(name: str, kept: float, small: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / name
    if file.suffix == ".safetensors":
        safetensors.torch.save_file({key: value.contiguous() for key, value in small.items()}, file)
    else:
        torch.save(small, file, _use_new_zipfile_serialization=name == "net.pth")
    os.truncate(file, int(kept * file.stat().st_size))
    with pytest.raises(ValueError, match=rf"^{file}: is damaged or not a [^\n]*$") as raised:
        load_net(str(file), "torchvision")
    assert "Weights only" not in str(raised.value)


@pytest.mark.slow
def test_the_format_is_asked_for_where_it_cannot_be_told(small: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(small, tmp_path / "net.pth")
    safetensors.torch.save_file({key: value.contiguous() for key, value in small.items()}, tmp_path / "net.safetensors")
    for file, weights_format in (("net.pth", None), ("net.pth", "safetensors"), ("net.safetensors", None)):
        with pytest.raises(ValueError, match=rf"{file}: does not say .* --weights-format torchvision or caffe$"):
            load_net(str(tmp_path / file), weights_format)
    with pytest.raises(ValueError, match=r"^--weights-format onnx is unknown; allowed: torchvision, caffe, safetensors$"):
        load_net(str(tmp_path / "net.pth"), "onnx")
    write_run(tmp_path / "run", ["cat", "dog"], arch="A", head="gap", image_size=32)
    (checkpoint,) = (tmp_path / "run").iterdir()
    with pytest.raises(ValueError, match=rf"does not say what its net is and takes; give the folder {checkpoint} or"):
        load_net(str(checkpoint / "model.safetensors"))
    for place in ("missing", "missing.pth"):
        with pytest.raises(ValueError, match=rf"{tmp_path}/{place}: does not exist; expected a run's folder"):
            load_net(str(tmp_path / place))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "F"}, "--arch 'F' is unknown; allowed: A, "),
        ({"head": "fc"}, "these are not the weights of its net, A: classifier.0.weight is missing"),
        ({"class_names": ["cat"]}, "has 1 class names for 2 classes"),
        ({"mean": [1.0]}, "mean and std must have 3 values"),
        ({"mean": None}, "the description of its net is damaged"),
        ({"train_scale": [256]}, "the description of its net is damaged"),
        ({"image_size": "large"}, "'<' not supported"),
        ({"colour": "red"}, "the description of its net is damaged"),
    ],
)
def test_a_description_that_cannot_be(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    description = {
        "name": "a", "arch": "A", "batch_norm": False, "head": "gap", "image_size": 32, "num_classes": 2,
        "train_scale": None, "class_names": None, "mean": [1, 2, 3], "std": [1, 1, 1],
    }  # fmt: skip
    weights, file = build_drawn("A", head="gap", num_classes=2).state_dict(), tmp_path / "net.safetensors"
    safetensors.torch.save_file(weights, file, metadata={METADATA_KEY: json.dumps(description)})
    assert load_net(str(file)).mean == (1.0, 2.0, 3.0)
    safetensors.torch.save_file(weights, file, metadata={METADATA_KEY: json.dumps(description | change)})
    with pytest.raises(ValueError, match=rf"^{file}: [^\n]*{message}"):
        load_net(str(file))
