"""The search on a real Ray: a trial that fails, a kill and a resumption; and its errors."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome, driver, kill_once
from support.paths import ROOT

from vgg_dist.run_folder.choice import local_checkpoint
from vgg_dist.tracking import read_runs
from vgg_dist.tracking.connection import connect
from vgg_dist.tuning import trial
from vgg_dist.tuning.progress import describe_running

SMALL = """
    --arch A --head linear --image-size 32 --data synthetic:train=96,val=20,size=40 --global-batch 32 --precision fp32
    --epochs 2 --search-train-scale 36 --name searched
""".split()  # noqa: SIM905

# How often Ray Tune writes down what it knows; of itself it does so every 10 s at most.
EVERY_SECOND = {"TUNE_GLOBAL_CHECKPOINT_S": "1"}


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "vgg_dist.tune", *SMALL, *flags]


def first_has_ended(folder: Path) -> bool:
    """Whether a trial's training has, as far as it was to go, and Ray Tune has written that down: see EVERY_SECOND."""
    found = bool(list(folder.glob("searched/*/outcome.json")))
    time.sleep(2 * found)
    return found


@pytest.mark.ray
def test_a_killed_search_goes_on_and_a_diverging_trial_does_not_end_it(
    cluster: dict[str, str], tmp_path: Path, call: Callable[..., Outcome]
) -> None:
    """By successive halving: what waits at epoch 1 when the search is killed goes on to epoch 2 from its checkpoint."""
    env = driver(cluster)
    flags = [
        "--search",
        "grid",
        "--search-lr",
        "0.02",
        "1e12",
        "--max-concurrent-trials",
        "1",
        "--storage-path",
        str(tmp_path),
    ]

    # What keeps the gauges of all runs would be there from an earlier test; on a new cluster the first trial starts it.
    end_keeper = "import ray; ray.init(); ray.kill(ray.get_actor('gauges', 'vgg_dist'))"
    subprocess.run([sys.executable, "-c", end_keeper], env=os.environ | env, capture_output=True, check=False)
    kill_once(command(*flags), lambda: first_has_ended(tmp_path), tmp_path / "killed.log", env | EVERY_SECOND)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    waiting = {run.name.rpartition("_")[0]: run for run in read_runs(uri, "vgg_dist")}["lr0.02_S36"]
    assert (waiting.status, waiting.note, waiting.settings["epochs"]) == ("KILLED", "stopped early at epoch 1", "2")
    (first_epoch,) = tmp_path.glob("searched/lr0.02*/checkpoint-*")
    written = first_epoch.stat().st_mtime_ns

    again = subprocess.run(command(*flags), capture_output=True, text=True, cwd=ROOT, timeout=900, env=os.environ | env)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "search searched: 2 trials of A on synthetic:train=96,val=20,size=40 (all combinations: " in again.stdout
    assert "vgg_dist.tune: 1 trial at once, on 1 worker of " in again.stdout
    assert first_epoch.stat().st_mtime_ns == written  # not trained again
    runs = {run.name.rpartition("_")[0]: run for run in read_runs(uri, "vgg_dist")}
    ended = {name: (run.status, [epoch for epoch, _ in run.validations.get("val/loss", [])]) for name, run in runs.items()}
    assert ended == {"lr0.02_S36": ("FINISHED", [1.0, 2.0]), "lr1e+12_S36": ("FAILED", [])}
    assert runs["lr1e+12_S36"].note.startswith("the loss is not finite")
    assert runs["lr0.02_S36"].note == ""
    # Over both legs: the best of the trial's validations, and the table has that one by the search's metric.
    found = runs["lr0.02_S36"].validations
    errors = [(five, one) for (_, five), (_, one) in zip(found["val/top5_error"], found["val/top1_error"], strict=True)]
    with local_checkpoint(str(first_epoch.parent), "net", "best") as best:
        assert ((best.metrics or {})["val/top5_error"], (best.metrics or {})["val/top1_error"]) == min(errors)
    assert f" {min(one for _, one in errors):.2f} " in again.stdout.partition("trials, 2 epochs")[0]
    assert f"Best: {first_epoch.parent.name}" in again.stdout
    assert "2 trials, 2 epochs in all" in again.stdout
    assert "--lr 0.02 " in again.stdout.partition("train it: python -m vgg_dist.train")[2]
    client = connect(uri)
    (parent,) = {client.get_run(run.run_id).data.tags["mlflow.parentRunId"] for run in runs.values()}
    logged = {file.path for file in client.list_artifacts(parent)}
    assert logged >= {"search.html", "parallel_coordinates.png", "learning_curves.png", "best.txt"}

    other = call("vgg_dist.tune", *SMALL, *flags, "--epochs", "3")
    assert other.status == 2
    assert other.stderr.startswith("vgg_dist.tune: --name searched: is a search with epochs 2, not 3")


