"""Runs the all-reduces of `cluster.allreduce_plan` on a Ray cluster; `cluster.allreduce_verdicts` judges the results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import allreduce_worker
from cluster.allreduce_plan import Group, Member, Plan, disjoint_batches
from cluster.allreduce_verdicts import Outcome, judge_between, judge_messages, judge_starts, judge_within
from cluster.verdicts import Verdict

GPU_TIMEOUT_S = 180.0  # for a process to get the GPU that it reserves; after that, another job probably holds it
START_TIMEOUT_S = 600.0  # for a process to start and to import torch: a busy machine may take minutes
ALL_REDUCE_TIMEOUT_S = 60.0  # for processes to connect, and for an all-reduce
ANSWER_TIMEOUT_S = 180.0  # for the answer after that: a process that blocks for good is given up
MEGABYTES = 32
ROUNDS = 3  # of timing pairs of nodes; the best counts


def check_all_reduces(
    node_ids: Mapping[str, str], plan: Plan, settings: Mapping[str, Mapping[str, str]]
) -> Iterator[Verdict]:
    """Yields the verdicts on the connections between GPUs and between nodes.

    `node_ids`: node name -> Ray's node id. `settings`: NCCL's environment variables by node.
    """
    ray.cloudpickle.register_pickle_by_value(allreduce_worker)
    pool = AllReducePool(node_ids, plan.backend)
    try:
        missing = pool.start(plan.members)
        yield from judge_starts(missing)
        plan = plan.without(missing)
        within = pool.all_reduce(plan.within())
        yield from judge_within(plan, within, MEGABYTES, settings)
        broken = {group.nodes[0] for group, outcome in within.items() if isinstance(outcome, str)}
        if everyone := plan.among_all(broken):
            among_all = pool.all_reduce([everyone])[everyone]
            pairs: dict[Group, Outcome] = {}
            if isinstance(among_all, str):
                for groups in disjoint_batches(plan.between()):  # times do not matter after a failure, so they may overlap
                    pairs |= pool.all_reduce(groups)
            else:
                pairs |= time_pairs(pool, plan)
            yield from judge_between(plan, pairs, everyone, among_all, MEGABYTES)
            if plan.backend == "nccl":
                by_gloo: dict[Group, Outcome] = {}
                for groups in disjoint_batches(plan.between()):
                    by_gloo |= pool.all_reduce(groups, "gloo")
                yield from judge_messages(by_gloo)
        elif len(plan.members) == 1 and not missing:
            yield Verdict("network", "ok", "one process on one node; there is nothing to connect")
    finally:
        pool.end(tuple(pool.actors))


def time_pairs(pool: AllReducePool, plan: Plan) -> dict[Group, Outcome]:
    """Times the pairs one after the other, because they share cables, in several rounds, of which each pair's best counts.

    A node that is busy for a moment is then not blamed, and does not make another's slow cable look usual.
    """
    pairs: dict[Group, Outcome] = {}
    for _ in range(ROUNDS):
        for group in plan.between():
            before = pairs.get(group, float("inf"))
            if isinstance(before, float):
                took = pool.all_reduce([group])[group]
                pairs[group] = min(took, before) if isinstance(took, float) else took
    return pairs


class AllReducePool:
    """The processes of a plan: each is started once, and again after an all-reduce that it was in has failed."""

    def __init__(self, node_ids: Mapping[str, str], backend: str) -> None:
        self.node_ids, self.backend = node_ids, backend
        self.actors: dict[Member, Any] = {}
        self.addresses: dict[Member, Any] = {}

    def start(self, members: Sequence[Member]) -> dict[str, str]:
        """Starts the processes that are not running. Returns node -> reason for nodes where one does not start."""
        for member in members:
            if member not in self.actors:
                affinity = NodeAffinitySchedulingStrategy(self.node_ids[member.node], soft=False)
                options = {"num_cpus": 0, "num_gpus": int(member.gpu), "scheduling_strategy": affinity}
                self.actors[member] = ray.remote(allreduce_worker.AllReduceWorker).options(**options).remote()
        gpus = {member: self.actors[member].has_started.remote() for member in members if member.gpu}
        _, without = _answers(gpus, GPU_TIMEOUT_S)
        asked = {member: self.actors[member].address.remote() for member in members if member not in without}
        addresses, silent = _answers(asked, START_TIMEOUT_S)
        self.addresses |= addresses
        return {member.node: why for member, why in (without | silent).items()}

    def all_reduce(self, groups: Sequence[Group], backend: str | None = None) -> dict[Group, Outcome]:
        """Runs the all-reduces of these groups at the same time, with the plan's backend unless another is given.

        The outcome of a group is the time of its slowest process, or the error in one line.
        """
        missing = self.start([member for group in groups for member in group.members])
        outcomes: dict[Group, Outcome] = {}
        asked: dict[Group, list[Any]] = {}
        for group in groups:
            if gone := [node for node in group.nodes if node in missing]:
                outcomes[group] = f"no process starts on {gone[0]}: {missing[gone[0]]}"
                continue
            options = len(group.members), backend or self.backend, MEGABYTES, ALL_REDUCE_TIMEOUT_S
            actors = enumerate(self.actors[member] for member in group.members)
            asked[group] = [actor.seconds.remote(self.addresses[group.members[0]], rank, *options) for rank, actor in actors]
        end = time.monotonic() + ANSWER_TIMEOUT_S
        outcomes |= {group: _slowest(answers, end) for group, answers in asked.items()}
        for group, outcome in outcomes.items():
            if isinstance(outcome, str):  # its processes may block forever
                self.end(group.members)
        return outcomes

    def end(self, members: Sequence[Member]) -> None:
        """Ends the processes of these members, which releases their GPUs."""
        for member in members:
            if actor := self.actors.pop(member, None):
                ray.kill(actor)


def _answers(asked: Mapping[Member, Any], timeout_s: float) -> tuple[dict[Member, Any], dict[Member, str]]:
    """The answers that arrive in time, and for members without an answer the reason."""
    answers, silent, end = {}, {}, time.monotonic() + timeout_s
    for member, answer in asked.items():
        try:
            answers[member] = ray.get(answer, timeout=max(end - time.monotonic(), 0))
        except GetTimeoutError:
            silent[member] = f"not within {timeout_s:.0f} s"
        except RayError as error:
            silent[member] = _line(error)
    return answers, silent


def _slowest(answers: Sequence[Any], end: float) -> Outcome:
    """The time of the slowest process; or the first error, after which the others would only time out."""
    left, slowest = list(answers), 0.0
    while left:
        done, left = ray.wait(left, timeout=max(end - time.monotonic(), 0))
        try:
            answer = ray.get(done[0]) if done else f"no answer in {ANSWER_TIMEOUT_S:.0f} s"
        except RayError as error:
            answer = _line(error)
        if isinstance(answer, str):
            return answer
        slowest = max(slowest, answer)
    return slowest


def _line(error: Exception) -> str:
    """The first line of an error. For a process that died, Ray puts there what happened."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
