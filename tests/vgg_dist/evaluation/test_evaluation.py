"""Evaluations: posteriors against a plain loop and torchvision, killed and resumed on other workers, and the submission."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import Outcome, driver, kill_once
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from support.evaluations import make_runs, settings
from support.paths import ROOT
from support.runs import CLASSES, DATA

from pipelines.stores.open import open_store
from vgg_dist.config import EvalConfig
from vgg_dist.evaluation.compute import plan_evaluation
from vgg_dist.evaluation.posteriors import decode
from vgg_dist.evaluation.run import evaluate
from vgg_dist.models.dense import fully_convolutional
from vgg_dist.weights.load import load_net


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("runs"))


def plain_loop(run: Path, view: str, scale: int, indices: range) -> NDArray[np.float32]:
    """One image at a time, with Pillow and the net's FC or dense form."""
    net, store, size = load_net(str(run)), open_store(DATA, "val"), 32
    dense, posteriors = fully_convolutional(net.model), []
    for index in indices:
        with Image.open(io.BytesIO(store.read(index))) as opened:
            width, height = opened.size
            resized = opened.convert("RGB").resize(
                (scale * width // min(opened.size), scale * height // min(opened.size)), 2
            )
        grey = np.array(resized, np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        image = torch.from_numpy((grey - net.mean[0]) / net.std[0])[None]
        with torch.inference_mode():
            if view == "dense":
                each = [dense(side[None]).mean((2, 3)).softmax(1) for side in (image, image.flip(2))]
            else:
                _, height, width = image.shape
                corners = [
                    (round(y * (height - size) / 4), round(x * (width - size) / 4)) for y in range(5) for x in range(5)
                ]
                crops = [image[:, y : y + size, x : x + size] for y, x in corners]
                each = [net.model(side[None]).softmax(1) for crop in crops for side in (crop, crop.flip(2))]
        posteriors.append(torch.cat(each).mean(0).numpy())
    return np.array(posteriors)


@pytest.mark.slow
def test_posteriors_are_those_of_a_plain_loop_and_the_tables_are_means_of_them(runs: Path) -> None:
    data = "synthetic:train=100,val=120,size=48"  # the first images of DATA's
    config = settings(runs, name="tables", views=("dense", "crops"), data=data)
    report = evaluate(config.resolved())
    assert report is not None
    evaluation = plan_evaluation(config.resolved())
    assert evaluation.tasks() == []
    some = range(0, 120, 12)
    for net, files in zip("AB", evaluation.files, strict=True):
        assert set(files) == {(view, scale) for view in ("dense", "crops") for scale in (32, 37, 42)}
        for view in ("dense", "crops"):
            expected = plain_loop(runs / f"net-{net}", view, 37, some)
            np.testing.assert_allclose(files[view, 37].read()[list(some)], expected, rtol=5e-3, atol=1e-6)
    store = open_store(data, "val")
    labels = store.labels
    total = np.mean([one.read() for files in evaluation.files for one in files.values()], axis=0)
    error = 100 * np.mean(total.argmax(1) != labels)
    assert any(value == pytest.approx(error) for name, value in report.metrics.items() if name.startswith("table6/"))
    assert report.images == 120
    page = (runs / "tables" / "report.html").read_text()
    assert "data:image" in page
    assert "120 images" in (runs / "tables" / "report.md").read_text()
    lines = list(csv.DictReader((runs / "tables" / "predictions.csv").read_text(encoding="utf-8").splitlines()))
    assert {line["file"]: line["truth"] for line in lines} == {
        store.name(k): store.class_names[label] for k, label in enumerate(labels)
    }


def command(*flags: str, **options: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "vgg_dist.evaluate", *flags]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=900, **options)  # type: ignore[call-overload]


@pytest.mark.ray
def test_killed_and_resumed_on_two_workers_gives_the_same_numbers(
    runs: Path, cluster: dict[str, str], call: Callable[..., Outcome]
) -> None:
    flags = [str(runs / "net-A"), "--storage-path", str(runs), "--precision", "fp32", "--test-scales", "37", "64"]
    whole = call("vgg_dist.evaluate", *flags, "--name", "whole")
    assert whole.status == 0, whole.stderr
    line = [sys.executable, "-m", "vgg_dist.evaluate", *flags, "--name", "killed"]
    kill_once(line, lambda: list((runs / "killed").rglob("part-*.npy")), runs / "killed.log", {})
    parts = sorted((runs / "killed").rglob("part-*.npy"))
    assert len(parts) < 6
    before = {part: part.stat().st_mtime_ns for part in parts}
    resumed = command(*flags, "--name", "killed", "--num-workers", "2", env=os.environ | driver(cluster))
    assert resumed.returncode == 0, resumed.stderr
    assert {part: part.stat().st_mtime_ns for part in parts} == before
    for part in sorted((runs / "whole").rglob("part-*.npy")):
        other = runs / "killed" / part.relative_to(runs / "whole")
        np.testing.assert_allclose(decode(np.load(other)), decode(np.load(part)), rtol=2e-3, atol=1e-7)
    assert (runs / "killed" / "report.md").read_text() == (runs / "whole" / "report.md").read_text()


def make_devkit(folder: Path, numbers: dict[str, int]) -> Path:
    """The official development kit, as far as evaluation reads it: class name -> ILSVRC2012_ID."""
    synsets = np.array(
        [(number, name, 0) for name, number in numbers.items()],
        dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")],
    )
    savemat(folder / "meta.mat", {"synsets": synsets})
    (folder / "truth").write_text("1\n")
    with tarfile.open(folder / "devkit.tar.gz", "w:gz") as tar:
        tar.add(folder / "meta.mat", "devkit/data/meta.mat")
        tar.add(folder / "truth", "devkit/data/ILSVRC2012_validation_ground_truth.txt")
    return folder / "devkit.tar.gz"


@pytest.mark.slow
def test_submission_has_the_official_numbers_of_the_five_best_of_the_mean(runs: Path, tmp_path: Path) -> None:
    numbers = {name: 3 * index + 1 for index, name in enumerate(reversed(CLASSES))}
    (tmp_path / "test").mkdir()
    for number in range(3):
        Image.effect_noise((50, 40 + number), 80).save(tmp_path / "test" / f"ILSVRC2012_test_{number:08}.JPEG")
    config = settings(
        runs,
        name="submission",
        data=str(tmp_path / "test"),
        views=("dense", "crops", "center"),
        submission=str(tmp_path / "guesses.txt"),
        devkit=str(make_devkit(tmp_path, numbers)),
    )
    assert evaluate(config.resolved()) is None
    files = plan_evaluation(config.resolved()).files
    mean = np.mean([one.read() for of_net in files for (view, _), one in of_net.items() if view != "center"], axis=0)
    expected = [[numbers[CLASSES[label]] for label in row] for row in np.argsort(-mean, 1, kind="stable")[:, :5]]
    lines = (tmp_path / "guesses.txt").read_text().splitlines()
    assert [[int(number) for number in line.split()] for line in lines] == expected


# test_weights has the logits of all eight. With VGG_DIST_TEST_ALL=1: all eight on all 500 photographs, an hour on 2 cores.
ALL = bool(os.environ.get("VGG_DIST_TEST_ALL"))
EIGHT = [f"vgg{layers}{norm}" for layers in (11, 13, 16, 19) for norm in ("", "_bn")]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", EIGHT if ALL else ["vgg11_bn"])
def test_top_5_of_the_center_crop_is_torchvisions(imagenet_samples: list[Path], tmp_path: Path, name: str) -> None:
    from torchvision.transforms._presets import ImageClassification

    files = imagenet_samples if ALL else imagenet_samples[::100]
    model = getattr(torchvision.models, name)(num_classes=20).eval()
    for layer in model.modules():  # random weights that neither fade nor explode
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    folder = tmp_path / "images"
    folder.mkdir()
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())
    (tmp_path / "classes.txt").write_text("\n".join(f"class{k:02}" for k in range(20)))
    (tmp_path / "labels.txt").write_text("class00\n" * len(files))
    config = EvalConfig(
        nets=(str(tmp_path / "weights.pth"),),
        weights_format="torchvision",
        class_names=str(tmp_path / "classes.txt"),
        labels=str(tmp_path / "labels.txt"),
        data=str(folder),
        views=("center",),
        test_scales=(256,),
        storage_path=str(tmp_path),
        precision="fp32",
    )
    evaluate(config.resolved())
    ours = plan_evaluation(config.resolved()).files[0]["center", 256].read()
    preset = ImageClassification(crop_size=224)
    with torch.inference_mode():
        images = torch.stack([preset(Image.open(file).convert("RGB")) for file in sorted(files, key=lambda file: file.name)])
        theirs = torch.cat([model(image[None]) for image in images])
    assert np.argsort(-ours, 1, kind="stable")[:, :5].tolist() == theirs.topk(5).indices.tolist()


@pytest.mark.slow
def test_what_is_there_of_other_settings_is_not_mixed(runs: Path) -> None:
    evaluate(settings(runs, name="precise", nets=(str(runs / "net-A"),), test_scales=(32,)))
    with pytest.raises(ValueError, match="300 images of 10 classes, not 200 of 10"):
        evaluate(settings(runs, name="precise", nets=(str(runs / "net-A"),), data="synthetic:train=100,val=200,size=48"))
    with pytest.raises(ValueError, match="computed with other settings"):
        evaluate(settings(runs, name="precise", nets=(str(runs / "net-A"),), test_scales=(32,), precision="auto"))
    manifest = next((runs / "precise").rglob("manifest.json"))
    assert json.loads(manifest.read_text())["num_images"] == 300
    assert os.path.basename(manifest.parent) == "dense-32"
