"""Checks a Ray cluster before a job spends GPU hours on it.

    ray job submit -- python -m cluster doctor --data s3://bucket/imagenet --storage-path s3://bucket/runs

On every node, probes (`cluster.probes`) report software, GPUs, memory, disks and clock, and test storage, data and MLflow.
Then the GPUs, or the nodes if there are no GPUs, do all-reduces (`cluster.allreduce`). The results are judged in
`cluster.verdicts` and `cluster.allreduce_verdicts`. Exit status 1 if anything is bad.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.core.generated.common_pb2 import NodeDeathInfo
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import cluster.probes as probes
from cluster import verdicts
from cluster.allreduce import check_all_reduces
from cluster.allreduce_plan import plan_all_reduces
from cluster.allreduce_verdicts import judge_rdma
from cluster.verdicts import Verdict
from pipelines.paths import absolute
from vgg_dist.config import data_location
from vgg_dist.ray_cluster.start import start_ray
from vgg_dist.tracking import resolve_tracking_uri

TIMEOUT_S = 180.0  # for the answer of a node, which first imports torch or mlflow, perhaps on a busy machine


def examine(data: str | None, storage_path: str, tracking_uri: str | None) -> Iterator[Verdict]:
    """Yields the verdicts as they are found. `data` and MLflow are checked if they are given.

    Raises ValueError for an invalid --tracking-uri.
    """
    start_ray()
    ray.cloudpickle.register_pickle_by_value(probes)
    storage = absolute(storage_path)
    alive = {node["NodeID"]: _name(node) for node in ray.nodes() if node["Alive"]}
    folders = [storage, "/tmp"] if "://" not in storage else ["/tmp"]
    facts, unanswered = _run_on_nodes(alive, probes.inspect_node, folders)
    now = ray.nodes()
    gone = {_name(node) for node in now if not node["Alive"]}
    unanswered = {name: why for name, why in unanswered.items() if name not in gone}
    lost = [_name(node) for node in lost_nodes(now)]
    yield from verdicts.judge_nodes([name for name in alive.values() if name not in gone], lost, unanswered)
    alive = {node_id: name for node_id, name in alive.items() if name in facts}
    if not alive:
        return
    yield from verdicts.judge_versions(facts)
    gpus = {_name(node): int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["NodeID"] in alive}
    yield from verdicts.judge_gpus(facts, gpus)
    yield from judge_rdma(facts)
    yield from verdicts.judge_memory_and_disks(facts)
    yield from verdicts.judge_clocks(_offsets(alive))
    yield from _examine_storage(alive, storage)
    if data is not None:
        data = data_location(data)
        answers, unanswered = _run_on_nodes(alive, probes.read_data, data)
        answers |= {name: {"error": why} for name, why in unanswered.items()}
        yield from verdicts.judge_data(data, answers, {node: len(fact["gpus"]) for node, fact in facts.items()})
    if tracking_uri or "MLFLOW_TRACKING_URI" in os.environ:
        uri = resolve_tracking_uri(tracking_uri, storage)
        errors, unanswered = _run_on_nodes(alive, probes.reach_mlflow, uri)
        yield from verdicts.judge_tracking(uri, errors | unanswered)
    plan = plan_all_reduces(gpus, {node: len(fact["gpus"]) for node, fact in facts.items()})
    settings = {node: fact["nccl"] for node, fact in facts.items()}
    yield from check_all_reduces({name: node_id for node_id, name in alive.items()}, plan, settings)


def lost_nodes(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The dead nodes in Ray's list, without those that an autoscaler removed because they were idle."""
    idle = NodeDeathInfo.AUTOSCALER_DRAIN_IDLE
    return [node for node in nodes if not node["Alive"] and node.get("DeathReason") != idle]


def _name(node: Mapping[str, Any]) -> str:
    """The name of a node in verdicts. It includes the id, because nodes may share an address (see `cluster.local`)."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"


def _on(node_id: str) -> dict[str, Any]:
    """Ray's options for a task on exactly this node, however busy it is."""
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False), "max_retries": 0}


def _run_on_nodes(
    alive: Mapping[str, str], probe: Callable[..., Any], *arguments: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """Runs a probe on all nodes. Returns the answer by node, and for nodes without an answer the reason."""
    asked = {name: ray.remote(**_on(node_id))(probe).remote(*arguments) for node_id, name in alive.items()}
    answers, unanswered, end = {}, {}, time.monotonic() + TIMEOUT_S
    for name, answer in asked.items():
        try:
            answers[name] = ray.get(answer, timeout=max(end - time.monotonic(), 1))
        except (GetTimeoutError, RayError) as error:
            unanswered[name] = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return answers, unanswered


def _offsets(alive: Mapping[str, str]) -> dict[str, float]:
    """Seconds by which each node's clock is ahead of this process's, from the fastest of five answers."""
    offsets = {}
    for node_id, name in alive.items():
        answers = []
        for _ in range(5):
            before = time.time()
            there, _silent = _run_on_nodes({node_id: name}, probes.clock)
            after = time.time()
            answers += [(after - before, clock - (before + after) / 2) for clock in there.values()]
        if answers:
            offsets[name] = min(answers)[1]
    return offsets


def _examine_storage(alive: Mapping[str, str], storage: str) -> Iterator[Verdict]:
    marks = {name: f".doctor-{node_id[:12]}" for node_id, name in alive.items()}
    written: dict[str, str | None] = {}
    for node_id, name in alive.items():
        answers, unanswered = _run_on_nodes({node_id: name}, probes.write_marker, storage, marks[name])
        written |= answers | unanswered
    answers, unanswered = _run_on_nodes(alive, probes.read_markers, storage, list(marks.values()))
    names = {mark: name for name, mark in marks.items()}
    read = {node: {names[mark]: error for mark, error in errors.items()} for node, errors in answers.items()}
    _run_on_nodes(alive, probes.remove_markers, storage, list(marks.values()))
    yield from verdicts.judge_storage(storage, written | unanswered, read)
