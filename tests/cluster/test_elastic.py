"""Trainings whose nodes are lost, join, are preempted, or have a worker that hangs: on hosts of their own (see hosts.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.host_cluster import BIN, Cluster, on_hosts, opened
from support.hosts import Host
from support.mlflow_server import wait_for

pytestmark = on_hosts
# 240 steps in twelve epochs; checkpoints at the end of epochs only. Its net has no dropout, whose masks depend on the rank.
SMALL = """
    --arch A --head linear --image-size 32 --data synthetic:train=320,val=16,size=40 --global-batch 16 --micro-batch 4
    --lr 0.002 --precision fp32 --log-every 1 --epochs 12 --checkpoint-every 1000 --max-failures 0
""".split()  # noqa: SIM905
STEPS = list(range(1, 241))
Curves = dict[str, list[tuple[int, float]]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with opened(5) as cluster:
        cluster.env["MLFLOW_TRACKING_URI"] = f"sqlite:///{cluster.head.folder}/mlflow.db"
        cluster.env["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = "10"
        for host in cluster.network.hosts:
            cluster.start_ray(host)
        yield cluster


class Training:
    """A job, submitted from the head."""

    def __init__(self, cluster: Cluster, name: str, *flags: str) -> None:
        self.cluster, self.name = cluster, name
        self.folder = cluster.head.folder / "runs" / name
        self.job = cluster.submit(*SMALL, "--storage-path", str(self.folder.parent), "--name", name, *flags)

    def await_text(self, text: str) -> str:
        """Waits for a line; the log."""
        wait_for(lambda: self.job.poll() is not None or re.search(text, self.cluster.log()) is not None)
        assert re.search(text, self.cluster.log()), self.cluster.log()
        return self.cluster.log()

    def await_step(self, step: int) -> None:
        self.await_text(f"step +{step} ")

    def finish(self) -> tuple[str, Curves]:
        """The log and what MLflow has, once the job is done."""
        assert self.job.wait(600) == 0, self.cluster.log()
        __import__("shutil").copy(self.cluster.head.folder / "job.log", f"/tmp/el-{self.name}.log")
        return self.cluster.log(), self.cluster.logged(self.name)


def resumed_at(log: str) -> list[tuple[int, int]]:
    """Step and number of workers of each group but the first."""
    return [(int(step), int(workers)) for step, workers in re.findall(r"resumes from step (\d+) .* on (\d) workers", log)]


def assert_same(curves: Curves, whole: Curves) -> None:
    """Every step is there once, and of the same images: at another order the losses differ in the first digit."""
    assert [step for step, _ in curves["train/loss"]] == STEPS
    for metric in ("train/loss", "epoch/train_loss", "val/loss"):
        assert [step for step, _ in curves[metric]] == [step for step, _ in whole[metric]]
        assert [value for _, value in curves[metric]] == pytest.approx([value for _, value in whole[metric]], rel=1e-3)


@pytest.fixture(scope="module")
def whole(cluster: Cluster) -> Curves:
    _, curves = Training(cluster, "whole", "--num-workers", "4").finish()
    return curves


def test_workers_follow_the_nodes_from_four_to_two_to_four(cluster: Cluster, whole: Curves) -> None:
    training = Training(cluster, "elastic", "--num-workers", "2:4")
    training.await_step(23)
    for host in cluster.workers[2:]:
        host.lose()
    log = training.await_text("resumes from step 20 .* on 2 workers")
    assert "is not counted by --max-failures" in log
    cluster.workers[2:] = [cluster.network.add() for _ in range(2)]
    for host in cluster.workers[2:]:
        cluster.start_ray(host)
    log, curves = training.finish()
    assert [workers for _, workers in resumed_at(log)] == [2, 4]
    sizes = [size for _, size in curves["world_size"]]
    grown = resumed_at(log)[1][0]
    assert sizes == [4.0] * 20 + [2.0] * (grown - 20) + [4.0] * (240 - grown)
    assert_same(curves, whole)


def test_a_preempted_node_costs_no_step_and_a_hanging_worker_is_replaced(cluster: Cluster, whole: Curves) -> None:
    training = Training(cluster, "disturbed", "--num-workers", "2:4", "--max-failures", "1")
    training.await_step(5)
    preempted = cluster.workers.pop()
    drain(cluster, preempted, deadline_s=60)
    log = training.await_text("resumes from step .* on 3 workers")
    [(left, _)] = resumed_at(log)
    steps = [int(step) for step in re.findall(r"step +(\d+)  epoch", log)]
    assert left == max(steps), "no step is trained twice"
    training.await_step(left + 3)
    preempted.lose()

    hanging = cluster.workers[0]
    hanging.run("pkill", "-STOP", "-f", "RayTrainWorker")
    log = training.await_text(r"worker \d on \S+ did not answer and was killed")
    rank = re.search(rf"worker (\d) on {hanging.address} did not answer", log)[1]
    log, curves = training.finish()
    [folder] = Path(training.folder, "hangs").iterdir()
    stacks = {path.name: path.read_text() for path in folder.iterdir()}
    assert sorted(stacks) == [f"worker-{each}.txt" for each in range(3)]
    assert "T (stopped)" in stacks[f"worker-{rank}.txt"]
    assert all("Thread" in text for text in stacks.values()), stacks
    assert [workers for _, workers in resumed_at(log)] == [3, 3]
    assert_same(curves, whole)


def drain(cluster: Cluster, host: Host, deadline_s: int) -> None:
    """The notice of a cloud that takes a node away, as Ray's autoscaler passes it on."""
    ids = "{node['NodeManagerAddress']: node['NodeID'] for node in ray.nodes()}"
    node = cluster.python(f"import json, ray; ray.init(log_to_driver=False); print(json.dumps({ids}))")[host.address]
    flags = ["--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    cluster.head.run(
        str(BIN / "ray"), "drain-node", "--address", f"{cluster.head.address}:6379", *flags,
        "--deadline-remaining-seconds", str(deadline_s), env=cluster.env,
    )  # fmt: skip
