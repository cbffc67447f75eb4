"""Command lines: names that people know, names of earlier versions, --config, --help and --version."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome

from vgg_dist.config import EvalConfig, ReproduceConfig, ScaleRange, TrainCommand, TuneConfig
from vgg_dist.config.command_line import parse, parse_resuming
from vgg_dist.config.groups import field_docs, grouped

KINDS = {"train": TrainCommand, "tune": TuneConfig, "evaluate": EvalConfig, "reproduce": ReproduceConfig}
Parse = Callable[..., Any]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Parses words as a command whose settings are of that kind."""

    def parsed(kind: type[Any], *words: object) -> Any:
        monkeypatch.setattr(sys, "argv", ["x", *map(str, words)])
        return parse(kind, "python -m vgg_dist.x", None)

    return parsed


@pytest.mark.parametrize(
    ("words", "arch", "batch_norm"),
    [
        (["--arch", "vgg11"], "A", False),
        (["--arch", "VGG13"], "B", False),
        (["--arch=vgg-16"], "D", False),
        (["--arch", "vgg19"], "E", False),
        (["--lr", "1", "--arch", "vgg16_bn"], "D", True),
        (["--arch", "vgg19-bn", "--no-batch-norm"], "E", False),
        (["--arch", "D"], "D", False),
    ],
)
def test_nets_by_the_names_that_people_know(words: list[str], arch: str, batch_norm: bool, parsed: Parse) -> None:
    config = parsed(TrainCommand, *words)
    assert (config.arch, config.batch_norm) == (arch, batch_norm)


@pytest.mark.parametrize(
    ("kind", "words", "field", "value", "now"),
    [
        (TuneConfig, ["--trials-at-once", "3"], "max_concurrent_trials", 3, "--max-concurrent-trials"),
        (TuneConfig, ["--trials_at_once=3"], "max_concurrent_trials", 3, "--max-concurrent-trials"),
        (ReproduceConfig, ["--upto", "table4"], "through", "table4", "--through"),
        (ReproduceConfig, ["--plan"], "dry_run", True, "--dry-run"),
        (TrainCommand, ["--compress-gradients"], "bf16_gradients", True, "--bf16-gradients"),
        (TrainCommand, ["--no-compress-gradients"], "bf16_gradients", False, "--no-bf16-gradients"),
    ],
)
def test_an_old_flag_is_accepted_with_one_line(
    kind: type[Any], words: list[str], field: str, value: Any, now: str, parsed: Parse, capsys: pytest.CaptureFixture[str]
) -> None:
    assert getattr(parsed(kind, *words), field) == value
    told = capsys.readouterr().err
    assert told == f"vgg_dist.x: {words[0].partition('=')[0]} is now called {now}; the old name still works\n"


def test_an_old_flag_of_another_command_is_unknown(call: Callable[..., Outcome]) -> None:
    done = call("vgg_dist.train", "--upto", "table4")
    assert (done.status, done.stderr.count("\n")) == (2, 1)
    assert "Unrecognized options: --upto" in done.stderr


def test_flags_win_over_the_file_and_the_file_over_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vgg_dist.run_folder.outcome import find_run
    from vgg_dist.run_folder.settings import keep_settings

    run = TrainCommand(name="first", storage_path=str(tmp_path), lr=0.5, epochs=5, patience=7).resolved()
    keep_settings(run.folder, run)
    file = tmp_path / "other.yaml"
    file.write_text("lr: 0.25\nepochs: 6\n")
    words = ["--name", "first", "--storage-path", str(tmp_path), "--config", str(file), "--epochs", "9"]
    monkeypatch.setattr(sys, "argv", ["x", *words])
    found = parse_resuming(TrainCommand, "x", None, find_run)
    assert (found.patience, found.lr, found.epochs, found.momentum) == (7, 0.25, 9, 0.9)


