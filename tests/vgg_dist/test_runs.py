"""The list of runs: what a folder's checkpoints, outcome and settings say, on this machine and in an object store."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from support.begun_runs import CLASSES, METRICS, begun, trained
from support.paths import ROOT

from vgg_dist.config import TrainConfig, TuneConfig
from vgg_dist.run_folder.best import keep_best
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.run_folder.listing import RunSummary, list_runs
from vgg_dist.run_folder.names import RECORDS, checkpoint_name
from vgg_dist.run_folder.outcome import write_outcome
from vgg_dist.run_folder.settings import SEARCH, keep_settings

CHECKPOINT = checkpoint_name(2)


def train(storage: Path, name: str, records: list[dict[str, Any]]) -> TrainConfig:
    """A run with a checkpoint at step 2, and these records in it."""
    config = replace(begun(storage), name=name)
    folder = storage / name / CHECKPOINT
    folder.mkdir(parents=True)
    trained(config).snapshot().write(folder, config, CLASSES, records)
    return config


def make_old(folder: Path) -> None:
    for file in folder.rglob("*"):
        os.utime(file, (1.7e9, 1.7e9))


def validation(step: int, top1: float, top5: float) -> dict[str, Any]:
    return {"step": step, "metrics": {"val/loss": 1.0, "val/top1_error": top1, "val/top5_error": top5}}


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A run for each state, a trial of a search, and folders that are no runs."""
    root = tmp_path / "runs"
    epoch = {"step": 2, "metrics": {"epoch": 1.25, "train/loss": 1.0}}
    train(root, "new", [epoch])
    train(root, "old", [epoch, validation(2, 30.0, 9.0)])
    make_old(root / "old")
    done = train(root, "done", [epoch, validation(2, 40.0, 10.0)])
    write_outcome(done, {"metrics": METRICS, "step": 2, "checkpoint": "x"})
    further = train(root, "further", [epoch])
    write_outcome(further, {"metrics": METRICS, "step": 1, "checkpoint": "x"})
    search = TuneConfig(name="searched", storage_path=str(root)).resolved()
    keep_settings(str(root / "searched"), search, SEARCH)
    for name, epochs in (("whole", 2), ("waits", 1)):
        trial = train(root / "searched", name, [epoch])
        keep_settings(str(root / "searched" / name), trial)
        write_outcome(replace(trial, epochs=epochs), {"metrics": METRICS | {"epoch": epochs}, "step": 2, "checkpoint": "x"})
    make_old(root / "searched")
    (root / "begun").mkdir()
    keep_settings(str(root / "begun"), replace(begun(root), name="begun"))
    (root / "evaluation").mkdir()
    (root / "evaluation" / "images.json").write_text("{}")
    (root / "mlartifacts").mkdir()
    return root


def by_name(found: list[RunSummary]) -> dict[str, RunSummary]:
    return {run.name: run for run in found}


def test_states_and_how_far_each_run_is(storage: Path) -> None:
    runs = by_name(list_runs(str(storage)))
    assert {name: (run.state, run.epoch, run.epochs, run.step) for name, run in runs.items()} == {
        "begun": ("running?", None, 2, None),
        "done": ("finished", 2.0, 2, 2),
        "further": ("running?", 1.25, 2, 2),
        "new": ("running?", 1.25, 2, 2),
        "old": ("stopped", 1.25, 2, 2),
        "searched/waits": ("stopped", 1, 2, 2),
        "searched/whole": ("finished", 2, 2, 2),
    }
    assert {run.arch for run in runs.values()} == {"lenet5"}
    errors = {name: [run.errors.get(f"val/{top}_error") for top in ("top1", "top5")] for name, run in runs.items()}
    assert errors["old"] == [30.0, 9.0]
    assert errors["done"] == [40.0, 10.0]
    assert errors["new"] == errors["begun"] == [None, None]
    assert runs["old"].written is not None
    assert runs["old"].written.timestamp() == 1.7e9


def test_the_best_validation_counts_not_the_last(tmp_path: Path) -> None:
    train(tmp_path, "run", [validation(2, 20.0, 5.0)])
    keep_best(RunFolder(str(tmp_path / "run")), CHECKPOINT)
    later = tmp_path / "run" / checkpoint_name(4)
    later.mkdir()
    trained(begun(tmp_path)).snapshot().write(later, begun(tmp_path), CLASSES, [validation(4, 25.0, 6.0)])
    (run,) = list_runs(str(tmp_path))
    assert (run.step, run.errors["val/top1_error"]) == (4, 20.0)


def test_damaged_files_leave_gaps_not_errors(storage: Path) -> None:
    (storage / "done" / "outcome.json").write_text('{"metrics": {')
    (storage / "old" / CHECKPOINT / RECORDS).write_text("[")
    runs = by_name(list_runs(str(storage)))
    assert runs["done"].state != "finished"
    assert (runs["old"].step, runs["old"].epoch, runs["old"].errors) == (2, None, {})


def test_an_object_store_says_the_same(storage: Path, s3: Any) -> None:
    s3.put(str(storage), "bucket/runs", recursive=True)
    ours, theirs = by_name(list_runs(str(storage))), by_name(list_runs("s3://bucket/runs"))
    assert ours.keys() == theirs.keys()
    for name, run in ours.items():
        same = replace(theirs[name], written=run.written)
        # What was uploaded just now is new.
        assert same == (run if run.state == "finished" else replace(run, state="running?"))


def test_in_a_pipe_it_is_plain_lines(storage: Path, call: Callable[..., Outcome]) -> None:
    done = call("vgg_dist.runs", "--storage-path", storage)
    assert (done.status, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    (old,) = [line.split() for line in lines if line.startswith("old ")]
    assert old[1:7] == ["stopped", "lenet5", "1.25/2", "2", "30.00", "9.00"]
    assert len([line for line in lines if line.startswith("searched/")]) == 2
    assert done.stdout.isascii()


def test_in_a_terminal_it_is_a_table(storage: Path) -> None:
    reader, writer = pty.openpty()
    env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    env |= {"TERM": "xterm-256color", "COLUMNS": "120"}
    command = [sys.executable, "-m", "vgg_dist.runs", "--storage-path", str(storage)]
    done = subprocess.run(command, stdout=writer, cwd=ROOT, env=env, timeout=60, check=True)
    os.close(writer)
    shown = os.read(reader, 100_000).decode()
    os.close(reader)
    assert done.returncode == 0
    assert "\x1b[" in shown  # rich
    assert "30.00" in shown


def test_no_runs_and_no_folder(tmp_path: Path, call: Callable[..., Outcome]) -> None:
    done = call("vgg_dist.runs", "--storage-path", tmp_path)
    assert (done.status, done.stdout) == (0, f"no runs in {tmp_path}\n")
    done = call("vgg_dist.runs", "--storage-path", tmp_path / "nowhere")
    assert (done.status, done.stderr) == (2, f"vgg_dist.runs: --storage-path {tmp_path}/nowhere: does not exist\n")
