"""The command end to end: on a real Ray cluster with token authentication, as jobs, killed and resumed; and its errors."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import ray
import safetensors.torch
import torch
from conftest import Outcome, driver, kill_once
from support.paths import ROOT, SUPPORT
from support.terminal import run_in_terminal, screen

from vgg_dist.run_folder.choice import local_checkpoint

SMALL = """
    --arch A --head linear --image-size 32 --data synthetic:train=80,val=30,size=40 --global-batch 16 --micro-batch 16
    --lr 0.002 --precision fp32 --log-every 1 --epochs 2
""".split()  # noqa: SIM905


SPLIT = [*SMALL, "--arch", "lenet5", "--head", "fc", "--fc-parallel", "auto"]
"""The same of a net whose FC layers are split over the workers, however many they are."""


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "vgg_dist.train", *flags]


def run(*flags: str, env: dict[str, str] | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*flags), capture_output=True, text=True, env=os.environ | (env or {}), cwd=cwd, timeout=900
    )


# Mistakes that show before anything is started.


def jpeg(path: Path, content: bytes | None = None) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        Image.effect_noise((40, 40), 50).convert("RGB").save(path)
    else:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folders with something wrong."""
    root = tmp_path_factory.mktemp("data")
    (root / "empty").mkdir()
    for name in ("one-class", "new-class", "good"):
        for split in ("train", "val"):
            jpeg(root / name / split / "cat" / "1.jpg")
    for name in ("new-class", "good"):
        for split in ("train", "val"):
            jpeg(root / name / split / "dog" / "1.jpg")
    jpeg(root / "new-class" / "val" / "owl" / "1.jpg")
    (root / "file").write_text("not a folder")
    return root


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--arch", "F"], ["--arch", "A-LRN", "zfnet"]),
        (["--learning-rate", "1"], ["--learning-rate"]),
        (["--image-size", "31"], ["--image-size 31", "32"]),
        (["--data", "{}/missing"], ["missing"]),
        (["--data", "{}/empty"], ["empty"]),
        (["--data", "{}/one-class"], ["one-class", "class"]),
        (["--data", "{}/new-class"], ["owl"]),
        (["--data", "synthetic:trian=3"], ["trian"]),
        (["--data", "{}/good", "--storage-path", "{}/file/runs"], ["--storage-path", "file/runs"]),
        (["--data", "{}/good", "--init-from", "{}/empty"], ["--init-from", "empty"]),
        (["--data", "{}/good", "--tracking-uri", "http://127.0.0.1:9"], ["--tracking-uri", "127.0.0.1:9"]),
        (["--data", "{}/good", "--tracking-uri", "ftp://host"], ["--tracking-uri", "ftp://host"]),
    ],
)
def test_mistakes_are_named_before_anything_is_started(
    flags: list[str],
    words: list[str],
    folders: Path,
    tmp_path: Path,
    call: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("vgg_dist.train", *(flag.format(folders) for flag in flags))
    assert result.status == 2
    assert not ray.is_initialized()
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    assert not list(tmp_path.glob("runs/*/*")), "something was left behind"
    assert result.stderr.startswith("vgg_dist.train: ")
    assert result.stderr.count("\n") == 1


# On a cluster.


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    last = sorted(run_folder.glob("checkpoint-*"))[-1]
    return safetensors.torch.load_file(last / "model.safetensors")


def logged(storage: Path, name: str) -> dict[str, list[int]]:
    """Metric -> the steps that MLflow's database has of it, in the order of writing."""
    with sqlite3.connect(storage / "mlflow.db") as database:
        rows = database.execute(
            "select key, step from metrics join runs using (run_uuid)"
            " where name = ? and key not like 'system/%' order by timestamp",
            (name,),
        ).fetchall()
    steps: dict[str, list[int]] = {}
    for key, step in rows:
        steps.setdefault(key, []).append(step)
    return steps


def last_whole(run_folder: Path) -> int:
    """The step of the last whole checkpoint; 0 without one."""
    return max((int(path.parent.name[11:20]) for path in run_folder.glob("checkpoint-*/config.json")), default=0)


def kill_in_mid_epoch(flags: list[str], env: dict[str, str], run_folder: Path, begun: int = 0) -> None:
    """Starts a training, and SIGKILLs its controller, workers and driver once a checkpoint after step `begun` is there.

    The controller has not heard of that checkpoint then, nor of the steps before it.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    output = run_folder / "killed.log"
    with output.open("w") as file:
        process = subprocess.Popen(command(*flags), env=os.environ | env, cwd=ROOT, stdout=file, stderr=file)
    deadline = time.monotonic() + 900
    while last_whole(run_folder) <= begun:
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # Of this cluster's node only: other Rays may be training on this machine.
    head = f"--gcs-address=[^ ]*:{env['RAY_ADDRESS'].rpartition(':')[2]}( |$)"
    titles = {found: " ".join(found.info["cmdline"] or []) for found in psutil.process_iter(["cmdline"])}
    [node] = [found for found, title in titles.items() if re.search(f"raylet --.*{head}", title)]
    for found in node.children():
        if re.match("ray::(RayTrainWorker|TrainController)", titles.get(found, "")):
            found.kill()
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def undisturbed(cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run on two workers, as a job with the token; its storage folder."""
    storage = Path(tmp_path_factory.mktemp("runs"))
    ray = str(Path(sys.executable).with_name("ray"))
    flags = [*SPLIT, "--num-workers", "2", "--storage-path", str(storage), "--name", "whole"]
    submit = [ray, "job", "submit", "--", *command(*flags)]
    refused = subprocess.run(
        submit, env=os.environ | cluster | {"RAY_AUTH_TOKEN": "0" * 64}, capture_output=True, text=True, timeout=120
    )
    assert refused.returncode != 0
    for _ in range(30):
        job = subprocess.run(submit, env=os.environ | cluster, capture_output=True, text=True, timeout=900)
        if "No available agent" not in job.stderr:  # the cluster's job agent comes up some seconds after the rest
            break
        time.sleep(2)
    assert job.returncode == 0, job.stdout + job.stderr
    assert "succeeded" in job.stdout
    (storage / "job.log").write_text(job.stdout)
    return storage


@pytest.mark.ray
def test_a_job_with_the_token_trains_and_is_tracked(undisturbed: Path) -> None:
    steps = logged(undisturbed, "whole")
    assert steps["train/loss"] == list(range(1, 11))
    assert steps["val/top1_error"] == [5, 10]
    described = json.loads((sorted(undisturbed.glob("whole/checkpoint-*"))[-1] / "config.json").read_text())
    assert described["config"]["num_workers"] == 2
    assert len(described["class_names"]) == 10
    with sqlite3.connect(undisturbed / "mlflow.db") as database:
        query = "select key, step, value from metrics join runs using (run_uuid) where name = 'whole'"
        values = {(key, step): value for key, step, value in database.execute(query)}
    top5, top1, best = min((values["val/top5_error", step], values["val/top1_error", step], step) for step in (5, 10))
    assert (values["best/top5_error", best], values["best/top1_error", best]) == (top5, top1)
    with local_checkpoint(str(undisturbed / "whole"), "net", "best") as kept:
        assert (kept.step, (kept.metrics or {})["val/top1_error"]) == (best, top1)
    assert json.loads((undisturbed / "whole" / "outcome.json").read_text())["best"]["step"] == best
    artifacts = {path.name for path in undisturbed.rglob("*") if path.is_file()}
    assert "learning_curves.png" in artifacts
    assert "MLmodel" in artifacts


@pytest.mark.ray
def test_a_jobs_log_has_each_report_in_a_plain_line_and_nothing_of_rays(undisturbed: Path) -> None:
    lines = (undisturbed / "job.log").read_text().splitlines()
    begun = next(number for number, line in enumerate(lines) if line == "vgg_dist.train: starting Ray and its workers")
    ended = next(number for number, line in enumerate(lines) if line.startswith("vgg_dist.train: run whole finished"))
    said, *progress = lines[begun + 1 : ended]
    assert said.startswith("vgg_dist.train: run whole, 2 workers of 1 CPU; metrics every 1")
    reported = [(int(line.split()[1]), "validation" in line) for line in progress if line.startswith("step ")]
    assert reported == sorted([(step, False) for step in range(1, 11)] + [(5, True), (10, True)])
    others = [line for line in progress if not line.startswith("step ")]
    assert "--fc-parallel auto: 1 group of 2 workers; each worker sends 0.0" in " ".join(map(str.strip, others)), others
    assert all(line.startswith(("--micro-batch", "--fc-parallel", "  ")) for line in others), others
    assert all(len(line) <= 79 for line in progress)


@pytest.mark.ray
def test_a_finished_run_is_not_trained_again(undisturbed: Path, call: Callable[..., Outcome]) -> None:
    flags = [*SPLIT, "--storage-path", undisturbed, "--name", "whole"]
    again = call("vgg_dist.train", *flags)
    assert (again.status, again.stderr) == (0, "")
    assert "run whole was finished before at step 10" in again.stdout
    assert not ray.is_initialized()


KILLED = [*SPLIT, "--name", "killed", "--checkpoint-every", "3"]


@pytest.mark.ray
def test_killed_in_mid_epoch_and_resumed(cluster: dict[str, str], undisturbed: Path, tmp_path: Path) -> None:
    """(On another number of workers: test_elastic; with FC layers split over them anew: test_fc_parallel, without Ray.)"""
    flags = [*KILLED, "--num-workers", "2", "--storage-path", str(tmp_path)]
    kill_in_mid_epoch(flags, driver(cluster), tmp_path / "killed")
    status, written = run_in_terminal(command(*flags), driver(cluster))
    assert status == 0, written
    lines = screen(written)  # no colours; the live line is gone at the end
    assert [line for line in lines if line.startswith("step     10  validation: loss ")], lines
    assert "vgg_dist.train: starting Ray and its workers" in lines
    assert not [line for line in lines if "pid=" in line or " INFO " in line]
    assert all("validation" in line for line in lines if line.startswith("step"))
    assert all(len(line) <= 79 for line in lines if line.startswith(("step", "vgg_dist.train: ")))
    steps = logged(tmp_path, "killed")
    assert steps["train/loss"] == list(range(1, 11))
    assert steps["val/loss"] == [5, 10]
    ours, whole = weights(tmp_path / "killed"), weights(undisturbed / "whole")
    assert all(torch.equal(ours[key], whole[key]) for key in whole)


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_goes_on_a_cluster_and_back_without_a_difference(cluster: dict[str, str], tmp_path: Path) -> None:
    """Begun without Ray and killed, resumed on a cluster and killed, ended without Ray; beside it a run that was not."""
    local = {"RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"}
    flags = [*SMALL, "--data", "synthetic:train=240,val=30,size=40", "--checkpoint-every", "2", "--num-workers", "1"]
    flags += ["--storage-path", str(tmp_path)]
    moved = tmp_path / "moved"
    kill_once(command(*flags, "--name", "moved"), lambda: last_whole(moved), tmp_path / "log", local)
    begun = last_whole(moved)
    assert not (moved / "checkpoint_manager_snapshot.json").exists()
    kill_in_mid_epoch([*flags, "--name", "moved"], driver(cluster), moved, begun)
    assert (moved / "checkpoint_manager_snapshot.json").exists()
    for name in "moved", "stayed":
        done = run(*flags, "--name", name, env=local)
        assert done.returncode == 0, done.stderr
    ours, others = weights(moved), weights(tmp_path / "stayed")
    assert all(torch.equal(ours[key], others[key]) for key in others)
    steps = logged(tmp_path, "moved")
    assert (steps["train/loss"], steps["val/loss"]) == (list(range(1, 31)), [15, 30])
    folders = [sorted(path.name for path in (tmp_path / name).glob("checkpoint-*")) for name in ("moved", "stayed")]
    assert len(folders[0]) == len(folders[1]) == 2, folders


@pytest.mark.ray
@pytest.mark.slow
def test_failures_that_only_the_cluster_shows_are_one_line(cluster: dict[str, str], folders: Path, tmp_path: Path) -> None:
    def fails(*flags: str, env: dict[str, str] | None = None) -> str:
        result = run(*flags, "--storage-path", str(tmp_path), env=env or driver(cluster))
        assert result.returncode != 0
        assert "Traceback" not in result.stderr
        return [line for line in result.stderr.splitlines() if line.startswith("vgg_dist.train:")][-1]

    assert "--num-workers 9: the cluster has room for 3" in fails(*SMALL, "--num-workers", "9")
    # Without RAY_ADDRESS, by what `ray start` leaves on its machine.
    left = tmp_path / "ray" / "ray_current_cluster"
    left.parent.mkdir()
    left.write_text(driver(cluster)["RAY_ADDRESS"])
    found = {key: value for key, value in cluster.items() if key != "RAY_ADDRESS"} | {"RAY_TMPDIR": str(tmp_path)}
    assert "--num-workers 9: the cluster has room for 3" in fails(*SMALL, "--num-workers", "9", env=found)
    left.write_text("127.0.0.1:9")
    for gone in found, {"RAY_ADDRESS": "127.0.0.1:9"}:
        assert "RAY_ADDRESS 127.0.0.1:9: nothing answers" in fails(*SMALL, env=gone)
    assert "token is missing or incorrect" in fails(*SMALL, env=driver(cluster) | {"RAY_AUTH_TOKEN": "0" * 64})
    jpeg(folders / "bad" / "train" / "cat" / "1.jpg", b"not an image")
    for name in ("train/cat/2.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg"):
        jpeg(folders / "bad" / name)
    flags = [*SMALL, "--data", str(folders / "bad"), "--max-bad-images"]
    assert "train/cat/1.jpg" in fails(*flags, "0", "--name", "bad")


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_out_of_memory_ends_the_run_at_once_and_says_what_fits(cluster: dict[str, str], tmp_path: Path) -> None:
    """Worker 1 runs out of memory while worker 0 waits for its gradients."""
    script = SUPPORT / "out_of_memory.py"
    flags = [*SMALL, "--num-workers", "2", "--storage-path", str(tmp_path), "--name", "large"]
    env = os.environ | driver(cluster) | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True, env=env, timeout=900)
    assert result.returncode != 0
    assert (tmp_path / "attempts").read_text() == "worker 1\n"
    last = result.stderr.splitlines()[-1]
    assert last.startswith("vgg_dist.train: --micro-batch 8: out of memory (")
    assert "with A at 32 pixels in fp32, about " in last
    assert last.endswith("about 4 should fit")
    assert "Traceback" not in result.stdout + result.stderr
