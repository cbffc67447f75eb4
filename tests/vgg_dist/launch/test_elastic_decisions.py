"""How many workers an elastic training has, and which failures count: Ray's policies on nodes of the test's own."""

from __future__ import annotations

import os
import pickle
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import FailureConfig, ScalingConfig, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision
from ray.train.v2._internal.execution.worker_group.poll import WorkerGroupPollStatus, WorkerStatus

from vgg_dist.launch import elastic, group_watch
from vgg_dist.launch.elastic import NodeFollower
from vgg_dist.launch.group_watch import GroupWatch
from vgg_dist.ray_cluster.stacks import Process, dump
from vgg_dist.worker.leaving import LeftGroup


class Cluster:
    """Nodes of two CPUs by letter: alive, draining or dead; and the clock of Ray's policy."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alive, self.draining, self.reserved = set("abc"), set[str](), set("abc")
        self.now, self.said, self.left, self.trains = 1000.0, list[str](), list[str](), True
        state = SimpleNamespace(get_draining_nodes=lambda: dict.fromkeys(self.draining, 0))
        monkeypatch.setattr(elastic.ray._private.state, "state", state)
        monkeypatch.setattr(elastic.ray, "nodes", self.nodes)
        monkeypatch.setattr(elastic.time, "sleep", lambda seconds: None)
        monkeypatch.setattr(elastic.time, "monotonic", lambda: self.now)
        monkeypatch.setattr("ray.train.v2._internal.execution.scaling_policy.elastic.time_monotonic", lambda: self.now)
        monkeypatch.setattr(elastic, "ask_to_leave", self.leave)
        monkeypatch.setattr(NodeFollower, "_say", lambda policy, text: self.said.append(text))
        monkeypatch.setattr(NodeFollower, "_maybe_send_resource_request", lambda policy: None)
        monkeypatch.setattr(NodeFollower, "_get_reserved_resources", lambda policy: self.reservation(policy))

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": node, "Alive": node in self.alive} for node in "abcdef"]

    def reservation(self, policy: NodeFollower) -> dict[str, dict[str, float]]:
        policy._latest_reserved_resources = {node: {"CPU": 2.0} for node in self.reserved}
        return policy._latest_reserved_resources

    def leave(self, run: str) -> bool:
        self.left += [run] * self.trains
        return self.trains


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def follower() -> NodeFollower:
    config = ScalingConfig(num_workers=(4, 8), resources_per_worker={"CPU": 1}, elastic_resize_monitor_interval_s=15)
    return NodeFollower(config, "run", "")


def started(policy: NodeFollower) -> int:
    decision = policy.make_decision_for_non_running_worker_group()
    return decision.num_workers if isinstance(decision, ResizeDecision) else 0


def test_starts_with_the_nodes_that_are_there_and_stay(cluster: Cluster) -> None:
    policy = follower()
    assert started(policy) == 6
    cluster.draining = {"b"}
    assert started(policy) == 4
    cluster.draining, cluster.alive, cluster.reserved = {"b"}, set("bcde"), set("bcde")
    assert started(policy) == 6
    cluster.draining = set("bcd")
    assert (started(policy), started(policy)) == (0, 0)
    assert cluster.said == ["waits for 4 workers: the cluster has room for 2"], "once in a while only"


def test_a_group_is_asked_to_leave_where_more_workers_fit(cluster: Cluster) -> None:
    policy, group = follower(), SimpleNamespace(start_time=cluster.now, num_workers=4)

    def decided(seconds: float) -> Any:
        cluster.now += seconds
        return policy.make_decision_for_running_worker_group(group, None)

    cluster.draining = {"c"}
    assert isinstance(decided(60), NoopDecision)
    assert cluster.left == []
    cluster.draining, cluster.trains = set(), False
    assert isinstance(decided(60), NoopDecision)
    assert cluster.left == [], "its workers are still being set up"
    cluster.trains = True
    assert isinstance(decided(10), NoopDecision)
    assert cluster.left == [], "not so soon again"
    assert isinstance(decided(10), NoopDecision)
    assert cluster.left == ["run"]
    assert cluster.said == ["room for 6 workers, not 4: restarts with them"]
    assert isinstance(decided(100), NoopDecision)
    assert decided(30).num_workers == 6, "it has not left: it is ended"
    assert cluster.left == ["run"]


def test_a_running_group_is_never_made_smaller(cluster: Cluster) -> None:
    """Ray's reservation is on a node that is taken away, while the group is on others."""
    policy, group = follower(), SimpleNamespace(start_time=0.0, num_workers=6)
    cluster.draining = {"b"}
    assert isinstance(policy.make_decision_for_running_worker_group(group, None), NoopDecision)


