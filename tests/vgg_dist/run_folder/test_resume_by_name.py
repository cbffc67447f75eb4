"""A command with --name alone: it has the settings of the run, the search or the programme of that name."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from conftest import Outcome
from support.begun_runs import CLASSES, OTHER, begun, finish, trained
from support.trees import snapshot

from vgg_dist.config import ReproduceConfig, TrainConfig, TuneConfig
from vgg_dist.config.command_line import parse_resuming
from vgg_dist.config.resume import MAY_CHANGE, MUST_STAY
from vgg_dist.run_folder.names import checkpoint_name
from vgg_dist.run_folder.outcome import find_run
from vgg_dist.run_folder.settings import PROGRAMME, SEARCH, find_settings, keep_settings

KEPT = dataclasses.replace(
    TrainConfig(**{**OTHER, "init_from": "/runs/a"}), name="first", arch="A", micro_batch=2, loader_threads=3
)
"""No setting but the place is the usual one."""


@pytest.fixture
def parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainConfig]:
    """Parses flags, in addition to name and place."""

    def parse(*flags: object) -> TrainConfig:
        place = "--name", "first", "--storage-path", tmp_path
        monkeypatch.setattr(sys, "argv", ["train", *map(str, (*place, *flags))])
        return parse_resuming(TrainConfig, "python -m vgg_dist.train", None, find_run)

    return parse


def keep(storage: Path, **others: Any) -> TrainConfig:
    """Settings of a run as a start writes them."""
    config = dataclasses.replace(KEPT, storage_path=str(storage), **others).resolved()
    keep_settings(str(storage / "first"), config)
    return config


def checkpoint(storage: Path) -> TrainConfig:
    """A run of an earlier version, which has no settings but its checkpoint's."""
    config = begun(storage)
    folder = storage / "first" / checkpoint_name(2)
    folder.mkdir(parents=True)
    trained(config).save(folder, config, CLASSES)
    return config


