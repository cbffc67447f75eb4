"""`python -m cluster`: invalid flags, the services that it starts, jobs on the cluster, and Ray's launcher file."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from ray._private.services import find_bootstrap_address
from support.mlflow_server import wait_for
from support.paths import ROOT

from cluster import local, services
from vgg_dist.tracking import read_runs


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nodes", "0"], "cluster: --nodes 0: must be at least 1"),
        (["--cpus", "0"], "cluster: --cpus 0: must be at least 1"),
        (["--gpus", "-1"], "cluster: --gpus -1: must be at least 0"),
        (["--gpus", "900"], r"cluster: --gpus 900 on --nodes 3: this machine has \d+ GPUs"),
    ],
)
def test_flags_that_cannot_be_are_one_line(flags: list[str], message: str, tmp_path: Path) -> None:
    result = command(tmp_path, "up", *flags)
    assert result.returncode == 2
    assert re.fullmatch(message, result.stderr.strip())
    assert result.stdout == ""


def test_a_busy_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = command(tmp_path, "up", "--mlflow-port", str(port), "--dashboard-port", "0", "--port", "0")
    assert result.returncode == 2
    assert f"--mlflow-port {port}: another program listens there" in result.stderr
    assert not (tmp_path / "state").exists()


def test_without_a_cluster_status_says_so_and_down_does_nothing(tmp_path: Path) -> None:
    assert command(tmp_path, "status").returncode == 1
    assert command(tmp_path, "down").stdout == "0 processes stopped\n"


def test_down_goes_on_where_a_process_ends_by_itself_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, running = (subprocess.Popen(["sleep", "600"]) for _ in range(2))
    processes = {"ended": psutil.Process(ended.pid), "running": psutil.Process(running.pid)}
    ended.kill()
    ended.wait()
    # The process ends between this query and the signal.
    monkeypatch.setattr(services.Service, "process", lambda service: processes[service.name])
    noted = tuple(services.Service(name, process.pid, 0, "") for name, process in processes.items())
    services.stop(services.Cluster("", "", noted[::-1]))
    assert not processes["running"].is_running()
    running.wait()


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_node_that_gives_up_at_its_start_is_started_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray gives up on a node that takes more than 30 s."""
    tries, gives_up = tmp_path / "tries", "echo once >> tries; echo given up; exit 1"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "_joined", lambda cluster, nodes: lambda: (tmp_path / "joined").exists())
    monkeypatch.setattr(local, "_node_command", lambda options, head: ["sh", "-c", script])
    environment = dict(os.environ)

    def start() -> services.Cluster:
        return local._start_node(services.Cluster("", "", ()), tmp_path, local.Up(), 1, environment, 0.0)

    script = gives_up
    with pytest.raises(services.ClusterError, match=r"^node-1 ended while starting: given up "):
        start()
    assert tries.read_text() == "once\n" * 2
    tries.unlink()
    script = f"test -e tries || {{ {gives_up}; }}; : > joined; exec sleep 600"
    cluster = start()
    assert [service.name for service in cluster.services] == ["node-1"]
    assert services.stop(cluster) == 1


def test_a_token_is_made_once_and_only_its_owner_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    token = local.token()
    assert len(token) >= 32
    assert local.token() == token == (tmp_path / ".ray" / "auth_token").read_text()
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o077 == 0