class Raylet:
    """What `ray.nodes()` says of a node whose raylet listens, until it is lost."""

    def __init__(self, node: str) -> None:
        self.node, self.alive = node, True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def described(self) -> dict[str, Any]:
        return {"NodeID": self.node, "Alive": self.alive, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": self.port}


Charged = Callable[..., FailureDecision]


@pytest.fixture
def charged(monkeypatch: pytest.MonkeyPatch) -> Charged:
    """What Ray's policy decides with --max-failures 0 after a worker's error; whether the other worker's node was lost."""

    def charged(lost: bool, error: Exception, is_elastic: bool = True) -> FailureDecision:
        raylets = [Raylet("a"), Raylet("b")]
        if lost:
            raylets[1].listener.close()

        def slept(seconds: float) -> None:
            raylets[1].alive = not lost  # Ray notices it later

        monkeypatch.setattr(group_watch.ray, "nodes", lambda: [raylet.described() for raylet in raylets])
        monkeypatch.setattr(group_watch.time, "sleep", slept)
        lines: Any = SimpleNamespace(send=lambda lines: None)
        watch = GroupWatch("run", "/nowhere", lines, is_elastic=is_elastic)
        places = [SimpleNamespace(node_id=node, node_ip=f"10.0.0.{node}", pid=1) for node in "ab"]
        workers = [SimpleNamespace(metadata=place) for place in places]
        watch.after_worker_group_start(SimpleNamespace(get_workers=lambda: workers))
        status = WorkerGroupPollStatus({0: WorkerStatus(True, error), 1: WorkerStatus(True)})
        watch.after_worker_group_poll_status(status)
        for raylet in raylets:
            raylet.listener.close()
        failure = status.get_worker_group_error()
        return DefaultFailurePolicy(FailureConfig(max_failures=0)).make_decision(failure)

    return charged


def test_a_lost_node_is_not_counted_by_max_failures_and_a_failed_worker_is(charged: Charged) -> None:
    reset = RuntimeError("Connection reset by peer")
    assert charged(True, reset) == FailureDecision.RETRY
    assert charged(True, WorkerHealthCheckFailedError("dead", failure=reset)) == FailureDecision.RETRY
    assert charged(True, WorkerHealthCheckTimeoutError("hanging")) == FailureDecision.RETRY, "cut off, it does not answer"
    assert charged(False, reset) == FailureDecision.RAISE
    assert charged(True, reset, is_elastic=False) == FailureDecision.RAISE


def test_workers_that_left_are_not_counted_wherever_their_error_went() -> None:
    left = pickle.loads(pickle.dumps(LeftGroup("left at step 3")))
    assert str(left) == "left at step 3"
    policy = DefaultFailurePolicy(FailureConfig(max_failures=0))
    for _ in range(5):
        failure = WorkerGroupError("left", worker_failures={0: left, 1: RuntimeError("Connection reset by peer")})
        assert policy.make_decision(failure) == FailureDecision.RETRY


@pytest.mark.parametrize("hangs", [True, False])
def test_stacks_are_kept_where_a_worker_does_not_answer_or_the_others_waited_in_vain(
    hangs: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended: list[Process] = []

    def dump_and_end(workers: Sequence[Process], end: Sequence[Process]) -> list[str]:
        ended.extend(end)
        return [f"stack of {worker.pid}" for worker in workers]

    monkeypatch.setattr(group_watch, "dump_and_end", dump_and_end)
    monkeypatch.setattr(GroupWatch, "_lost_nodes", lambda watch: "")
    said: list[str] = []
    lines: Any = SimpleNamespace(send=lambda sent: said.extend(line.text for line in sent))
    watch = GroupWatch("run", str(tmp_path), lines, "run  ")
    places = [SimpleNamespace(node_id=node, node_ip=f"10.0.0.{node}", pid=7) for node in "ab"]  # the same pid on two hosts
    workers = [SimpleNamespace(metadata=place) for place in places]
    watch.after_worker_group_start(SimpleNamespace(get_workers=lambda: workers))
    gloo = RuntimeError("Timed out waiting 900000ms for recv operation to complete")
    error = WorkerHealthCheckTimeoutError("hanging") if hangs else gloo
    status = WorkerGroupPollStatus({0: WorkerStatus(True), 1: WorkerStatus(True, error)})
    for _ in range(2):
        watch.after_worker_group_poll_status(status)
    [folder] = (tmp_path / "hangs").iterdir()
    assert [(folder / f"worker-{rank}.txt").read_text() for rank in range(2)] == ["stack of 7"] * 2
    assert ended == [Process("b", "10.0.0.b", 7)] * hangs
    what = "worker 1 on 10.0.0.b did not answer and was killed" if hangs else "the workers waited too long for each other"
    assert said == [f"run  {what}; the stacks of all workers are in {folder}"]
    assert DefaultFailurePolicy(FailureConfig(max_failures=0)).make_decision(status.get_worker_group_error()) == (
        FailureDecision.RAISE
    ), "a hang is a failure"


def test_the_stack_of_a_stopped_process_is_read() -> None:
    code = "import os, signal\ndef stuck():\n os.kill(os.getpid(), signal.SIGSTOP)\nstuck()"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        found = dump(process.pid)
        assert "State:\tT (stopped)" in found
        assert re.search(r"^ +stuck \(<string>:3\)$", found, re.MULTILINE), found
    finally:
        process.kill()
        process.wait()
    assert "py-spy: " in dump(process.pid), "why there is no stack"
