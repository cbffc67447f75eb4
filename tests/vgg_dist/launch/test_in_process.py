"""A training of one worker in the command's own process: without Ray, and otherwise the same."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import Outcome, kill_once
from support.paths import ROOT

from vgg_dist.ray_cluster.nodes import only_worker_here

FLAGS = """
    --arch lenet5 --data synthetic:train=48,val=20,size=40 --global-batch 8 --micro-batch 8 --precision fp32 --lr 0.01
    --log-every 1 --checkpoint-every 4 --epochs 2 --loader-threads 1
""".split()  # noqa: SIM905
STEPS = list(range(1, 13))
NO_CLUSTER = {"RAY_ADDRESS": "local"}

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")


def command(storage: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "vgg_dist.train", *FLAGS, "--storage-path", str(storage), "--name", "first", *flags]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage folder of an undisturbed run, by a command that says at its end which modules it has imported."""
    storage = tmp_path_factory.mktemp("whole")
    script = (
        "import sys; from vgg_dist.train import main\ntry: main()\nfinally: print(*sys.modules, file=open('modules', 'w'))"
    )
    env = os.environ | NO_CLUSTER | {"PYTHONPATH": str(ROOT)}
    flags = command(storage)[3:]
    done = subprocess.run([sys.executable, "-c", script, *flags], cwd=storage, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (storage / "output").write_text(done.stdout)
    return storage


def weights(storage: Path) -> dict[str, torch.Tensor]:
    outcome = json.loads((storage / "first" / "outcome.json").read_text())
    return safetensors.torch.load_file(f"{outcome['checkpoint']}/model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def query(storage: Path, sql: str) -> list[Any]:
    with sqlite3.connect(storage / "mlflow.db") as database:
        return database.execute(sql).fetchall()


def logged(storage: Path, metric: str) -> list[int]:
    return [step for (step,) in query(storage, f"select step from metrics where key = '{metric}' order by timestamp, step")]


def checkpoints(storage: Path) -> list[str]:
    return sorted(path.name for path in (storage / "first").glob("checkpoint-*"))


def test_a_training_of_one_worker_needs_no_ray(whole: Path) -> None:
    assert not {"ray.train", "ray.tune"} & set((whole / "modules").read_text().split())
    lines = (whole / "output").read_text().splitlines()
    assert lines[1].startswith("vgg_dist.train: run first, 1 worker of ")
    reported = [(int(line.split()[1]), "validation" in line) for line in lines if line.startswith("step ")]
    assert reported == sorted([(step, False) for step in STEPS] + [(6, True), (12, True)])
    assert logged(whole, "train/loss") == STEPS
    assert logged(whole, "val/loss") == logged(whole, "best/loss") == [6, 12]
    assert logged(whole, "system/cpu_utilization_percentage")
    assert query(whole, "select name, status from runs") == [("first", "FINISHED")]
    artifacts = {path.name for path in whole.rglob("*") if path.is_file()}
    assert {"learning_curves.png", "MLmodel"} <= artifacts
    assert checkpoints(whole) == ["checkpoint-000000008", "checkpoint-000000012"]
    settings = json.loads((whole / "first" / "settings.json").read_text())
    assert (settings["name"], settings["num_workers"]) == ("first", None)


def test_killed_and_resumed_it_ends_with_the_same_weights(whole: Path, tmp_path: Path) -> None:
    """As left on Ray: with Ray Train's list, which names checkpoints that are removed here."""
    kill_once(command(tmp_path), lambda: list(tmp_path.glob("first/*4/config.json")), tmp_path / "log", NO_CLUSTER)
    ray_list = tmp_path / "first" / "checkpoint_manager_snapshot.json"
    ray_list.write_text("{}")
    done = subprocess.run(
        command(tmp_path), env=os.environ | NO_CLUSTER, cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "resumes from step " in done.stdout
    assert not ray_list.exists()
    assert equal(weights(tmp_path), weights(whole))
    assert logged(tmp_path, "train/loss") == STEPS
    assert logged(tmp_path, "val/loss") == [6, 12]
    assert checkpoints(tmp_path) == checkpoints(whole)
    assert query(tmp_path, "select name, status from runs") == [("first", "FINISHED")]


def break_step(monkeypatch: pytest.MonkeyPatch, broken: Callable[[int], BaseException | None]) -> list[int]:
    """Has steps raise what `broken` returns for them. Returns a list that gets the number of each step that is begun."""
    from vgg_dist.training.trainer import Trainer

    begun: list[int] = []
    forward_backward = Trainer._forward_backward

    def limited(self: Trainer, *batch: Any) -> None:
        begun.append(self.state.step)
        if (error := broken(self.state.step)) is not None:
            raise error
        forward_backward(self, *batch)

    monkeypatch.setattr(Trainer, "_forward_backward", limited)
    return begun


def test_after_a_failure_it_goes_on_from_the_last_checkpoint(
    whole: Path, tmp_path: Path, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    once = [OSError(errno.EIO, "the disk is away")]
    begun = break_step(monkeypatch, lambda step: once.pop() if step == 10 and once else None)
    done = call("vgg_dist.train", *command(tmp_path)[3:], "--max-failures", 1)
    assert done.status == 0, done.stderr
    assert begun == [*range(11), *range(8, 12)]
    assert "\nworker 0 failed: " in done.stdout
    assert "the disk is away" in done.stdout
    assert "resumes from step 8 (epoch 1.33)" in done.stdout
    assert equal(weights(tmp_path), weights(whole))
    assert logged(tmp_path, "train/loss") == STEPS
    assert checkpoints(tmp_path) == checkpoints(whole)


@pytest.mark.parametrize(
    ("error", "tries", "said"),
    [
        (OSError(errno.EIO, "the disk is away"), 2, "worker 0 failed: "),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), 1, "--micro-batch 8: out of memory ("),
    ],
)
def test_a_failure_that_stays_is_one_line(
    error: Exception, tries: int, said: str, tmp_path: Path, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = break_step(monkeypatch, lambda step: error if step == 1 else None)
    done = call("vgg_dist.train", *command(tmp_path)[3:], "--max-failures", 1)
    assert done.status != 0
    assert begun == [0, 1] * tries
    assert done.stderr.startswith(f"vgg_dist.train: {said}")
    assert done.stderr.count("\n") == 1
    assert query(tmp_path, "select status from runs") == [("FAILED",)]


def test_a_full_disk_is_one_line_and_the_metrics_are_kept(
    tmp_path: Path, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vgg_dist.worker import process

    def refuse(*arguments: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(process, "write_checkpoint", refuse)
    done = call("vgg_dist.train", *command(tmp_path)[3:])
    assert done.status != 0
    words = f"vgg_dist.train: --storage-path {tmp_path}: checkpoint of step 4 not written: "
    assert done.stderr.startswith(words)
    assert done.stderr.count("\n") == 1
    steps = logged(tmp_path, "train/loss")
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= 4


def test_what_needs_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from vgg_dist.ray_cluster import nodes

    monkeypatch.delenv("VGG_DIST_GPUS", raising=False)
    here = {"CPU": 8.0, "GPU": 1.0}
    monkeypatch.setattr(nodes, "_this_machine", lambda: here)
    assert only_worker_here(None) == only_worker_here(1) == {"CPU": 8.0, "GPU": 1.0}
    assert only_worker_here(2) is None
    here["GPU"] = 2.0
    assert only_worker_here(None) is None
    assert only_worker_here(1) == {"CPU": 8.0, "GPU": 1.0}
    here["GPU"] = 0.0
    assert only_worker_here(None) == {"CPU": 8.0}
    monkeypatch.setenv("VGG_DIST_GPUS", "1")  # which the cluster is still to get
    assert only_worker_here(None) is None
    monkeypatch.delenv("VGG_DIST_GPUS")
    monkeypatch.setattr(nodes, "find_cluster", lambda: "127.0.0.1:6379")
    assert only_worker_here(1) is None
