"""Evaluation and prediction use the pixels of `pipelines.pixels`, or refuse a file for the same reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from support.image_files import ALL
from support.large_images import PHONE
from support.runs import make_run
from support.trees import make_tree

from pipelines.pixels import decode, refusal
from pipelines.stores.open import open_store
from pipelines.stores.pictures import Pictures
from vgg_dist.config import EvalConfig
from vgg_dist.evaluation.compute import Evaluator, compute, plan_evaluation, view_images
from vgg_dist.evaluation.predict import predict
from vgg_dist.weights.load import TrainedNet, load_net

SCALE = 32
REASONS = {name: refusal(encoded) for name, encoded in ALL.items()}
GOOD = [name for name in ALL if REASONS[name] is None]
BAD = [name for name in ALL if REASONS[name] is not None]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of LeNet-5 with two classes, whose posteriors differ between these images."""
    return make_run(tmp_path_factory.mktemp("runs"), "net", 0, ["a", "b"])


def expected(net: TrainedNet, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The posteriors for the centre crop of the defined pixels at SCALE."""
    height, width = pixels.shape[:2]
    size = SCALE * width // min(height, width), SCALE * height // min(height, width)
    grey = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), np.float32) @ np.float32(
        [0.299, 0.587, 0.114]
    )
    top, left = (round((side - SCALE) / 2) for side in grey.shape)
    crop = torch.from_numpy((grey[top : top + SCALE, left : left + SCALE] - net.mean[0]) / net.std[0])
    with torch.inference_mode():
        return net.model(crop[None, None])[0].softmax(0).numpy()


def settings(run: Path, **more: object) -> EvalConfig:
    fields = {"nets": (str(run),), "storage_path": str(run.parent), "precision": "fp32", "views": ("center",)}
    return EvalConfig(**fields | {"test_scales": (SCALE,)} | more).resolved()  # type: ignore[arg-type]


def test_predictions_are_of_the_pixels_of_the_definition_or_there_is_its_reason(run: Path, tmp_path: Path) -> None:
    files = {f"{number:03}.jpg": name for number, name in enumerate(ALL)}
    make_tree(tmp_path, {file: ALL[name] for file, name in files.items()})
    pictures = Pictures([str(tmp_path)])
    assert {files[Path(file).name] for file in pictures.files} == set(GOOD)
    assert {files[Path(file).name]: why for file, why in pictures.failed.items()} == {name: REASONS[name] for name in BAD}
    found, net = predict(settings(run), pictures), load_net(str(run))
    for file, posteriors in zip(pictures.files, found, strict=True):
        name = files[Path(file).name]
        np.testing.assert_allclose(posteriors, expected(net, decode(ALL[name])), atol=1e-5, err_msg=name)
    assert np.ptp(found[:, 0]) > 0.05  # so other pixels would be noticed


def test_evaluations_are_of_the_pixels_of_the_definition_or_there_is_its_reason(run: Path, tmp_path: Path) -> None:
    make_tree(tmp_path, {f"val/{'ab'[k % 2]}/{k:03}.jpg": ALL[name] for k, name in enumerate(GOOD)})
    config = settings(run, data=str(tmp_path), name="good")
    evaluation, net = plan_evaluation(config), load_net(str(run))
    compute(evaluation, config)
    found = evaluation.reader(0)("center", SCALE)
    for row, posteriors in enumerate(found):
        name = GOOD[int(Path(evaluation.images.names[row]).stem)]
        np.testing.assert_allclose(posteriors, expected(net, decode(ALL[name])), atol=2e-3, err_msg=name)  # 16 bits

    make_tree(tmp_path / "bad", {f"val/{'ab'[k % 2]}/{k:03}.jpg": ALL[name] for k, name in enumerate(BAD)})
    store = open_store(str(tmp_path / "bad"), "val")
    opened = Evaluator(settings(run, data=str(tmp_path / "bad")), store).prepare(net)
    for row in range(len(store)):
        reason = REASONS[BAD[int(Path(store.name(row)).stem)]]
        with pytest.raises(OSError, match="cannot be decoded") as raised:
            view_images(*opened, "center", SCALE, np.array([row]))
        assert str(raised.value) == f"{store.name(row)}: cannot be decoded: {reason}"


def test_the_limit_on_pixels_is_that_of_the_flag(run: Path, tmp_path: Path) -> None:
    make_tree(tmp_path, {"val/a/phone.jpg": PHONE, "val/b/small.jpg": ALL["JPEG"]})
    files = [str(tmp_path / "val/a/phone.jpg"), str(tmp_path / "val/b/small.jpg")]
    reason = "16320 x 12240 pixels, more than --max-pixels 1000000"
    assert Pictures(files, 10**6).failed == {files[0]: reason}
    config = settings(run, data=str(tmp_path), name="limited", max_pixels=10**6)
    with pytest.raises(OSError, match=f"^val/a/phone.jpg: cannot be decoded: {reason}$"):
        compute(plan_evaluation(config), config)
    assert Pictures(files).failed == {}
