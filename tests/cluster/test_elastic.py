"""An elastic training whose worker hangs, whose node is preempted, joined by another, and lost: on hosts (see hosts.py)."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.host_cluster import BIN, Cluster, on_hosts, opened
from support.hosts import Host
from support.mlflow_server import wait_for

pytestmark = on_hosts
# Checkpoints at the end of epochs only, each of 20 steps. At this learning rate rounding does not grow from step to step.
# There is no dropout, whose masks depend on the rank.
SMALL = """
    --arch A --head linear --image-size 32 --data synthetic:train=320,val=16,size=40 --global-batch 16 --micro-batch 4
    --lr 0.00001 --precision fp32 --log-every 1 --epochs 8 --checkpoint-every 1000 --name run
""".split()  # noqa: SIM905
STEPS = list(range(1, 161))
HANG_S = 10
Curves = dict[str, list[tuple[int, float]]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head, and two hosts for two workers each."""
    with opened(3) as cluster:
        cluster.env["MLFLOW_TRACKING_URI"] = f"sqlite:///{cluster.head.folder}/mlflow.db"
        cluster.env["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(HANG_S)
        for host in cluster.network.hosts:
            cluster.start_ray(host, cpus=2)
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Curves:
    """What one worker logs on this machine."""
    folder = tmp_path_factory.mktemp("runs")
    line = [sys.executable, "-m", "vgg_dist.train", *SMALL, "--storage-path", str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return logged(folder / "mlflow.db")


def logged(database: Path) -> Curves:
    """Metric -> the steps, in order, and values that MLflow has of the only run."""
    found: Curves = {}
    rows = sqlite3.connect(database).execute("select key, step, value from metrics order by key, step")
    for metric, step, value in rows:
        found.setdefault(metric, []).append((step, value))
    return found


class Log:
    """What the command has printed."""

    def __init__(self, cluster: Cluster, job: subprocess.Popen[bytes]) -> None:
        self.cluster, self.job = cluster, job

    def until(self, pattern: str, count: int = 1) -> list[str]:
        """Waits until so many lines have it; what they have."""
        wait_for(lambda: self.job.poll() is not None or len(re.findall(pattern, self.cluster.log())) >= count)
        found = re.findall(pattern, self.cluster.log())
        assert len(found) >= count, self.cluster.log()
        return found

    def last_step(self) -> int:
        return max(int(step) for step in re.findall(r"step +(\d+)  epoch", self.cluster.log()))


RESUMED = r"resumes from step (\d+) .* on (\d) workers"


def test_a_training_follows_its_nodes(cluster: Cluster, undisturbed: Curves) -> None:
    runs = cluster.head.folder / "runs"
    job = cluster.submit(*SMALL, "--storage-path", str(runs), "--num-workers", "2:4", "--max-failures", "1")
    log = Log(cluster, job)
    log.until("step +3 ")
    second = cluster.workers[1]

    # A worker hangs: counted as the one failure that is allowed.
    second.run("pkill", "-STOP", "-o", "-f", "RayTrainWorker")
    [rank] = log.until(rf"worker (\d) on {second.address} did not answer and was killed")
    [folder] = (runs / "run" / "hangs").iterdir()
    stacks = {path.name: path.read_text() for path in folder.iterdir()}
    assert sorted(stacks) == [f"worker-{each}.txt" for each in range(4)]
    assert [name for name, text in stacks.items() if "T (stopped)" in text] == [f"worker-{rank}.txt"]
    assert all("Thread" in text for text in stacks.values()), stacks
    log.until("step +23 ")

    # A node is preempted: the others go on from the very step.
    drain(cluster, second, deadline_s=60)
    log.until(f"node {second.address} is to be taken away in [56].")
    [(left, workers)] = log.until(RESUMED)[-1:]
    assert (int(left), workers) == (log.last_step(), "2")
    second.lose()

    # A node joins.
    third = cluster.network.add()
    cluster.start_ray(third, cpus=2)
    log.until("room for 4 workers, not 2")
    [_, (grown, workers)] = log.until(RESUMED, 2)[-2:]
    assert (int(grown), workers) == (log.last_step(), "4")

    # And is lost without notice: what was trained since the last epoch is trained again.
    log.until(f"step +{int(grown) + 2} ")
    third.lose()
    log.until("lost node .*: goes on with the other nodes, which is not counted by --max-failures")
    assert job.wait(600) == 0, cluster.log()

    curves = logged(cluster.head.folder / "mlflow.db")
    assert [step for step, _ in curves["train/loss"]] == STEPS, "MLflow has every step once"
    assert [size for _, size in curves["world_size"]][int(left) : int(left) + 1] == [2.0]
    for metric in ("train/loss", "epoch/train_loss", "val/loss"):
        # Of other images they would differ in the second digit.
        assert curves[metric] == [(step, pytest.approx(value, rel=1e-4)) for step, value in undisturbed[metric]]


def drain(cluster: Cluster, host: Host, deadline_s: int) -> None:
    """The notice of a cloud that takes a node away, as Ray's autoscaler passes it on."""
    ids = "{node['NodeManagerAddress']: node['NodeID'] for node in ray.nodes()}"
    node = cluster.python(f"import json, ray; ray.init(log_to_driver=False); print(json.dumps({ids}))")[host.address]
    flags = ["--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    flags += ["--address", f"{cluster.head.address}:6379", "--deadline-remaining-seconds", str(deadline_s)]
    cluster.head.run(str(BIN / "ray"), "drain-node", *flags, env=cluster.env)
