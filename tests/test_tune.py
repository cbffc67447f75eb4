"""The search on a real Ray: a trial that fails, a kill and a resumption; and a node that is lost in mid-search."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vgg_dist.tracking import RunRecord, read_runs
from vgg_dist.tracking.store import connect

ROOT = Path(__file__).parents[1]
SMALL = """
    --arch A --head linear --image-size 32 --data synthetic:train=96,val=20,size=40 --global-batch 32 --precision fp32
    --epochs 2 --search-train-scale 36 --name searched
""".split()  # noqa: SIM905


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "vgg_dist.tune", *SMALL, *flags]


def trainings(storage: Path) -> dict[str, RunRecord]:
    return {run.name: run for run in read_runs(f"sqlite:///{storage / 'mlflow.db'}", "vgg_dist")}


@pytest.mark.ray
def test_a_killed_search_goes_on_and_a_diverging_trial_does_not_end_it(tmp_path: Path) -> None:
    flags = ["--search", "grid", "--search-lr", "0.01", "1e12", "0.001", "--trials-at-once", "1"]
    flags += ["--early-stopping", "none", "--storage-path", str(tmp_path)]
    log = tmp_path / "first.log"
    with log.open("w") as file:
        process = subprocess.Popen(command(*flags), stdout=file, stderr=file, cwd=ROOT)
    deadline = time.monotonic() + 400
    while not list(tmp_path.glob("searched/lr0.01*/outcome.json")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(2)  # Ray Tune writes down what it knows at most every second
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (finished,) = tmp_path.glob("searched/lr0.01*/outcome.json")
    written = finished.stat().st_mtime_ns

    again = subprocess.run(command(*flags), capture_output=True, text=True, cwd=ROOT, timeout=500)
    assert again.returncode == 0, again.stdout + again.stderr
    assert finished.stat().st_mtime_ns == written  # not trained again
    runs = trainings(tmp_path)
    assert sorted(name.rpartition("_")[0] for name in runs) == ["lr0.001_S36", "lr0.01_S36", "lr1e+12_S36"]
    ended = {
        name.rpartition("_")[0]: (run.status, [e for e, _ in run.validations.get("val/loss", [])])
        for name, run in runs.items()
    }
    assert ended == {
        "lr0.001_S36": ("FINISHED", [1.0, 2.0]),
        "lr0.01_S36": ("FINISHED", [1.0, 2.0]),
        "lr1e+12_S36": ("FAILED", []),
    }
    best = min(
        (run for run in runs.values() if run.validations),
        key=lambda run: min(e for _, e in run.validations["val/top1_error"]),
    )
    assert f"Best: {best.name}" in again.stdout
    assert f"--lr {best.settings['lr']} " in again.stdout.partition("train it: python -m vgg_dist.train")[2]
    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    nested = {client.get_run(run.run_id).data.tags["mlflow.parentRunId"] for run in runs.values()}
    (parent,) = nested
    assert {file.path for file in client.list_artifacts(parent)} >= {
        "search.html",
        "parallel_coordinates.png",
        "learning_curves.png",
    }

    other = subprocess.run(command(*flags, "--epochs", "3"), capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert other.returncode == 2
    assert other.stderr.strip().startswith("vgg_dist.tune: --name searched: is a search with epochs 2, not 3")


@pytest.mark.ray
def test_more_workers_than_there_is_room_for_is_one_line(tmp_path: Path) -> None:
    flags = ["--num-workers", "999", "--global-batch", "999", "--storage-path", str(tmp_path)]
    refused = subprocess.run(command(*flags), capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert refused.returncode == 2
    assert "vgg_dist.tune: --num-workers 999: the cluster has room for" in refused.stderr
    assert "Traceback" not in refused.stderr
