"""Settings in a YAML file: what can be written there, what is refused, and that what is written is read again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from vgg_dist.config import EvalConfig, ReproduceConfig, ScaleRange, TrainCommand, TrainConfig, TuneConfig
from vgg_dist.config.config_file import read_config_file, to_yaml


def read(tmp_path: Path, text: str, kind: type[Any] = TrainCommand) -> dict[str, Any]:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    return read_config_file(str(file), kind)


@pytest.mark.parametrize(
    ("kind", "text", "values"),
    [
        (TrainCommand, "", {}),
        (TrainCommand, "lr: 0.5\nglobal-batch: 8\n--max-steps: 3\nweight_decay: 1", {
            "lr": 0.5, "global_batch": 8, "max_steps": 3, "weight_decay": 1.0}),
        (TrainCommand, "lr: 1e-2", {"lr": 0.01}),  # which YAML takes for text
        (TrainCommand, "train-scale: 256", {"train_scale": ScaleRange(256, 256)}),
        (TrainCommand, "train-scale: 256-512", {"train_scale": ScaleRange(256, 512)}),
        (TrainCommand, "train-scale: [256, 512]", {"train_scale": ScaleRange(256, 512)}),
        (TrainCommand, "flip: off\nmax_steps: null\nname: 5\ncheckpoint_every: 1000", {
            "flip": False, "max_steps": None, "name": "5", "checkpoint_every": "1000"}),
        (TrainCommand, "arch: vgg16_bn", {"arch": "D", "batch_norm": True}),
        (TrainCommand, "compress_gradients: true", {"bf16_gradients": True}),
        (TuneConfig, "search_lr: [1e-3, 0.1]\nsearch_train_scale: [256, 256-512]\nsearch-init: he", {
            "search_lr": (1e-3, 0.1), "search_train_scale": ("256", "256-512"), "search_init": ("he",)}),
        (ReproduceConfig, "scales: [36, 48, 36-64]\nonly: [B]", {"scales": ("36", "48", "36-64"), "only": ("B",)}),
        (EvalConfig, "nets: [runs/a, runs/b]\ntest_scales: 256", {"nets": ("runs/a", "runs/b"), "test_scales": (256,)}),
    ],
)  # fmt: skip
def test_what_a_file_may_say(kind: type[Any], text: str, values: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path, text, kind) == values


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (TrainCommand, "batch_size: 3", "batch_size: is no setting of this command; for --batch-size give --global-batch"),
        (TrainCommand, "epoch: 3", "epoch: is no setting of this command; for --epoch give --epochs"),
        (TrainCommand, "xyzzy: 3", "xyzzy: is no setting of this command"),
        (TrainCommand, "epochs: many", "epochs: 'many' is not a whole number"),
        (TrainCommand, "epochs: 2.5", "epochs: 2.5 is not a whole number"),
        (TrainCommand, "epochs: true", "epochs: True is not a whole number"),
        (TrainCommand, "lr: fast", "lr: 'fast' is not a number"),
        (TrainCommand, "lr: null", "lr: None is not a number"),
        (TrainCommand, "flip: 1", "flip: 1 is not true or false"),
        (TrainCommand, "precision: fp16", "precision: 'fp16' is not one of auto, fp32, tf32, bf16; did you mean bf16?"),
        (TrainCommand, "train_scale: big", "train_scale: 'big' is not a number of pixels, such as 256, or a range"),
        (TrainCommand, "train_scale: [1, 2, 3]", "train_scale: [1, 2, 3] is not a number of pixels"),
        (TrainCommand, "data: [a]", "data: ['a'] is not text"),
        (TrainCommand, "epochs: 0", "--epochs 0: must be at least 1"),
        (TrainCommand, "- 1\n- 2", "must have a line such as"),
        (TrainCommand, "lr: [", "is not YAML: "),
        (ReproduceConfig, "arch: E", "arch: is no setting of this command; for --arch give --only"),
        (ReproduceConfig, "scales: [36, 48]", "scales: [36, 48] is not a list of 3 values, each text"),
        (TuneConfig, "search_init: [he, hee]", "search_init: ['he', 'hee'] is not a list of values, each one of glorot"),
    ],
)
def test_what_it_may_not_is_one_line_with_file_and_key(kind: type[Any], text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--config") as caught:
        read(tmp_path, text, kind)
    assert str(caught.value).startswith(f"--config {tmp_path}/c.yaml: {words}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--config /nowhere/c.yaml: does not exist$"):
        read_config_file("/nowhere/c.yaml", TrainCommand)
    with pytest.raises(ValueError, match=r"--config .*: cannot be read: "):
        read_config_file(str(tmp_path), TrainCommand)


def changed(kind: type[Any]) -> Any:
    """Settings of which as many as possible differ from the defaults."""
    others: dict[str, Any] = {"train_scale": ScaleRange(250, 300)} if kind is not ReproduceConfig else {}
    if kind is EvalConfig:
        return EvalConfig(nets=("a b", "c"), views=("dense", "crops"), test_scales=(256, 300), report=False, **others)
    config = kind(head="linear", lr=1e-5, flip=False, max_steps=7, name="größe: 2", log_every="3", seed=5, **others)
    if kind is TuneConfig:
        return dataclasses.replace(
            config, lr=0.01, search_lr=(1e-5, 0.1, 2.0), search_train_scale=(), search_init=("he", "glorot")
        )
    return config


@pytest.mark.parametrize("kind", [TrainConfig, TuneConfig, ReproduceConfig, EvalConfig])
def test_what_is_written_is_read_again(kind: type[Any], tmp_path: Path) -> None:
    config = changed(kind)
    again = kind(**read(tmp_path, to_yaml(config, "vgg_dist.x"), kind))
    assert again == config
    resolved = config.resolved()
    again = kind(**read(tmp_path, to_yaml(resolved, "vgg_dist.x"), kind))
    assert again.resolved() == resolved


def test_secrets_are_not_written_and_have_to_be_given_again(tmp_path: Path) -> None:
    config = TrainConfig(data="s3://KEY:hUsH@bucket/data", tracking_uri="http://me:hUsH@host:5000", name="x").resolved()
    text = to_yaml(config, "vgg_dist.train")
    assert "hUsH" not in text
    values = read(tmp_path, text)
    assert "tracking_uri" not in values  # MLFLOW_TRACKING_URI may have it
    with pytest.raises(ValueError, match=r"^--data s3://\*\*\*@bucket/data: \*\*\* stands for a secret"):
        TrainConfig(**values).resolved()
