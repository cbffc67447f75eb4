"""Ray that is lost under a command: an actor such as Ray Train's controller, the raylet, the head's GCS. One line each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

# Stands for a training, whose start takes longer: what it waits for is an actor of Ray's.
SCRIPT = """
import os, signal, sys, threading, time
import psutil, ray
from vgg_dist.config import TrainConfig
from vgg_dist.errors import TrainingError
from vgg_dist.ray_cluster.lost_ray import watched_cluster
from vgg_dist.ray_cluster.start import start_ray

class Controller:
    def pid(self):
        return os.getpid()

    def run(self):
        time.sleep(600)

class Trainer:
    def fit(self):
        ray.get(controller.run.remote())

os.environ["RAY_ADDRESS"] = "local"
start_ray()
assert "RAY_ADDRESS" not in os.environ
controller = ray.remote(num_cpus=0)(Controller).remote()
pids = {process.name(): process.pid for process in psutil.Process().children(recursive=True)}
pids["controller"] = ray.get(controller.pid.remote())
if sys.argv[1] == "raylet":  # before it, a controller is lost
    from vgg_dist.launch.ray_train import fit
    from vgg_dist.ray_cluster.job_messages import JobMessages
    threading.Timer(2.0, os.kill, (pids["controller"], signal.SIGKILL)).start()
    try:
        fit(Trainer(), TrainConfig(name="first"), JobMessages(), say=print)
    except TrainingError as error:
        print(error)
    controller = ray.remote(num_cpus=0)(Controller).remote()
    ray.get(controller.pid.remote())
threading.Timer(2.0, os.kill, (pids[sys.argv[1]], signal.SIGKILL)).start()
with watched_cluster("vgg_dist.train", lambda why: open("record", "w").write(why)):
    Trainer().fit()
"""
LOST = {
    "raylet": "Ray's raylet on this machine was lost: killed, or out of memory; the same command ",
    "gcs_server": "Ray's GCS at ",
}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("lost", LOST)
def test_a_lost_process_of_rays_is_one_line_and_the_record_is_left_in_order(lost: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, script, lost], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("vgg_dist.train: ")]
    assert line.startswith(f"vgg_dist.train: {LOST[lost]}")
    assert line.endswith("the same command resumes from what is saved")
    assert (tmp_path / "record").read_text() == line.removeprefix("vgg_dist.train: ")
    assert "Traceback" not in done.stderr
    assert "*** SIG" not in done.stderr
    if lost == "raylet":
        said = "Ray Train's controller was lost: killed, or out of memory (ActorDiedError: "
        assert done.stdout.count("\n") == 1, done.stdout  # and no paragraph of Ray's
        line = done.stdout.strip()
        assert line.startswith(said)
        assert line.endswith("; the same command, or --name first, resumes it")