def test_a_runs_file_alone_is_that_run_and_with_a_name_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vgg_dist.run_folder.outcome import find_run
    from vgg_dist.run_folder.settings import keep_settings

    run = TrainCommand(
        arch="lenet5", name="first", storage_path=str(tmp_path), train_scale=ScaleRange(36, 40), log_every="7"
    ).resolved()
    keep_settings(run.folder, run)
    for words, name in (([], "first"), (["--name", "other"], "other")):
        monkeypatch.setattr(sys, "argv", ["x", "--config", f"{run.folder}/config.yaml", *words])
        found = parse_resuming(TrainCommand, "x", None, find_run).resolved()
        assert found.to_dict() == run.to_dict() | {"name": name}


@pytest.mark.parametrize(
    ("file", "words", "expected"),
    [
        (None, [], ("paper", None, 0.01, "fc")),
        (None, ["--preset", "tiny"], ("tiny", 32, 0.0025, "linear")),
        (None, ["--preset=tiny", "--lr", "0.5"], ("tiny", 32, 0.5, "linear")),
        ("lr: 0.25\n", ["--head", "gap", "--preset", "tiny"], ("tiny", 32, 0.25, "gap")),
        ("preset: tiny\nimage-size: 48\n", [], ("tiny", 48, 0.0025, "linear")),
        ("preset: tiny\n", ["--preset", "paper"], ("paper", None, 0.01, "fc")),
    ],
)
def test_flags_win_over_the_file_and_the_file_over_the_preset(
    file: str | None, words: list[str], expected: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if file is not None:
        (tmp_path / "settings.yaml").write_text(file)
        words = [*words, "--config", str(tmp_path / "settings.yaml")]
    monkeypatch.setattr(sys, "argv", ["x", *words])
    found = parse_resuming(ReproduceConfig, "x", None, lambda storage, name: None)
    assert (found.preset, found.image_size, found.lr, found.head) == expected


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_flag_is_in_one_group_and_explained(kind: type[Any]) -> None:
    names = [field.name for fields in grouped(kind).values() for field in fields]
    assert len(names) == len(set(names)) > 15
    assert all(field_docs(kind)[name].endswith((".", ")")) for name in names)


@pytest.mark.parametrize("command", KINDS)
def test_help_shows_every_flag_and_its_default(command: str, call: Callable[..., Outcome]) -> None:
    done = call(f"vgg_dist.{command}", "--help")
    assert (done.status, done.stderr) == (0, "")
    assert f"usage: python -m vgg_dist.{command} " in done.stdout
    for field in [field for fields in grouped(KINDS[command]).values() for field in fields]:
        if field.name != "nets":
            assert re.search(rf"^  --{field.name.replace('_', '-')}[, ]", done.stdout, re.MULTILINE)
    text = " ".join(done.stdout.split())
    assert "Default: 250000000." in text  # --max-pixels
    assert "--config FILE" in text
    if command != "evaluate":
        assert "Learning rate before the first drop. Default: 0.01." in text
        assert "Flip half of the training images horizontally, at random. Default: on." in text
    assert ("--arch" in text) == (command in ("train", "tune"))
    assert max(map(len, done.stdout.splitlines())) <= 125


@pytest.mark.parametrize(
    "command",
    [
        *(f"vgg_dist.{name}" for name in (*KINDS, "report", "export", "benchmark.__main__")),
        "pipelines.prepare",
        "cluster.__main__",
    ],
)
def test_every_command_tells_the_versions(command: str, call: Callable[..., Outcome]) -> None:
    done = call(command, "--version")
    assert (done.status, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert done.stdout.startswith(f"vgg_dist {version('vgg_dist')} (torch {version('torch')}, ray {version('ray')}, ")


@pytest.mark.parametrize("command", KINDS)
def test_help_needs_neither_torch_nor_ray(command: str) -> None:
    program = (
        f"import atexit, runpy, sys\nsys.argv = ['x', '--help']\n"
        f"heavy = {{'torch', 'ray', 'mlflow', 'yaml'}}\n"
        f"atexit.register(lambda: print(sorted(heavy & sys.modules.keys()), file=sys.stderr))\n"
        f"runpy.run_module('vgg_dist.{command}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
