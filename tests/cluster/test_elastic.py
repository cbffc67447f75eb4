"""An elastic training whose worker hangs, and whose nodes are preempted, join and are cut off: on hosts (see hosts.py)."""

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
# Checkpoints at the end of epochs only, each of 20 steps. At this learning rate rounding hardly grows from step to step:
# between micro-batches of 4 and of 16 the losses of 200 steps differ by 5e-5 at most, at three times the rate by 2e-3.
SMALL = """
    --arch A --head linear --image-size 32 --data synthetic:train=320,val=16,size=40 --global-batch 16 --micro-batch 4
    --lr 0.000003 --precision fp32 --log-every 1 --checkpoint-every 1000 --name run
""".split()  # noqa: SIM905
HANG_S = 30  # a busy machine may take its time
RESUMED = r"resumes from step (\d+) .* on (\d) workers"
Curves = dict[str, dict[int, float]]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head, and two hosts for two workers each."""
    with opened(3) as cluster:
        cluster.env["MLFLOW_TRACKING_URI"] = f"sqlite:///{cluster.head.folder}/mlflow.db"
        cluster.env["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(HANG_S)
        cluster.env["RAY_health_check_timeout_ms"] = "4000"  # a node that is cut off is dead after 35 s, not 65
        for host in cluster.network.hosts:
            cluster.start_ray(host, cpus=2)
        yield cluster


def logged(database: Path) -> Curves:
    """Metric -> step -> value, that MLflow has of the only run. AssertionError if it has one twice."""
    found: Curves = {}
    for metric, step, value in sqlite3.connect(database).execute("select key, step, value from metrics"):
        assert step not in found.setdefault(metric, {}) or metric.startswith("system/"), f"{metric} of step {step} twice"
        found[metric][step] = value
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
        """The highest step that it has shown."""
        return max(map(int, re.findall(r"step +(\d+)  epoch", self.cluster.log())))

    def resumed(self, count: int) -> tuple[int, int, int]:
        """Of that group which resumes from a checkpoint: its first step, its workers, and the last step before it."""
        self.until(RESUMED, count)
        [*_, found] = list(re.finditer(RESUMED, self.cluster.log()))[:count]
        steps = re.findall(r"step +(\d+)  epoch", self.cluster.log()[: found.start()])
        return int(found[1]), int(found[2]), int(steps[-1])


def test_a_training_follows_its_nodes(cluster: Cluster, tmp_path: Path) -> None:
    runs = cluster.head.folder / "runs"
    job = cluster.submit(*SMALL, "--storage-path", str(runs), "--num-workers", "2:4", "--max-failures", "1")
    log = Log(cluster, job)
    log.until("step +3 ")
    second = cluster.workers[1]

    # A worker hangs: this is the one failure that is allowed.
    second.run("pkill", "-STOP", "-o", "-f", "RayTrainWorker")
    [rank] = log.until(rf"worker (\d) on {second.address} did not answer and was killed")
    [folder] = (runs / "run" / "hangs").iterdir()
    stacks = {path.name: path.read_text() for path in folder.iterdir()}
    assert sorted(stacks) == [f"worker-{each}.txt" for each in range(4)]
    assert [name for name, text in stacks.items() if "T (stopped)" in text] == [f"worker-{rank}.txt"]
    for name, text in stacks.items():
        assert "run_worker" in text, f"{name}: {text}"
    # On to a step that is new: MLflow keeps what it was told first of a step that is trained twice.
    log.until(f"step +{log.last_step() + 1}  epoch")
    begun = len(re.findall(RESUMED, cluster.log()))  # 1 if it had ended an epoch before, else 0

    # A node is preempted: the others go on from the very step.
    drain(cluster, second, deadline_s=60)
    log.until(f"node {second.address} is to be taken away in [456].")
    left, workers, before = log.resumed(begun + 1)
    assert (left, workers) == (before, 2)
    second.lose()

    # A node joins: no step is trained twice either.
    third = cluster.network.add()
    cluster.start_ray(third, cpus=2)
    log.until("room for 4 workers, not 2")
    grown, workers, before = log.resumed(begun + 2)
    assert (grown, workers) == (before, 4)

    # And it is lost without notice: what was trained since the last checkpoint is trained again.
    log.until(f"step +{grown + 2} ")
    cluster.network.cut(third)
    log.until("lost node .*: goes on with the other nodes, which is not counted by --max-failures")
    resumed, workers, before = log.resumed(begun + 3)
    assert workers == 2
    assert grown <= resumed <= before
    log.until(f"step +{before + 2} ")
    cluster.head.run("pkill", "-TERM", "-f", "^python -m vgg_dist.train")
    job.wait(900)
    steps = int(log.until(r"stopped by SIGTERM at step (\d+), checkpoint written")[0])

    curves = logged(cluster.head.folder / "mlflow.db")
    assert sorted(curves["train/loss"]) == list(range(1, steps + 1))
    assert [curves["world_size"][step] for step in (left, left + 1, grown, grown + 1)] == [4, 2, 2, 4]
    line = [sys.executable, "-m", "vgg_dist.train", *SMALL, "--storage-path", str(tmp_path), "--max-steps", str(steps)]
    alone = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    undisturbed = logged(tmp_path / "mlflow.db")
    for metric in ("train/loss", "epoch/train_loss", "val/loss"):
        # Of other images they would differ in the second digit.
        assert curves[metric] == {step: pytest.approx(undisturbed[metric][step], rel=5e-4) for step in curves[metric]}


def drain(cluster: Cluster, host: Host, deadline_s: int) -> None:
    """The notice of a cloud that takes a node away, as Ray's autoscaler passes it on."""
    ids = "{node['NodeManagerAddress']: node['NodeID'] for node in ray.nodes()}"
    node = cluster.python(f"import json, ray; ray.init(log_to_driver=False); print(json.dumps({ids}))")[host.address]
    flags = ["--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    flags += ["--address", f"{cluster.head.address}:6379", "--deadline-remaining-seconds", str(deadline_s)]
    cluster.head.run(str(BIN / "ray"), "drain-node", *flags, env=cluster.env)
