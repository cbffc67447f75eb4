"""Exports against the readers they are for: torchvision's classes, ONNX runtimes, torch.export; and what is refused."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
import torchvision
from conftest import Outcome
from support.networks import build_drawn
from support.paths import ROOT
from torch import Tensor, nn

from vgg_dist.export import SUFFIXES
from vgg_dist.models.specs import MODELS
from vgg_dist.weights.files import METADATA_KEY
from vgg_dist.weights.formats import write_net
from vgg_dist.weights.load import load_net
from vgg_dist.weights.net import TrainedNet, weights_digest


def trained(model: nn.Module, arch: str, **settings: Any) -> TrainedNet:
    """A net with a preprocessing that no other has, so that none can be confused with it."""
    channels = MODELS[arch].in_channels
    net: dict[str, Any] = {"name": "ours", "batch_norm": False, "head": "fc", "train_scale": (256, 512), "class_names": None}
    net |= {"mean": (100.5, 110.25, 120.125)[:channels], "std": (2.0, 3.0, 4.0)[:channels], "num_classes": 3}
    return TrainedNet(arch=arch, model=model, digest=weights_digest(model.state_dict()), **net | settings)  # type: ignore[arg-type]


def drawn(
    arch: str, *, image_size: int = 32, head: str = "fc", batch_norm: bool = False, width: float = 1.0, **settings: Any
) -> TrainedNet:
    """A net of three classes with drawn weights."""
    net: dict[str, Any] = {"image_size": image_size, "head": head, "batch_norm": batch_norm, "width": width}
    return trained(build_drawn(arch, num_classes=3, **net), arch, **net, **settings)


def images_for(net: TrainedNet, count: int) -> Tensor:
    shape = (count, len(net.mean), net.image_size, net.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(count))


def logits(net: TrainedNet, images: Tensor) -> Tensor:
    with torch.no_grad():
        return net.model(images)


# --- Weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "settings"),
    [
        ("C", {"batch_norm": True, "head": "gap", "class_names": ["cat", "dog", "owl"]}),
        ("A-LRN", {"image_size": 64, "head": "linear", "train_scale": None, "width": 0.5}),
        ("lenet5", {}),
    ],
)
def test_safetensors_hold_all_of_a_net(arch: str, settings: dict[str, Any], tmp_path: Path) -> None:
    net = drawn(arch, **settings)
    assert write_net(net, "safetensors", tmp_path / "net.safetensors")[0] == 0
    again = load_net(str(tmp_path / "net.safetensors"))
    assert again.to_json() == net.to_json()
    assert (again.digest, again.mean, again.train_scale) == (net.digest, net.mean, net.train_scale)
    assert torch.equal(logits(again, images_for(net, 2)), logits(net, images_for(net, 2)))
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "name", "batch_norm"), [("A", "vgg11", True)])  # test_models has all eight
def test_torchvision_takes_the_state_dict(arch: str, name: str, batch_norm: bool, tmp_path: Path) -> None:
    net = drawn(arch, image_size=224, batch_norm=batch_norm)
    output = tmp_path / "net.pth"
    assert write_net(net, "torchvision", output)[0] == 0
    theirs = getattr(torchvision.models, name + ("_bn" if batch_norm else ""))(num_classes=3, init_weights=False)
    theirs.load_state_dict(torch.load(output, weights_only=True), strict=True)
    with torch.inference_mode():
        assert torch.equal(theirs.eval()(images_for(net, 1)), logits(net, images_for(net, 1)))
    # Its own preprocessing, not torchvision's, whatever the format is said to be.
    for weights_format in (None, "torchvision"):
        again = load_net(str(output), weights_format)
        assert (again.to_json(), again.digest) == (net.to_json(), net.digest)
    output.unlink()


@pytest.mark.parametrize(
    ("arch", "settings"),
    [
        ("C", {"head": "gap"}),
        ("A", {}),
        ("A", {"image_size": 224, "head": "gap"}),
        ("lenet5", {}),
        ("A", {"image_size": 224, "width": 0.1}),
    ],
)
def test_a_net_that_torchvision_has_not(arch: str, settings: dict[str, Any], tmp_path: Path) -> None:
    net = drawn(arch, **settings)
    with pytest.raises(ValueError, match=r"^--format torchvision: ours is .*; allowed: A, B, D, E, .* for 224 pixels$"):
        write_net(net, "torchvision", tmp_path / "net.pth")
    assert not list(tmp_path.iterdir())


# --- Graphs ----------------------------------------------------------------------------------------------------------

GRAPH_NETS = pytest.mark.parametrize(
    ("arch", "settings"), [("A", {"batch_norm": True}), ("A-LRN", {"head": "gap"}), ("lenet5", {})]
)


@GRAPH_NETS
@pytest.mark.slow
def test_torch_export_takes_any_batch(arch: str, settings: dict[str, Any], tmp_path: Path) -> None:
    net, output = drawn(arch, **settings), tmp_path / "net.pt2"
    write_net(net, "torch-export", output)
    extra = {METADATA_KEY: ""}
    model = torch.export.load(output, extra_files=extra).module()
    assert extra[METADATA_KEY] == net.to_json()
    for count in (1, 2, 5):
        expected = logits(net, images_for(net, count))
        torch.testing.assert_close(model(images_for(net, count)).detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@GRAPH_NETS
def test_onnx_takes_any_batch(arch: str, settings: dict[str, Any], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    net, output = drawn(arch, **settings), tmp_path / "net.onnx"
    write_net(net, "onnx", output)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    onnx.checker.check_model(output, full_check=True)
    metadata = {entry.key: entry.value for entry in onnx.load(output).metadata_props}
    assert metadata[METADATA_KEY] == net.to_json()
    evaluator = ReferenceEvaluator(str(output))
    for count in (1, 5):
        (found,) = evaluator.run(None, {"images": images_for(net, count).numpy()})
        torch.testing.assert_close(torch.from_numpy(found), logits(net, images_for(net, count)), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_onnx_is_compared_where_its_runtime_has_no_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxruntime" else find(name, *rest)
    )
    write_net(drawn("A", head="gap"), "onnx", tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").stat().st_size > 30e6


@pytest.mark.slow
def test_a_file_that_gives_other_logits_is_not_kept(tmp_path: Path) -> None:
    net, output = drawn("lenet5"), tmp_path / "net.pt2"
    output.write_bytes(b"an earlier export")

    class NoisyInEvaluation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net.model

        def forward(self, images: Tensor) -> Tensor:
            logits = self.net(images)
            return logits + torch.randn_like(logits)

    noisy = trained(NoisyInEvaluation(), "lenet5", image_size=32)
    with pytest.raises(ValueError, match=r"^ours: read back, its logits differ by \S+ where the largest is \S+$"):
        write_net(noisy, "torch-export", output)
    assert output.read_bytes() == b"an earlier export"
    assert list(tmp_path.iterdir()) == [output]


# --- The command -----------------------------------------------------------------------------------------------------


def run(*flags: object, before: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vgg_dist.export", *map(str, flags)]
    return subprocess.run(
        ["bash", "-c", f'{before} exec "$@"', "bash", *command], capture_output=True, text=True, cwd=ROOT, timeout=300
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net as a file that says what it is."""
    file = tmp_path_factory.mktemp("nets") / "net.safetensors"
    write_net(drawn("A", head="gap", class_names=["cat", "dog", "owl"]), "safetensors", file)
    return file


