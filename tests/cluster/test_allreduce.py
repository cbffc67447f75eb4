"""The all-reduces of `doctor`: how they are planned and judged, and some that real processes run."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from support.paths import ROOT

from cluster.allreduce import AllReducePool, time_pairs
from cluster.allreduce_plan import Group, Member, Plan, disjoint_batches, plan_all_reduces
from cluster.allreduce_verdicts import (
    BETWEEN,
    WITHIN,
    Outcome,
    judge_between,
    judge_messages,
    judge_starts,
    judge_within,
    slow_nodes,
)
from cluster.allreduce_worker import AllReduceWorker
from cluster.verdicts import Verdict


def told(groups: list[Group]) -> list[str]:
    return [str(group) for group in groups]


def bad(found: list[Verdict]) -> list[str]:
    return [f"{verdict.level}: {verdict.message}" for verdict in found if verdict.level != "ok"]


def test_a_head_without_gpus_does_not_turn_nccl_off() -> None:
    plan = plan_all_reduces({"head": 0, "a": 8, "b": 8}, {"head": 0, "a": 8, "b": 8})
    assert plan.backend == "nccl"
    assert plan.nodes == ("a", "b")
    assert told(plan.within()) == ["within a", "within b"]
    assert [len(group.members) for group in plan.within()] == [8, 8]
    assert told(plan.between()) == ["between a and b"]
    everyone = plan.among_all()
    assert everyone is not None
    assert str(everyone) == "among all, 16 processes on 2 nodes"
    assert all(member.gpu for member in plan.members)


@pytest.mark.parametrize("gpus", range(1, 5))
@pytest.mark.parametrize("nodes", range(1, 6))
def test_every_gpu_and_every_node_is_in_a_leg(nodes: int, gpus: int) -> None:
    names = [f"n{number}" for number in range(nodes)]
    plan = plan_all_reduces(dict.fromkeys(names, gpus), dict.fromkeys(names, gpus))
    assert len(set(plan.members)) == nodes * gpus
    assert len(plan.within()) == (nodes if gpus > 1 else 0)
    # A ring: each node is paired with two others if there are enough nodes, and never twice with the same one.
    neighbours = [frozenset(group.nodes) for group in plan.between()]
    assert len(set(neighbours)) == len(neighbours) == {1: 0, 2: 1}.get(nodes, nodes)
    for name in names:
        assert sum(name in pair for pair in neighbours) == min(nodes - 1, 2)
    everyone = plan.among_all()
    assert (everyone is None) == (nodes == 1)
    assert everyone is None or set(everyone.members) == set(plan.members)
    turns = list(disjoint_batches(plan.between()))
    assert sorted(told(list(itertools.chain(*turns)))) == sorted(told(plan.between()))
    assert len(turns) <= 3
    for turn in turns:
        members = [member for group in turn for member in group.members]
        assert len(set(members)) == len(members)


def test_only_gpus_that_ray_and_the_driver_have_take_part() -> None:
    # b's driver shows no GPUs, and Ray counts fewer on c: the verdict on GPUs reports that, and the others are still tested.
    plan = plan_all_reduces({"a": 2, "b": 2, "c": 1}, {"a": 2, "b": 0, "c": 8})
    assert plan == Plan("nccl", (Member("a", 0, True), Member("a", 1, True), Member("c", 0, True)))


def test_without_gpus_all_nodes_do_one_by_gloo() -> None:
    plan = plan_all_reduces(dict.fromkeys("abc", 0), dict.fromkeys("abc", 0))
    assert plan == Plan("gloo", tuple(Member(node, 0, False) for node in "abc"))
    assert plan.within() == []


def test_gpus_that_no_driver_shows_are_reserved_and_not_used() -> None:
    plan = plan_all_reduces({"head": 0, "a": 2}, {"head": 0, "a": 0})
    assert plan == Plan("gloo", (Member("head", 0, False), Member("a", 0, True), Member("a", 1, True)))


def test_nodes_where_nothing_starts_are_left_out() -> None:
    plan = plan_all_reduces(dict.fromkeys("abc", 2), dict.fromkeys("abc", 2)).without({"b"})
    assert told(plan.within()) == ["within a", "within c"]
    assert told(plan.between()) == ["between a and c"]
    assert plan.without({"a", "c"}).between() == [] == plan.without({"a", "c"}).within()
    [found] = judge_starts({"b": "not within 180 s"})
    assert bad([found]) == ["bad: b: the processes for all-reduces do not start: not within 180 s"]
    assert "another job holds its GPUs" in found.fix


CHECK = """
import ray
from cluster import allreduce
from cluster.allreduce_plan import Member, Plan
ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False)
@ray.remote(num_gpus=1, num_cpus=0)
class Job:
    def runs(self): pass
