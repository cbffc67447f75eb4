"""The all-reduces of `cluster.legs`, done on a Ray cluster, for `cluster.link_verdicts` to judge."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import link
from cluster.legs import Leg, Plan, Seat, in_turns
from cluster.link_verdicts import Outcome, judge_between, judge_messages, judge_starts, judge_within, slow_links
from cluster.verdicts import Verdict

PATIENCE_S = 180.0  # for a process to start, and to import torch, on a machine that may be busy
REACH_S = 60.0  # for processes to find each other, and for an all-reduce
LINK_MB = 32
ROUNDS = 3  # in which a node must be slow to be called so


def examine_links(node_ids: Mapping[str, str], plan: Plan, settings: Mapping[str, Mapping[str, str]]) -> Iterator[Verdict]:
    """What is wrong with the ways between GPUs and nodes.

    `node_ids`: Ray's, of each node; `settings`: NCCL's variables there.
    """
    ray.cloudpickle.register_pickle_by_value(link)
    links = Links(node_ids, plan.backend)
    try:
        missing = links.start(plan.seats)
        yield from judge_starts(missing)
        plan = plan.without(missing)
        within = links.all_reduce(plan.within())
        yield from judge_within(plan, within, LINK_MB, settings)
        broken = {leg.nodes[0] for leg, outcome in within.items() if isinstance(outcome, str)}
        if everyone := plan.among_all(broken):
            among_all = links.all_reduce([everyone])[everyone]
            pairs: dict[Leg, Outcome] = {}
            if isinstance(among_all, str):
                for legs in in_turns(plan.between()):  # how long they take does not matter any more
                    pairs |= links.all_reduce(legs)
            else:
                pairs |= _time_pairs(links, plan)
            yield from judge_between(plan, pairs, everyone, among_all, LINK_MB)
            if plan.backend == "nccl":
                by_gloo: dict[Leg, Outcome] = {}
                for legs in in_turns(plan.between()):
                    by_gloo |= links.all_reduce(legs, "gloo")
                yield from judge_messages(by_gloo)
        elif not within:
            yield Verdict("network", "ok", "one process on one node; no other to reach")
    finally:
        links.end(tuple(links.actors))


def _time_pairs(links: Links, plan: Plan) -> dict[Leg, Outcome]:
    """One after the other, as they share cables; of each the best of a few, as a node may be busy for a moment."""
    pairs: dict[Leg, Outcome] = {}
    slow = set(plan.nodes)
    for _ in range(ROUNDS):
        for leg in plan.between():
            if slow & set(leg.nodes) and not isinstance(pairs.get(leg), str):
                took = links.all_reduce([leg])[leg]
                before = pairs.get(leg)
                pairs[leg] = min(took, before) if isinstance(took, float) and isinstance(before, float) else took
        slow = set(slow_links(pairs))
    return pairs


class Links:
    """The processes of a plan's seats: started once, and anew after a leg of theirs has failed."""

    def __init__(self, node_ids: Mapping[str, str], backend: str) -> None:
        self.node_ids, self.backend = node_ids, backend
        self.actors: dict[Seat, Any] = {}
        self.addresses: dict[Seat, Any] = {}

    def start(self, seats: Sequence[Seat]) -> dict[str, str]:
        """Starts those that are not there; of nodes where one does not start, why."""
        for seat in seats:
            if seat not in self.actors:
                affinity = NodeAffinitySchedulingStrategy(self.node_ids[seat.node], soft=False)
                options = {"num_cpus": 0, "num_gpus": int(seat.gpu), "scheduling_strategy": affinity}
                self.actors[seat] = ray.remote(link.Link).options(**options).remote()
        asked = {seat: self.actors[seat].address.remote() for seat in seats}
        end, missing = time.monotonic() + PATIENCE_S, {}
        for seat, answer in asked.items():
            try:
                self.addresses[seat] = ray.get(answer, timeout=max(end - time.monotonic(), 0))
            except (GetTimeoutError, RayError) as error:
                missing[seat.node] = _line(error)
        return missing

    def all_reduce(self, legs: Sequence[Leg], backend: str | None = None) -> dict[Leg, Outcome]:
        """Does these at the same time; of each the seconds of its slowest process, or in a line what went wrong.

        By the plan's backend, unless another is given.
        """
        missing = self.start([seat for leg in legs for seat in leg.seats])
        outcomes: dict[Leg, Outcome] = {}
        asked: dict[Leg, list[Any]] = {}
        for leg in legs:
            if gone := [node for node in leg.nodes if node in missing]:
                outcomes[leg] = f"no process starts on {gone[0]}: {missing[gone[0]]}"
                continue
            options = len(leg.seats), backend or self.backend, LINK_MB, REACH_S
            actors = enumerate(self.actors[seat] for seat in leg.seats)
            asked[leg] = [actor.seconds.remote(self.addresses[leg.seats[0]], rank, *options) for rank, actor in actors]
        end = time.monotonic() + PATIENCE_S
        outcomes |= {leg: _slowest(answers, end) for leg, answers in asked.items()}
        for leg, outcome in outcomes.items():
            if isinstance(outcome, str):  # they may wait for each other for ever
                self.end(leg.seats)
        return outcomes

    def end(self, seats: Sequence[Seat]) -> None:
        """Ends the processes of these seats, and so gives back their GPUs."""
        for seat in seats:
            if actor := self.actors.pop(seat, None):
                ray.kill(actor)


def _slowest(answers: Sequence[Any], end: float) -> Outcome:
    """The slowest's seconds; or what went wrong first, as the others then only wait in vain."""
    left, slowest = list(answers), 0.0
    while left:
        done, left = ray.wait(left, timeout=max(end - time.monotonic(), 0))
        try:
            answer = ray.get(done[0]) if done else f"no answer in {PATIENCE_S:.0f} s"
        except RayError as error:
            answer = _line(error)
        if isinstance(answer, str):
            return answer
        slowest = max(slowest, answer)
    return slowest


def _line(error: Exception) -> str:
    """The first line that says something; of a process that died it is in what that printed."""
    if isinstance(error, GetTimeoutError):
        return f"not within {PATIENCE_S:.0f} s"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
