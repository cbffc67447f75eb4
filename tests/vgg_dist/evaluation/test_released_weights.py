"""The authors' released D and E on ImageNet's validation images, against the published errors.

Runs where VGG_DIST_IMAGENET names a folder with ImageNet's val/, and VGG_DIST_WEIGHTS one with the two files of weights.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vgg_dist import paper
from vgg_dist.config import EvalConfig
from vgg_dist.evaluation.run import evaluate

IMAGENET, WEIGHTS = os.environ.get("VGG_DIST_IMAGENET"), os.environ.get("VGG_DIST_WEIGHTS")
FILES = {"D": "vgg16-00b39a1b", "E": "vgg19-d01eb7cb"}
TOLERANCE = 0.2  # points: figures are rounded to 0.1, and other programs resize images a little differently

# MatConvNet's table of pretrained models: one central crop of 224 pixels at Q = 256.
CENTRE_CROP = {"D": paper.Errors(28.5, 9.9), "E": paper.Errors(28.7, 9.9)}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (IMAGENET and WEIGHTS), reason="VGG_DIST_IMAGENET and VGG_DIST_WEIGHTS are not set"),
]


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    config = EvalConfig(
        nets=tuple(str(Path(str(WEIGHTS), f"{file}.pth")) for file in FILES.values()),
        weights_format="caffe",
        data=IMAGENET,
        views=("dense", "crops", "center"),
        storage_path=str(tmp_path_factory.mktemp("evaluation")),
    )
    report = evaluate(config.resolved())
    assert report is not None
    assert report.images == paper.VALIDATION_IMAGES
    return report.metrics


def check(metrics: dict[str, float], row: str, errors: paper.Errors) -> None:
    found = metrics[f"{row}/top1_error"], metrics[f"{row}/top5_error"]
    assert found == pytest.approx(tuple(errors), abs=TOLERANCE), row


@pytest.mark.parametrize("arch", FILES)
def test_one_centre_crop(metrics: dict[str, float], arch: str) -> None:
    check(metrics, f"each/{FILES[arch]}/center_256", CENTRE_CROP[arch])


@pytest.mark.parametrize("arch", FILES)
def test_dense_and_crops(metrics: dict[str, float], arch: str) -> None:
    net = paper.Net(arch, (256, 512))
    check(metrics, f"table3/{arch}_256-512", paper.TABLE_3[net])
    check(metrics, f"table4/{arch}_256-512", paper.TABLE_4[net])
    for view, errors in paper.TABLE_5[net].items():
        check(metrics, f"table5/{arch}_256-512/{view}", errors)


@pytest.mark.parametrize("view", ["dense", "crops", "both"])
def test_fused(metrics: dict[str, float], view: str) -> None:
    [errors] = [fusion.errors for fusion in paper.TABLE_6 if fusion.view == view and fusion.nets != paper.SUBMISSION]
    check(metrics, f"table6/D_E_256-512/{view}", errors)