def test_the_launcher_file_passes_rays_schema() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load((ROOT / "cluster" / "machines.yaml").read_text())))


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A cluster of three nodes: the folder that it was started in, and the environment of its user."""
    folder = tmp_path_factory.mktemp("up")
    ports = {flag: str(free_port()) for flag in ("--port", "--dashboard-port", "--mlflow-port")}
    flags = [text for pair in ports.items() for text in pair]
    try:
        started = command(folder, "up", "--nodes", "3", "--cpus", "2", *flags)
        assert started.returncode == 0, started.stderr
        assert "3 nodes, 6 CPUs" in started.stdout
        exported = dict(re.findall(r"(RAY_\w+)=(\S+)", started.stdout))
        yield folder, exported | {"MLFLOW": f"http://127.0.0.1:{ports['--mlflow-port']}"}
    finally:
        processes = [process for service in notes(folder).services if (process := service.process())]
        processes += [child for process in processes for child in process.children(recursive=True)]
        assert len(processes) >= 8
        assert find_bootstrap_address(None)
        assert command(folder, "down").returncode == 0
        assert find_bootstrap_address(None) is None
        assert [process for process in processes if process.is_running()] == []
        assert command(folder, "status").returncode == 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_has_what_it_needs_and_only_with_the_token(up: tuple[Path, dict[str, str]]) -> None:
    folder, exported = up
    env = {**os.environ, **exported, "HOME": str(folder)}
    script = "import os, vgg_dist.train; print('tracked by', os.environ['MLFLOW_TRACKING_URI'])"
    submit = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--", "python", "-c", script]
    job = subprocess.run(submit, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert job.returncode == 0, job.stdout + job.stderr
    assert f"tracked by {exported['MLFLOW']}" in job.stdout
    refused = subprocess.run(
        submit, env=env | {"RAY_AUTH_TOKEN": "0" * 64}, capture_output=True, text=True, timeout=900, check=False
    )
    assert refused.returncode != 0


@pytest.mark.ray
@pytest.mark.slow
def test_a_second_one_is_refused(up: tuple[Path, dict[str, str]]) -> None:
    second = command(up[0], "up")
    assert second.returncode == 2
    assert (
        second.stderr == "cluster: a cluster is already running on this machine; "
        "`python -m cluster status` shows it, `down` stops it\n"
    )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_lost_node_costs_a_search_what_its_trials_did_since_their_checkpoints(up: tuple[Path, dict[str, str]]) -> None:
    """Three trials with two workers each fill the three nodes, and a fourth waits."""
    folder, exported = up
    flags = ["--arch", "A", "--head", "linear", "--image-size", "32", "--data", "synthetic:train=192,val=20,size=40"]
    flags += ["--global-batch", "16", "--epochs", "3", "--checkpoint-every", "2", "--log-every", "1", "--num-workers", "2"]
    flags += ["--search", "grid", "--search-lr", "0.001", "0.002", "0.003", "0.004", "--search-train-scale", "36"]
    flags += ["--early-stopping", "none", "--storage-path", str(folder / "runs"), "--name", "searched"]
    submit = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--", "python", "-m", "vgg_dist.tune", *flags]
    env = {**os.environ, **exported, "HOME": str(folder)}

    def checkpoints() -> set[tuple[str, int]]:
        """Trials and the steps of what they keep, the last two."""
        files = (folder / "runs" / "searched").glob("lr*/checkpoint-*/config.json")
        return {(file.parents[1].name, int(file.parent.name.partition("-")[2])) for file in files}

    with (folder / "search.log").open("w") as log, subprocess.Popen(submit, env=env, stdout=log, stderr=log) as job:
        wait_for(lambda: job.poll() is not None or len({trial for trial, step in checkpoints() if step > 6}) == 3)
        assert job.poll() is None, (folder / "search.log").read_text()
        node = next(service.process() for service in notes(folder).services if service.name == "node-2")
        assert node is not None
        lost = [node, *node.children(recursive=True)]
        at_loss = checkpoints()
        for process in lost:
            process.kill()
        written = set()
        while job.poll() is None:
            written |= checkpoints() - at_loss
            time.sleep(0.1)
    text = (folder / "search.log").read_text()
    assert job.returncode == 0, text
    assert re.search(r"worker \d failed|Trial task failed", text)
    last = dict(sorted(at_loss))
    assert all(step > last.get(trial, 0) for trial, step in written), (at_loss, written)  # no trial started over
    assert "node-2   ENDED" in command(folder, "status").stdout
    runs = read_runs(exported["MLFLOW"], "vgg_dist")
    assert len(runs) == 4
    for run in runs:
        assert run.status == "FINISHED", run.note
        assert [epoch for epoch, _ in run.validations["val/top1_error"]] == [1, 2, 3]


def notes(folder: Path) -> services.Cluster:
    cluster = services.Cluster.read(folder / "state" / "vgg_dist" / "cluster")
    assert cluster is not None
    return cluster


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m cluster` with its records and its user's home in `folder`."""
    env = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "cluster", *arguments]
    return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=900, check=False)
