"""A run started again with other settings: what takes effect, what is refused, and what a finished run says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from conftest import Outcome
from support.begun_runs import CLASSES, METRICS, OTHER, begun, finish, step, trained
from support.trees import make_tree, picture, snapshot

from vgg_dist.config import TrainConfig
from vgg_dist.config.resume import MAY_CHANGE, MUST_STAY, PLACE
from vgg_dist.run_folder.names import checkpoint_name, refuse_classes
from vgg_dist.run_folder.outcome import read_earlier
from vgg_dist.training.state import build_state
from vgg_dist.weights.checkpoint import read_description


@pytest.fixture
def run(tmp_path: Path) -> TrainConfig:
    """A run with a checkpoint, not finished."""
    config = begun(tmp_path / "runs")
    folder = tmp_path / "runs" / "first" / checkpoint_name(2)
    folder.mkdir(parents=True)
    trained(config).save(folder, config, CLASSES)
    return config


def checkpoint(config: TrainConfig) -> Path:
    return Path(config.storage_path, "first", checkpoint_name(2))


def test_of_every_setting_it_is_said_whether_it_may_change() -> None:
    fields = [field.name for field in dataclasses.fields(TrainConfig)]
    assert sorted([*MAY_CHANGE, *MUST_STAY, *PLACE]) == sorted(fields)  # each once
    assert set(OTHER) == MAY_CHANGE | MUST_STAY


@pytest.mark.parametrize("field", sorted(MUST_STAY))
def test_what_must_stay_is_refused_with_both_values(field: str, run: TrainConfig) -> None:
    state = build_state(run, len(CLASSES), torch.device("cpu"))
    other = dataclasses.replace(run, **{field: OTHER[field]})
    with pytest.raises(ValueError, match=r"^--name first: ") as refused:
        state.restore(checkpoint(run), other, CLASSES)
    shown = {"False": "off", "True": "on", "None": "none"}
    old, new = (shown.get(str(value), value) for value in (getattr(run, field), OTHER[field]))
    assert f"--{field.replace('_', '-')} {old}, not {new}" in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("field", sorted(MAY_CHANGE))
def test_what_may_change_is_taken_over_and_kept_in_the_next_checkpoint(field: str, run: TrainConfig, tmp_path: Path) -> None:
    other = dataclasses.replace(run, **{field: OTHER[field]})
    state = build_state(other, len(CLASSES), torch.device("cpu"))
    state.restore(checkpoint(run), other, CLASSES)
    effects = {group[field] for group in state.optimizer.param_groups if field in ("momentum", "weight_decay")}
    names = {"lr": "lr", "warmup_epochs": "warmup_epochs", "patience": "patience", "lr_drops": "max_drops"}
    effects |= {getattr(state.schedule, names[field])} if field in names else set()
    assert effects <= {OTHER[field]}
    if field == "dropout":
        assert {module.p for module in state.model.modules() if isinstance(module, torch.nn.Dropout)} <= {0.1}
    (tmp_path / "next").mkdir()
    state.save(tmp_path / "next", other, CLASSES)
    assert getattr(read_description(tmp_path / "next")[0], field) == OTHER[field]


def test_new_momentum_decay_and_rate_are_those_of_the_next_step(run: TrainConfig) -> None:
    """Against the formulas of SGD, on the momentum that the checkpoint has."""
    other = dataclasses.replace(run, momentum=0.5, weight_decay=0.25, lr=0.2)
    state = build_state(other, len(CLASSES), torch.device("cpu"))
    state.restore(checkpoint(run), other, CLASSES)
    parameters = list(state.model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    velocities = [state.optimizer.state[parameter]["momentum_buffer"].clone() for parameter in parameters]
    step(state)
    for parameter, old, velocity in zip(parameters, before, velocities, strict=True):
        assert parameter.grad is not None
        expected = old - 0.2 / 10 * (0.5 * velocity + parameter.grad + 0.25 * old)  # the rate had dropped once
        torch.testing.assert_close(parameter.detach(), expected)


def test_another_place_and_what_is_found_out_at_each_start_are_no_change(run: TrainConfig) -> None:
    state = build_state(run, len(CLASSES), torch.device("cpu"))
    moved = dataclasses.replace(run, storage_path="/mnt/runs", micro_batch=None, num_workers=None)
    state.restore(checkpoint(run), moved, CLASSES)
    earlier = read_earlier(run)
    assert earlier
    assert earlier.changes(dataclasses.replace(moved, name="second")) == ""
    begun_from = dataclasses.replace(run, init_from="/runs/a")
    state.save(checkpoint(run), begun_from, CLASSES)
    state.restore(checkpoint(run), dataclasses.replace(run, init_from="s3://bucket/runs/a/"), CLASSES)


def test_classes_are_compared_by_their_composed_names(run: TrainConfig) -> None:
    refuse_classes(["caf\u00e9", "cafe\u0301s"], run, ["cafe\u0301", "caf\u00e9s"])
    with pytest.raises(ValueError, match="its 2 classes are not the 2"):
        refuse_classes(["caf\u00e9", "tea"], run, ["cafe", "tea"])


FLAGS = ["--arch", "lenet5", "--name", "first", "--epochs", "2", "--precision", "fp32"]


@pytest.mark.parametrize("old_format", [False, True])
def test_a_finished_run_says_what_differs_and_is_left_as_it_was(
    old_format: bool, run: TrainConfig, tmp_path: Path, call: Callable[..., Outcome]
) -> None:
    finish(run)
    outcome_file = tmp_path / "runs" / "first" / "outcome.json"
    if old_format:  # it named only which net, and how far
        outcome = json.loads(outcome_file.read_text())
        names = "arch", "batch_norm", "head", "image_size", "epochs", "max_steps", "patience", "lr_drops"
        outcome["asked"] = {name: outcome["settings"][name] for name in names}
        del outcome["settings"]
        outcome_file.write_text(json.dumps(outcome))
    before = snapshot(tmp_path / "runs")
    flags = [*FLAGS, "--storage-path", tmp_path / "runs"]
    same = call("vgg_dist.train", *flags)
    assert (same.status, same.stderr) == (0, "")
    assert "finished before at step 2: validation top-1 error 40.00 %, top-5 error 10.00 %" in same.stdout
    assert ", not " not in same.stdout
    other = call("vgg_dist.train", *flags, "--lr", 0.5, "--data", "synthetic:seed=3", "--momentum", 0.5, "--no-flip")
    assert (other.status, other.stderr) == (0, "")
    told = "of --data synthetic, not synthetic:seed=3; --flip on, not off; --lr 0.01, not 0.5; --momentum 0.9, not 0.5\n"
    assert told in other.stdout
    fewer = call("vgg_dist.train", *flags, "--epochs", 1)
    assert "of --epochs 2, not 1\n" in fewer.stdout
    assert not ray.is_initialized()
    assert snapshot(tmp_path / "runs") == before


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--arch", "zfnet"], "--name first: that run was begun with --arch lenet5, not zfnet"),
        (["--seed", "4", "--init", "he"], "--init glorot, not he; --seed 0, not 4, which cannot change"),
        (["--arch", "A", "--epochs", "9"], "--arch lenet5, not A"),
        (["--init-from", "/nowhere"], "--init-from none, not /nowhere"),
        (["--data", "{}"], "its 2 classes are not the 10 that run first began with"),
    ],
)
def test_what_a_run_cannot_be_resumed_with_is_told_before_anything_is_started(
    flags: list[str], words: str, finished: bool, run: TrainConfig, tmp_path: Path, call: Callable[..., Outcome]
) -> None:
    if finished:
        finish(run)
    data = make_tree(tmp_path / "data", {f"{s}/{c}/1.jpg": picture(1) for s in ("train", "val") for c in ("cat", "dog")})
    before = snapshot(tmp_path / "runs")
    refused = call("vgg_dist.train", *FLAGS, "--storage-path", tmp_path / "runs", *(flag.format(data) for flag in flags))
    assert refused.status == 2
    assert words in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not ray.is_initialized()
    assert snapshot(tmp_path / "runs") == before


def test_a_finished_run_is_trained_further_where_more_is_asked(run: TrainConfig) -> None:
    finish(run)
    earlier = read_earlier(run)
    assert earlier
    assert earlier.is_all(run)
    for field, value in (("epochs", 3), ("patience", 9), ("lr_drops", 5), ("max_steps", 3)):
        settings: dict[str, Any] = {"epochs": 3, field: value}
        further = dataclasses.replace(run, **settings)
        assert not earlier.is_all(further), field
    assert earlier.is_all(dataclasses.replace(run, epochs=9, max_steps=2))


def test_a_damaged_outcome_or_description_is_no_outcome(run: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "runs" / "first" / "outcome.json").write_text("{")
    unfinished = tmp_path / "runs" / "first" / checkpoint_name(9)
    unfinished.mkdir()
    (unfinished / "config.json").write_bytes(b"\xff")
    earlier = read_earlier(run)
    assert earlier
    assert (earlier.outcome, earlier.settings["arch"], earlier.class_names) == (None, "lenet5", CLASSES)
    assert read_earlier(dataclasses.replace(run, name="another")) is None


def test_of_five_classes_an_old_outcomes_top5_error_is_not_told(run: TrainConfig) -> None:
    finish(run)
    state = build_state(run, 5, torch.device("cpu"))
    state.save(checkpoint(run), run, CLASSES[:5])
    earlier = read_earlier(run)
    assert earlier
    assert earlier.outcome
    assert earlier.outcome["metrics"] == {key: value for key, value in METRICS.items() if key != "val/top5_error"}