@pytest.mark.ray
def test_a_trial_that_falls_behind_those_before_a_kill_is_stopped(cluster: dict[str, str], tmp_path: Path) -> None:
    # In the order that seed 0 draws, the one that falls behind is last, when there are three to compare it with.
    flags = [
        "--batch-norm",
        "--search",
        "grid",
        "--search-lr",
        "0.001",
        "0.0009",
        "0.0011",
        "1",
        "--max-concurrent-trials",
        "1",
    ]
    flags += ["--early-stopping", "median", "--metric", "loss", "--storage-path", str(tmp_path)]
    env = driver(cluster)
    kill_once(command(*flags), lambda: first_has_ended(tmp_path), tmp_path / "killed.log", env | EVERY_SECOND)
    done = subprocess.run(command(*flags), capture_output=True, text=True, cwd=ROOT, timeout=900, env=os.environ | env)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {run.name.partition("_")[0]: run for run in read_runs(f"sqlite:///{tmp_path / 'mlflow.db'}", "vgg_dist")}
    assert len(runs) == 4
    others = [run for name, run in runs.items() if name != "lr1"]
    assert [run.status for run in others] == ["FINISHED"] * 3
    assert (runs["lr1"].status, runs["lr1"].note) == ("KILLED", "stopped early at epoch 1")
    # What it was stopped for is on record.
    epoch, loss = runs["lr1"].validations["val/loss"][0]
    assert epoch == 1
    assert loss > max(run.validations["val/loss"][0][1] for run in others)


def test_ray_tune_hears_of_a_validation_that_only_a_checkpoint_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[float, float]] = []

    class Tune:  # the real one can be made within a trial only
        def after_report(self, context: None, results: list[dict[str, float]], checkpoint: None) -> None:
            heard.extend((result["epoch"], result["top1_error"]) for result in results)

    monkeypatch.setattr(trial, "TuneReportCallback", Tune)
    report = trial.TrialReport()
    validation = {"val/loss": 1.5, "val/top1_error": 50.0, "val/top5_error": 5.0}
    kept = [{"metrics": {"epoch": 3.0, "train/loss": 1.0}}, {"metrics": validation}]
    report.after_report(None, [{"records": [], "earlier": kept}], None)
    report.after_report(None, [{"records": [{"metrics": {"epoch": 4.0}}]}], None)
    report.after_report(None, [{"records": [{"metrics": validation | {"val/top1_error": 40.0}}]}], None)
    assert heard == [(3.0, 50.0), (4.0, 40.0)]


def test_of_five_classes_a_search_by_top5_error_goes_by_top1(
    small_tree: Path, tmp_path: Path, call: Callable[..., Outcome]
) -> None:
    """Where the data is not here to be looked at; where it is, the mistake is told."""
    few = {"val/loss": 1.5, "val/top1_error": 50.0}
    assert trial.errors_of(few) == {"loss": 1.5, "top1_error": 50.0, "top5_error": 50.0}
    assert trial.errors_of(few | {"val/top5_error": 5.0})["top5_error"] == 5.0
    done = call("vgg_dist.tune", *SMALL, "--storage-path", tmp_path, "--data", small_tree, "--metric", "top5_error")
    assert done.status == 2
    assert "--metric top5_error: is 0 for every net, as the data has 3 classes; use top1_error" in done.stderr


def test_a_search_says_how_far_its_trials_are() -> None:
    known = {
        "lr0.1_00000": {"epoch": 1.256, "images_per_second": 12.34},
        "lr0.2_00001": {"epoch": 0.5},
        "ended": {"epoch": 9.0},
    }
    assert describe_running({"lr0.2_00001", "lr0.1_00000", "lr0.3_00002"}, known, 74) == (
        "3 training: lr0.1_00000 (epoch 1.26/74, 12.3 images/s); lr0.2_00001 (epoch 0.50/74); lr0.3_00002 (starting)"
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--search-lr", "--search-train-scale"], ["nothing to search", "--search-lr"]),
        (["--search-train-scale", "31"], ["--search-train-scale 31", "32"]),
        (["--metric", "accuracy"], ["--metric", "top1_error"]),
        (["--search", "genetic"], ["--search", "bayesian"]),
        (["--data", "/nowhere"], ["/nowhere"]),
        (["--tracking-uri", "http://127.0.0.1:9"], ["--tracking-uri http://127.0.0.1:9"]),
    ],
)
def test_mistakes_are_named_before_anything_is_started(
    flags: list[str], words: list[str], tmp_path: Path, call: Callable[..., Outcome]
) -> None:
    done = call("vgg_dist.tune", *SMALL, "--storage-path", tmp_path, *flags)
    assert done.status == 2
    assert done.stderr.startswith("vgg_dist.tune: ")
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert not list(tmp_path.glob("*/tune"))
