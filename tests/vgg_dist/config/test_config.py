"""The settings: what follows from what, and one line that names the flag for everything that cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vgg_dist.config import (
    Config,
    EvalConfig,
    ReproduceConfig,
    ScaleRange,
    TrainConfig,
    TrainSettings,
    TuneConfig,
    check_name,
)
from vgg_dist.models.build import build_model
from vgg_dist.models.specs import MODELS


def test_the_papers_recipe_is_the_default() -> None:
    config = TrainConfig(arch="E").resolved()
    assert (config.image_size, config.train_scale, config.val_scale) == (224, ScaleRange(256, 256), 256)
    assert (config.global_batch, config.lr, config.momentum, config.weight_decay, config.dropout) == (
        256,
        1e-2,
        0.9,
        5e-4,
        0.5,
    )
    assert (config.epochs, config.lr_drops, config.init) == (74, 3, "glorot")


def test_scales_follow_the_image_size() -> None:
    config = TrainConfig(arch="A", image_size=64).resolved()
    assert (config.train_scale, config.val_scale) == (ScaleRange(73, 73), 73)
    jitter = TrainConfig(train_scale=ScaleRange(256, 512)).resolved()
    assert jitter.val_scale == 384
    assert TrainConfig(train_scale=ScaleRange(384, 384)).resolved().val_scale == 384


def test_a_config_survives_json_and_resolving_again() -> None:
    config = TrainConfig(
        arch="D", batch_norm=True, head="linear", train_scale=ScaleRange(32, 48), image_size=32, pad=4, name="x"
    ).resolved()
    again = TrainSettings.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.resolved() == config


NAMES = {
    "a/b": "must not contain a slash",
    "a\\b": "must not contain a backslash",
    "/": "must not contain a slash",
    ".": "is a folder that is there already",
    "..": "is a folder that is there already",
    "": "must not be empty",
    " ": "must not be empty",
    "\u3000": "must not be empty",
    "a\n": "must not contain control characters",
    "a\x00b": "must not contain control characters",
    "\x7f": "must not contain control characters",
    "a\u2028b": "must not contain control characters",
    "a\udcffb": "must not contain control characters",  # a byte of the command line that is no text
    " a": "must not begin or end with a blank",
    "n" * 201: "must not be longer than 200 bytes",
    "n" * 100 + "é" * 51: "must not be longer than 200 bytes",
    "mlflow.db": "is where MLflow's records are",
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("kind", [TrainConfig, TuneConfig, ReproduceConfig, EvalConfig])
def test_a_name_is_that_of_one_folder(kind: type[Config], name: str) -> None:
    others: dict[str, Any] = {"nets": ("net",)} if kind is EvalConfig else {}
    with pytest.raises(ValueError, match=r"^--name ") as caught:
        kind(name=name, **others).resolved()  # type: ignore[attr-defined]
    assert NAMES[name] in str(caught.value)
    assert str(caught.value).isprintable()


def test_names_that_can_be() -> None:
    for name in ("a", "...", ".a", "a..b", "größe 2", "猫", "-", "50%", "n" * 200):
        check_name(name, "/runs")
    for name in ("50%", "a?b", "a#b"):
        with pytest.raises(ValueError, match="which ends or escapes a part of a URL"):
            check_name(name, "s3://bucket/runs")
    assert TrainConfig().resolved().name.startswith("a-2")


@pytest.mark.parametrize("arch", MODELS)
def test_every_arch_is_built_at_its_own_size(arch: Any) -> None:
    import torch

    config = TrainConfig(arch=arch).resolved()
    with torch.device("meta"):
        model = build_model(config.arch, num_classes=7, image_size=config.image_size)
        images = torch.empty(1, MODELS[arch].in_channels, config.image_size, config.image_size)
        assert model(images).shape == (1, 7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 31}, "--image-size 31: must be at least 32"),
        ({"image_size": 0}, "--image-size 0: must be at least 32"),
        ({"arch": "alexnet", "image_size": 32}, "--image-size 32: must be at least 67"),
        ({"train_scale": ScaleRange(200, 200)}, "--train-scale 200: must be at least 224"),
        ({"train_scale": ScaleRange(512, 256)}, "--train-scale 256: must be at least 512"),
        ({"val_scale": 100}, "--val-scale 100: must be at least 224"),
        ({"lr": 0.0}, "--lr 0.0: must be more than 0"),
        ({"lr": float("nan")}, "--lr nan: must be"),
        ({"dropout": 1.0}, "--dropout 1.0: must be less than 1"),
        ({"momentum": -0.1}, "--momentum -0.1: must be at least 0"),
        ({"global_batch": 0}, "--global-batch 0: must be at least 1"),
        ({"micro_batch": -1}, "--micro-batch -1: must be at least 1"),
        ({"epochs": 0}, "--epochs 0: must be at least 1"),
        ({"max_steps": 0}, "--max-steps 0: must be at least 1"),
        ({"num_workers": 0}, "--num-workers 0: must be at least 1"),
        ({"num_workers": 300}, "--num-workers 300: at most --global-batch 256"),
        ({"arch": "A-LRN", "batch_norm": True}, "--batch-norm: there is no batch-norm twin of A-LRN, only of A, B"),
        ({"arch": "lenet5", "head": "gap"}, "--head gap: lenet5 has only fc"),
        ({"arch": "alexnet", "width": 0.5}, "--width 0.5: alexnet has only the width 1"),
        ({"width": 0.0}, "--width 0.0: must be more than 0"),
        ({"name": ""}, "--name '': must not be empty"),
        ({"max_bad_images": -1}, "--max-bad-images -1: must be at least 0"),
        ({"seed": -1}, "--seed -1: must be at least 0"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_flag(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="--") as caught:
        TrainConfig(**fields).resolved()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