def test_the_command_writes_and_says_what_the_net_takes(
    exported: Path, tmp_path: Path, call: Callable[..., Outcome]
) -> None:
    done = call("vgg_dist.export", exported, "--format", "safetensors", "--output", tmp_path / "again.safetensors")
    assert (done.status, done.stderr) == (0, "")
    assert "again.safetensors: A, 3 classes\nread back, its logits differ by at most 0.0e+00; the largest" in done.stdout
    assert "(N, 3, 32, 32): (pixel - mean) / std of RGB pixels 0 to 255, mean (100.5, 110.25, 120.125)" in done.stdout
    with safetensors.safe_open(tmp_path / "again.safetensors", framework="pt") as opened:
        assert json.loads(opened.metadata()[METADATA_KEY])["class_names"] == ["cat", "dog", "owl"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--format", "tensorflow", "--output", "{}/net.pb"], ["tensorflow", "torchvision", "torch-export"]),
        (["--format", "onnx", "--output", "{}/net.pt"], ["--output", "net.pt", ".onnx"]),
        (["--format", "torch-export", "--output", "{}/nowhere/net.pt2"], ["--output", "nowhere"]),
        (["--format", "torchvision", "--output", "{}/net.pth"], ["A with head gap and width 1 for 32 pixels", "A, B, D, E"]),
        (["--format", "safetensors", "--output", "{}/net.safetensors", "--opset", "9"], ["--opset"]),
    ],
)
def test_a_mistake_is_one_line(
    flags: list[str], words: list[str], exported: Path, tmp_path: Path, call: Callable[..., Outcome]
) -> None:
    done = call("vgg_dist.export", exported, *(flag.format(tmp_path) for flag in flags))
    assert done.status == 2
    assert done.stderr.startswith("vgg_dist.export: ")
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "torch-export"])
def test_a_full_disk_leaves_nothing(format: str, exported: Path, tmp_path: Path) -> None:
    output = tmp_path / f"net{SUFFIXES[format]}"
    done = run(exported, "--format", format, "--output", output, before="ulimit -f 1000;")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("vgg_dist.export: ")
    assert str(output) in done.stderr
    assert not list(tmp_path.iterdir())


def test_without_the_extra_onnx_is_refused(
    tmp_path: Path, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name.startswith("onnx") else found(name, *rest)
    )
    write_net(drawn("lenet5"), "safetensors", tmp_path / "net.safetensors")
    done = call("vgg_dist.export", tmp_path / "net.safetensors", "--format", "onnx", "--output", tmp_path / "net.onnx")
    assert done.status == 2
    assert done.stderr == (
        "vgg_dist.export: --format onnx: needs onnx and onnxscript; install the extra: pip install 'vgg_dist[export]'\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]
