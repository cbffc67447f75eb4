"""Looks over a Ray cluster before a job burns GPU hours on it.

    ray job submit -- python -m cluster doctor --data s3://bucket/imagenet --storage-path s3://bucket/runs

Every node is asked (`cluster.probes`) for its software, GPUs, room and clock; whether it reaches storage, data and MLflow,
and how fast; and their GPUs, or where there are none the nodes, do all-reduces (`cluster.links`). Exit status 1 if anything
is bad.
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
from cluster.legs import plan_legs
from cluster.link_verdicts import judge_rdma
from cluster.links import examine_links
from cluster.verdicts import Verdict
from pipelines.paths import absolute
from vgg_dist.config import data_location
from vgg_dist.ray_cluster.start import start_ray
from vgg_dist.tracking import resolve_tracking_uri

PATIENCE_S = 180.0  # for a node's answer; the first has to import torch or mlflow, on a machine that may be busy


def examine(data: str | None, storage_path: str, tracking_uri: str | None) -> Iterator[Verdict]:
    """What was found, one after the other; `data` and MLflow where they are given.

    ValueError for a --tracking-uri that cannot be.
    """
    start_ray()
    ray.cloudpickle.register_pickle_by_value(probes)
    storage = absolute(storage_path)
    alive = {node["NodeID"]: _name(node) for node in ray.nodes() if node["Alive"]}
    folders = [storage, "/tmp"] if "://" not in storage else ["/tmp"]
    facts, silent = _ask(alive, probes.look, folders)
    now = ray.nodes()
    gone = {_name(node) for node in now if not node["Alive"]}
    silent = {name: why for name, why in silent.items() if name not in gone}
    lost = [_name(node) for node in lost_nodes(now)]
    yield from verdicts.judge_nodes([name for name in alive.values() if name not in gone], lost, silent)
    alive = {node_id: name for node_id, name in alive.items() if name in facts}
    if not alive:
        return
    yield from verdicts.judge_versions(facts)
    gpus = {_name(node): int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["NodeID"] in alive}
    yield from verdicts.judge_gpus(facts, gpus)
    yield from judge_rdma(facts)
    yield from verdicts.judge_room(facts)
    yield from verdicts.judge_clocks(_offsets(alive))
    yield from _examine_storage(alive, storage)
    if data is not None:
        data = data_location(data)
        answers, silent = _ask(alive, probes.read_data, data)
        answers |= {name: {"error": why} for name, why in silent.items()}
        yield from verdicts.judge_data(data, answers, {node: len(fact["gpus"]) for node, fact in facts.items()})
    if tracking_uri or "MLFLOW_TRACKING_URI" in os.environ:
        uri = resolve_tracking_uri(tracking_uri, storage)
        errors, silent = _ask(alive, probes.reach_mlflow, uri)
        yield from verdicts.judge_tracking(uri, errors | silent)
    plan = plan_legs(gpus, {node: len(fact["gpus"]) for node, fact in facts.items()})
    settings = {node: fact["nccl"] for node, fact in facts.items()}
    yield from examine_links({name: node_id for node_id, name in alive.items()}, plan, settings)


def lost_nodes(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of Ray's list of nodes those that are gone, and that no autoscaler took away because they were idle."""
    idle = NodeDeathInfo.AUTOSCALER_DRAIN_IDLE
    return [node for node in nodes if not node["Alive"] and node.get("DeathReason") != idle]


def _name(node: Mapping[str, Any]) -> str:
    """What a node is called in the verdicts; several may share an address (see `cluster.local`)."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"


def _on(node_id: str) -> dict[str, Any]:
    """Ray's options for what is to run on this node, however busy that is."""
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False), "max_retries": 0}


def _ask(alive: Mapping[str, str], probe: Callable[..., Any], *arguments: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Each node's answer; and of those that gave none, why."""
    asked = {name: ray.remote(**_on(node_id))(probe).remote(*arguments) for node_id, name in alive.items()}
    answers, silent, end = {}, {}, time.monotonic() + PATIENCE_S
    for name, answer in asked.items():
        try:
            answers[name] = ray.get(answer, timeout=max(end - time.monotonic(), 1))
        except (GetTimeoutError, RayError) as error:
            silent[name] = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return answers, silent


def _offsets(alive: Mapping[str, str]) -> dict[str, float]:
    """By how many seconds each node's clock is ahead of this one, from the quickest of a few answers."""
    offsets = {}
    for node_id, name in alive.items():
        answers = []
        for _ in range(5):
            before = time.time()
            there, _silent = _ask({node_id: name}, probes.clock)
            after = time.time()
            answers += [(after - before, clock - (before + after) / 2) for clock in there.values()]
        if answers:
            offsets[name] = min(answers)[1]
    return offsets


def _examine_storage(alive: Mapping[str, str], storage: str) -> Iterator[Verdict]:
    marks = {name: f".doctor-{node_id[:12]}" for node_id, name in alive.items()}
    written: dict[str, str | None] = {}
    for node_id, name in alive.items():
        answers, silent = _ask({node_id: name}, probes.write_mark, storage, marks[name])
        written |= answers | silent
    answers, silent = _ask(alive, probes.read_marks, storage, list(marks.values()))
    names = {mark: name for name, mark in marks.items()}
    read = {node: {names[mark]: error for mark, error in errors.items()} for node, errors in answers.items()}
    _ask(alive, probes.remove_marks, storage, list(marks.values()))
    yield from verdicts.judge_storage(storage, written | silent, read)
