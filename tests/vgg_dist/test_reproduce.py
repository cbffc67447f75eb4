"""The reproduction on a real Ray, to its tables; and its errors."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import Outcome, driver
from support.paths import ROOT
from support.trees import snapshot

from vgg_dist.config import ReproduceConfig
from vgg_dist.models.build import build_model, macs
from vgg_dist.reproduction.run_graph import Run, longest_first, paper_runs
from vgg_dist.run_folder.outcome import write_outcome
from vgg_dist.run_folder.settings import PROGRAMME, keep_settings
from vgg_dist.tracking import read_runs
from vgg_dist.tracking.connection import connect

SMALL = """
    --head linear --image-size 32 --data synthetic:train=96,val=20,size=48 --global-batch 32 --precision fp32 --epochs 20
    --epochs-scale 0.05 --only B --through table3 --scales 36 48 36-64 --name small
""".split()  # noqa: SIM905


@pytest.mark.ray
def test_nets_start_from_their_shallower_ones_and_end_in_the_tables(cluster: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vgg_dist.reproduce", *SMALL, "--storage-path", str(tmp_path)]
    env = os.environ | driver(cluster)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    (shallow,) = (tmp_path / "small" / "A-36").glob("checkpoint-*")
    (deep,) = (tmp_path / "small" / "B-36").glob("checkpoint-*")
    assert len(safetensors.torch.load_file(deep / "model.safetensors")) > len(
        safetensors.torch.load_file(shallow / "model.safetensors")
    )
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    runs = {run.name: run for run in read_runs(uri, "vgg_dist")}
    assert {name: (run.status, run.settings["init"]) for name, run in runs.items()} == {
        "A-36": ("FINISHED", "glorot"),
        "B-36": ("FINISHED", "from A-36"),
    }
    client = connect(uri)
    (parent,) = {client.get_run(run.run_id).data.tags["mlflow.parentRunId"] for run in runs.values()}
    assert client.get_run(parent).info.status == "FINISHED"
    report = (tmp_path / "small" / "evaluation" / "report.md").read_text()
    for net in ("A-36", "B-36"):
        assert f"| {net} |" in report.replace("\\", "")


@pytest.mark.ray
def test_a_study_trains_its_nets_and_reports_them(cluster: dict[str, str], tmp_path: Path) -> None:
    flags = """
        --study small --only lenet5 --seed 3 --epochs 1
        --data synthetic:train=64,val=100,size=40 --global-batch 32 --precision fp32 --num-workers 1
    """.split()  # noqa: SIM905
    command = [sys.executable, "-m", "vgg_dist.reproduce", *flags, "--storage-path", str(tmp_path)]
    env = os.environ | driver(cluster)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "study-small"
    with (folder / "runs.csv").open() as file:
        ((name, run),) = {row["run"]: row for row in csv.DictReader(file)}.items()
    assert name == "lenet5-seed3"
    assert float(run["images/s"]) > 0
    with (folder / "study.csv").open() as file:
        (net,) = csv.DictReader(file)
    assert (net["net"], float(net["top1 error"])) == ("lenet5", float(run["top1 error"]))
    assert f"report: {folder / 'study.html'}" in done.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--study", "small"], ["--through", "--study paper", "small"]),
        (["--study", "large"], ["--study", "ablations"]),
        (["--seeds", "2"], ["--seeds 2", "ablations"]),
        (["--only", "zfnet"], ["--only zfnet", "A-LRN"]),
        (["--scales", "31", "48", "36-64"], ["--scales 31", "32"]),
        (["--only", "F"], ["--only", "A-LRN"]),
        (["--through", "table9"], ["--through", "table6"]),
        (["--arch", "D"], ["--arch"]),
        (["--data", "/nowhere"], ["/nowhere"]),
        (["--tracking-uri", "http://127.0.0.1:9"], ["--tracking-uri http://127.0.0.1:9"]),
    ],
)
def test_mistakes_are_named_before_anything_is_started(
    flags: list[str], words: list[str], tmp_path: Path, call: Callable[..., Outcome]
) -> None:
    done = call("vgg_dist.reproduce", *SMALL, "--storage-path", tmp_path, *flags)
    assert done.status == 2
    assert done.stderr.startswith("vgg_dist.reproduce: ")
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr


def test_a_name_keeps_its_study(tmp_path: Path, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = ReproduceConfig(study="ablations", name="mine", storage_path=".").resolved()
    keep_settings(kept.folder, kept, PROGRAMME)
    before = snapshot(tmp_path)
    for study in ("paper", "small"):
        done = call("vgg_dist.reproduce", "--storage-path", ".", "--name", "mine", "--study", study)
        assert done.status == 2
        assert f"vgg_dist.reproduce: --name mine: holds --study ablations, not {study}" in done.stderr
        assert done.stderr.count("\n") == 1
    assert snapshot(tmp_path) == before


def time_taken(runs: Sequence[Run], at_once: int) -> float:
    """How long runs take that each begin, in this order, as soon as there is room and what they start from is there."""
    waiting, running, done, now = list(runs), [], {None}, 0.0
    while waiting or running:
        for run in [run for run in waiting if run.depends_on in done][: at_once - len(running)]:
            waiting.remove(run)
            with torch.device("meta"):
                model = build_model(run.config.arch, image_size=32)
            running.append((now + macs(model, 32), run.name))
        now, name = min(running)
        running.remove((now, name))
        done.add(name)
    return now


@pytest.mark.parametrize("from_shallow", [True, False])
@pytest.mark.parametrize("at_once", [2, 3])
def test_runs_beside_each_other_do_not_end_with_the_longest_alone(from_shallow: bool, at_once: int) -> None:
    runs = paper_runs(ReproduceConfig(image_size=32, scales=("36", "48", "36-64"), from_shallow=from_shallow).resolved())
    ours = longest_first(runs)
    assert sorted(run.name for run in ours) == sorted(run.name for run in runs)
    least = max(time_taken(runs, 1) / at_once, time_taken(runs, len(runs)))  # no order can do it in less
    assert time_taken(ours, at_once) <= 1.05 * least
    assert time_taken(runs, at_once) > 1.05 * least


def test_the_plan_is_printed_without_running(tmp_path: Path, call: Callable[..., Outcome]) -> None:
    done = call("vgg_dist.reproduce", *SMALL, "--storage-path", tmp_path, "--dry-run")
    assert done.status == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[-2:]] == [["python", "-m"], ["python", "-m"]]
    assert any(line.startswith("A-36 ") and " 96 " in line for line in lines)
    assert any(line.split()[:2] == ["B-36", "A-36"] for line in lines)
    assert not list(tmp_path.iterdir())


def test_other_settings_than_a_runs_own_are_told_before_the_record_in_mlflow_is_touched(
    tmp_path: Path, call: Callable[..., Outcome]
) -> None:
    config = ReproduceConfig(
        head="linear", image_size=32, name="small", storage_path=str(tmp_path), only=("B",), scales=("36", "48", "36-64")
    ).resolved()
    write_outcome(paper_runs(config)[0].config, {"metrics": {}, "step": 3, "checkpoint": "gone"})
    before = snapshot(tmp_path)
    done = call("vgg_dist.reproduce", *SMALL, "--storage-path", tmp_path, "--seed", 3)
    assert done.status == 2
    assert "vgg_dist.reproduce: --name A-36: that run was begun with --seed 0, not 3" in done.stderr
    assert done.stderr.count("\n") == 1
    assert snapshot(tmp_path) == before