job = Job.remote()
ray.get(job.runs.remote())
allreduce.GPU_TIMEOUT_S = 3
for gpu in (False, True):
    for verdict in allreduce.check_all_reduces({"a": ray.nodes()[0]["NodeID"]}, Plan("gloo", (Member("a", 0, gpu),)), {}):
        print(verdict.level, verdict.message)
"""


@pytest.mark.ray
def test_a_gpu_that_a_job_holds_is_not_waited_for_long() -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CHECK], env=env, capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout.splitlines() == [
        "ok one process on one node; there is nothing to connect",
        "bad a: the processes for all-reduces do not start: not within 3 s",
    ]


def test_of_a_node_that_is_broken_within_one_process_stands_for_it() -> None:
    plan = plan_all_reduces(dict.fromkeys("abc", 4), dict.fromkeys("abc", 4))
    everyone = plan.among_all({"b"})
    assert everyone is not None
    assert [member.node for member in everyone.members] == list("aaaabcccc")


GPUS = plan_all_reduces(dict.fromkeys("abc", 8), dict.fromkeys("abc", 8))
EVERYONE = GPUS.among_all()
assert EVERYONE is not None


def test_a_failing_leg_within_a_node_is_named_with_its_fix() -> None:
    outcomes: dict[Group, Outcome] = dict.fromkeys(GPUS.within(), 0.001)
    assert bad(judge_within(GPUS, outcomes, 32, {})) == []
    outcomes[GPUS.within()[1]] = "No space left on device (28)"
    found = judge_within(GPUS, outcomes, 32, {"b": {"NCCL_P2P_DISABLE": "1"}})
    assert bad(found) == [
        "bad: within b: no all-reduce between its 8 GPUs (NCCL_P2P_DISABLE=1 is set): No space left on device (28)"
    ]
    assert found[0].fix == WITHIN
    assert all(word in WITHIN for word in ("--shm-size", "/dev/shm", "NCCL_P2P_DISABLE", "one pod with all GPUs"))


def test_gpus_of_a_node_that_use_sockets_are_told() -> None:
    outcomes: dict[Group, Outcome] = dict.fromkeys(GPUS.within(), 0.001)
    outcomes[GPUS.within()[2]] = 0.032
    assert bad(judge_within(GPUS, outcomes, 32, {})) == [
        "warn: within c: 1000 MB/s between its 8 GPUs, about the speed of sockets"
    ]
    # On CPUs this speed is normal.
    cpus = plan_all_reduces({"a": 2}, {"a": 0})
    assert bad(judge_within(cpus, {cpus.within()[0]: 0.032}, 32, {})) == []


@pytest.mark.parametrize("backend", ["nccl", "gloo"])
def test_a_failing_pair_is_named_and_not_the_rest(backend: str) -> None:
    plan = GPUS if backend == "nccl" else plan_all_reduces(dict.fromkeys("abc", 0), dict.fromkeys("abc", 0))
    everyone = plan.among_all()
    assert everyone is not None
    pairs: dict[Group, Outcome] = dict.fromkeys(plan.between(), 0.01)
    pairs[plan.between()[1]] = "connection refused"
    found = judge_between(plan, pairs, everyone, "timed out", 32)
    assert bad(found) == [f"bad: between b and c: no all-reduce with {backend.upper()}: connection refused"]
    assert found[0].fix == BETWEEN[backend]


def test_where_only_all_together_fail_that_is_said() -> None:
    found = judge_between(GPUS, dict.fromkeys(GPUS.between(), 0.01), EVERYONE, "unhandled system error", 32)
    assert bad(found) == ["bad: among all, 24 processes on 3 nodes: no all-reduce with NCCL: unhandled system error"]
    assert all(word in found[0].fix for word in ("NCCL_SOCKET_IFNAME", "RDMA"))


def test_gpu_nodes_must_reach_each_other_by_gloo_too() -> None:
    first, *others = plan_all_reduces({"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}).between()
    fine = dict.fromkeys([first, *others], 0.1)
    assert [verdict.level for verdict in judge_messages(fine)] == ["ok"]
    (verdict,) = judge_messages(fine | {first: "Connection refused"})
    assert (verdict.level, "between a and b" in verdict.message) == ("bad", True)
    assert "GLOO_SOCKET_IFNAME" in verdict.fix


def test_a_slow_node_is_named_not_its_neighbours() -> None:
    ab, bc, ca = GPUS.between()
    pairs: dict[Group, Outcome] = {ab: 0.01, bc: 0.2, ca: 0.2}
    assert slow_nodes(pairs) == {"c": 0.01}
    found = judge_between(GPUS, pairs, EVERYONE, 0.2, 32)
    assert bad(found) == ["bad: c: 160 MB/s, others 3200 MB/s"]


class Timed(AllReducePool):
    """A pool whose pairs take the given seconds, one after the other."""

    def __init__(self, seconds: dict[Group, list[Outcome]]) -> None:
        self.left = {group: iter(times) for group, times in seconds.items()}

    def all_reduce(self, groups: Sequence[Group], backend: str | None = None) -> dict[Group, Outcome]:
        return {group: next(self.left[group]) for group in groups}


def test_a_busy_moment_neither_blames_a_node_nor_hides_a_slow_one() -> None:
    ab, bc, ca = GPUS.between()
    busy = time_pairs(Timed({ab: [0.01, 0.01, 0.01], bc: [0.2, 0.01, 0.2], ca: [0.2, 0.2, 0.01]}), GPUS)
    assert slow_nodes(busy) == {}
    hidden = time_pairs(Timed({ab: [0.1, 0.1, 0.01], bc: [0.2, 0.2, 0.2], ca: [0.2, 0.2, 0.2]}), GPUS)
    assert slow_nodes(hidden) == {"c": 0.01}


def test_a_pair_that_fails_once_is_not_tried_again() -> None:
    ab, bc, ca = GPUS.between()
    assert time_pairs(Timed({ab: [0.01, "reset"], bc: [0.2, 0.3, 0.1], ca: ["timed out"]}), GPUS) == {
        ab: "reset",
        bc: 0.1,
        ca: "timed out",
    }


def test_a_slow_network_is_told_in_seconds_of_a_step() -> None:
    [found] = judge_between(GPUS, dict.fromkeys(GPUS.between(), 1.0), EVERYONE, 1.0, 32)
    assert found.level == "warn"
    assert "configuration E's gradients take 18.0 s per step" in found.message  # 574.7 MB at 32 MB/s


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> ProcessPoolExecutor:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_two_processes_take_the_time_and_one_alone_says_that_nobody_came(processes: ProcessPoolExecutor) -> None:
    """Runs the nodes' code on this machine, with gloo; with NCCL if there are GPUs."""
    with processes:
        address = ("127.0.0.1", free_port())
        took = [processes.submit(AllReduceWorker().seconds, address, rank, 2, "gloo", 1, 60.0) for rank in range(2)]
        assert all(0 < float(answer.result(120)) < 60 for answer in took)
        alone = processes.submit(AllReduceWorker().seconds, ("127.0.0.1", free_port()), 0, 2, "gloo", 1, 1.0)
        assert "1/2 clients joined" in str(alone.result(120))


@pytest.mark.gpu
def test_gpus_of_this_machine_do_one_by_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process per GPU, which sees only that GPU, as in Ray. With a single GPU this only tests that NCCL starts."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    context, address = multiprocessing.get_context("spawn"), ("127.0.0.1", free_port())
    with contextlib.ExitStack() as stack:
        pools = []
        for device in visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", device)
            pools.append(stack.enter_context(ProcessPoolExecutor(1, context)))
            pools[-1].submit(int).result(60)  # starts the process, with this environment
        asked = [
            pool.submit(AllReduceWorker().seconds, address, rank, count, "nccl", 32, 60.0) for rank, pool in enumerate(pools)
        ]
        took = [answer.result(180) for answer in asked]
    assert all(isinstance(seconds, float) and 0 < seconds < 60 for seconds in took), took