def test_a_name_alone_has_every_setting_of_the_run(
    parse: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = keep(tmp_path)
    usual = TrainConfig(name="first", storage_path=str(tmp_path)).resolved()
    same = [field for field in MAY_CHANGE | MUST_STAY if getattr(kept, field) == getattr(usual, field)]
    assert same == ["arch"]
    assert parse().resolved() == kept
    told = capsys.readouterr().out
    assert "vgg_dist.train: run first has --batch-norm on, --head linear, " in told
    assert "--train-scale 50-60, " in told


def test_a_flag_that_is_given_wins_and_the_usual_value_can_be_given(
    parse: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    kept = keep(tmp_path)
    given = parse("--lr", 0.25, "--no-compile", "--flip", "--max-steps", "None", "--epochs", 74, "--num-workers", 1)
    expected = {"lr": 0.25, "compile": False, "flip": True, "max_steps": None, "epochs": 74, "num_workers": 1}
    assert given.resolved() == dataclasses.replace(kept, **expected)  # type: ignore[arg-type]


def test_of_an_earlier_versions_run_the_checkpoint_says_the_settings(
    parse: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """Except what was found out at its start: it is found out again."""
    found_out: dict[str, Any] = {"num_workers": None, "micro_batch": None, "loader_threads": None, "tracking_uri": None}
    assert parse().resolved() == TrainConfig(name="first", storage_path=str(tmp_path)).resolved()
    config = checkpoint(tmp_path)
    assert parse().resolved() == dataclasses.replace(config, **found_out)
    finish(config)
    assert parse("--epochs", 9).resolved() == dataclasses.replace(config, **found_out, epochs=9)


def test_a_run_without_weights_may_be_of_another_net(parse: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """The rest is as the run has it, except what followed from its net."""
    kept = keep(tmp_path)
    other = parse("--arch", "lenet5", "--no-batch-norm", "--head", "fc", "--width", 1, "--lr", 0.5).resolved()
    net: dict[str, Any] = {"arch": "lenet5", "batch_norm": False, "head": "fc", "width": 1.0}
    follows = {"image_size": None, "train_scale": None, "val_scale": None}
    assert other == dataclasses.replace(kept, **net, **follows, lr=0.5).resolved()
    assert parse("--seed", 9).resolved() == dataclasses.replace(kept, seed=9)


@pytest.mark.parametrize("content", ["{", "[]", "", '{"unheard": 1}'])
def test_a_record_that_says_nothing_is_none(content: str, parse: Callable[..., TrainConfig], tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "settings.json").write_text(content)
    assert parse().resolved() == TrainConfig(name="first", storage_path=str(tmp_path)).resolved()


UNUSABLE = (
    '{"arch": "F"}', '{"epochs": "many"}', '{"epochs": 2.5}', '{"lr": null}', '{"train_scale": "256"}',
    '{"train_scale": ["a"]}', '{"train_scale": []}', '{"precision": "fp64"}', '{"flip": "yes"}', '{"flip": 1}',
    '{"data": 5}', '{"dropout": true}', '{"log_every": ["5"]}', '{"init_from": 3}', '{"max_steps": -1}',
)  # fmt: skip


@pytest.mark.parametrize("content", UNUSABLE)
def test_a_record_that_cannot_be_used_is_named(content: str, parse: Callable[..., TrainConfig], tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "settings.json").write_text(content)
    with pytest.raises(ValueError, match=r"^--name first: the run's record of its settings cannot be used: .*$"):
        parse()


def test_a_secret_is_asked_for_or_taken_from_the_environment(
    parse: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path, tracking_uri="http://me:hUsH@host:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hUsH@host:5000")
    assert parse().resolved().tracking_uri is None
    keep(tmp_path, data="s3://KEY:hUsH@bucket/imagenet")
    assert "hUsH" not in (tmp_path / "first" / "settings.json").read_text()
    with pytest.raises(ValueError, match=r"^--data s3://\*\*\*@bucket/imagenet: \*\*\* stands for a secret"):
        parse().resolved()
    assert parse("--data", "s3://KEY:hUsH@bucket/imagenet").resolved().data == "s3://KEY:hUsH@bucket/imagenet"


def test_a_search_and_a_programme_go_on_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[str, Any] = {
        "head": "linear",
        "image_size": 32,
        "epochs": 3,
        "storage_path": str(tmp_path),
        "num_workers": 2,
    }
    search = TuneConfig(name="s", search="grid", search_lr=(0.1, 0.2, 0.3), max_concurrent_trials=1, **fields).resolved()
    programme = ReproduceConfig(name="p", only=("B",), scales=("36", "48", "36-64"), epochs_scale=0.5, **fields).resolved()
    for config, file in ((search, SEARCH), (programme, PROGRAMME)):
        keep_settings(str(tmp_path / str(config.name)), config, file)
        monkeypatch.setattr(sys, "argv", ["x", "--name", str(config.name), "--storage-path", str(tmp_path)])
        assert parse_resuming(type(config), "x", None, find_settings(file)).resolved() == config


@pytest.mark.parametrize("finished", [False, True])
def test_another_net_by_name_is_refused_in_one_line_and_changes_nothing(
    finished: bool, tmp_path: Path, call: Callable[..., Outcome]
) -> None:
    config = checkpoint(tmp_path)
    if finished:
        finish(config)
    before = snapshot(tmp_path)
    place = "--storage-path", tmp_path, "--name", "first"
    for flags, words in (
        (["--arch", "alexnet"], "--arch lenet5, not alexnet"),  # for which the run's 32 pixels are too few
        (["--head", "gap"], "--head fc, not gap"),  # which lenet5 has not
        (["--image-size", 48], "--image-size 32, not 48"),  # with which the run's scale does not go
        (["--train-scale", 40], "--train-scale 37, not 40"),
    ):
        refused = call("vgg_dist.train", *place, *flags)
        assert (refused.status, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
        assert f"vgg_dist.train: --name first: that run was begun with {words}, which cannot change" in refused.stderr
    assert not ray.is_initialized()
    assert snapshot(tmp_path) == before


def test_a_finished_run_by_name_says_that_it_is_finished(tmp_path: Path, call: Callable[..., Outcome]) -> None:
    finish(checkpoint(tmp_path))
    before = snapshot(tmp_path)
    done = call("vgg_dist.train", "--storage-path", tmp_path, "--name", "first")
    assert (done.status, done.stderr) == (0, "")
    assert "run first was finished before at step 2: validation top-1 error 40.00 %" in done.stdout
    assert ", not " not in done.stdout
    assert snapshot(tmp_path) == before
