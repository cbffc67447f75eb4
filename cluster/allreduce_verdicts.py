"""Judges the all-reduces of `cluster.allreduce`: problems between GPUs and between nodes, one verdict each, with a fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from cluster.allreduce_plan import Group, Plan
from cluster.verdicts import Facts, Verdict

Outcome: TypeAlias = float | str
"""The result of an all-reduce: seconds, or an error message."""
E_BYTES = 143_667_240 * 4  # configuration E's gradients
SLOW_STEP_S = 2.0  # a longer all-reduce of these gradients is worth a warning
SLOW_NODE = 3.0  # times the median of all nodes
# Below this, GPUs of a node probably use sockets. Estimated, not measured: PCIe and shared memory give some GB/s, NVLink 100
# GB/s.
SOCKET_MB_S = 2000
WITHIN = (
    "at least 1 GiB of shared memory (docker run --shm-size; an emptyDir of medium Memory at /dev/shm); one pod with all "
    "GPUs of the node, not one per GPU; unset NCCL_P2P_DISABLE and NCCL_SHM_DISABLE; NCCL_DEBUG=INFO shows what NCCL uses"
)
BETWEEN = {
    "gloo": "open the firewall between nodes (all ports); set GLOO_SOCKET_IFNAME if there are several networks",
    "nccl": "open the firewall between nodes (all ports); set NCCL_SOCKET_IFNAME if there are several networks; with RDMA, "
    "check the pod's device, its locked-memory limit and NCCL_IB_HCA; NCCL_IB_DISABLE=1 shows whether it works without RDMA",
}


def judge_starts(missing: Mapping[str, str]) -> list[Verdict]:
    """Nodes on which a process did not start (`missing`: node -> reason), for example for lack of a free GPU."""
    fix = "another job holds its GPUs, or the node is too busy: wait, or stop that job (ray job list, ray job stop)"
    return [
        Verdict("network", "bad", f"{node}: the processes for all-reduces do not start: {why}", fix)
        for node, why in missing.items()
    ]


def judge_within(
    plan: Plan, outcomes: Mapping[Group, Outcome], megabytes: int, settings: Mapping[str, Mapping[str, str]]
) -> list[Verdict]:
    """All-reduces of `megabytes` between the processes of each node. `settings`: NCCL's environment variables by node."""
    found: list[Verdict] = []
    fix = WITHIN if plan.backend == "nccl" else BETWEEN["gloo"]
    kind = "GPUs" if plan.backend == "nccl" else "processes"
    for group, outcome in outcomes.items():
        known = ", ".join(f"{name}={value}" for name, value in settings.get(group.nodes[0], {}).items())
        members = f"its {len(group.members)} {kind}{f' ({known} is set)' if known else ''}"
        if isinstance(outcome, str):
            found.append(Verdict("network", "bad", f"{group}: no all-reduce between {members}: {outcome}", fix))
        elif plan.backend == "nccl" and (speed := megabytes / outcome) < SOCKET_MB_S:
            what = f"{group}: {speed:.0f} MB/s between {members}, about the speed of sockets"
            found.append(Verdict("network", "warn", what, fix))
    if found or not outcomes:
        return found
    slowest = max(outcomes, key=lambda group: float(outcomes[group]))
    took = f"all-reduce of {megabytes} MB in {float(outcomes[slowest]) * 1000:.1f} ms at most"
    return [Verdict("network", "ok", f"within a node, between {len(slowest.members)} {kind}: {took}")]


def node_seconds(pairs: Mapping[Group, Outcome]) -> dict[str, float]:
    """Seconds by node, from the faster of its pairs, so that a node is not blamed for a slow neighbour."""
    seconds: dict[str, float] = {}
    for group, outcome in pairs.items():
        for node in group.nodes if isinstance(outcome, float) else ():
            seconds[node] = min(float(outcome), seconds.get(node, float("inf")))
    return seconds


def slow_nodes(pairs: Mapping[Group, Outcome]) -> dict[str, float]:
    """Nodes that take much longer than usual -> the usual seconds, which are the median."""
    seconds = node_seconds(pairs)
    usual = sorted(seconds.values())[(len(seconds) - 1) // 2] if seconds else 0.0
    return {node: usual for node, own in seconds.items() if own > SLOW_NODE * usual}


def judge_between(
    plan: Plan, pairs: Mapping[Group, Outcome], everyone: Group, among_all: Outcome, megabytes: int
) -> list[Verdict]:
    """All-reduces of `megabytes` between neighbouring nodes (`pairs`), and among all processes."""
    fix = BETWEEN[plan.backend]
    failed = {group: outcome for group, outcome in pairs.items() if isinstance(outcome, str)}
    if isinstance(among_all, str) and not failed:
        failed = {everyone: among_all}
    if failed:
        return [
            Verdict("network", "bad", f"{group}: no all-reduce with {plan.backend.upper()}: {why}", fix)
            for group, why in failed.items()
        ]
    found, seconds = [], node_seconds(pairs)
    for node, usual in slow_nodes(pairs).items():
        what = f"{node}: {megabytes / seconds[node]:.0f} MB/s, others {megabytes / usual:.0f} MB/s"
        found.append(Verdict("network", "bad", what, "check its cable, switch port or placement: it slows all nodes down"))
    step_s = float(among_all) * E_BYTES / (megabytes * 1e6)
    speed = (
        f"{everyone}: all-reduce of {megabytes} MB in {float(among_all):.2f} s; "
        f"configuration E's gradients take {step_s:.1f} s per step"
    )
    if step_s > SLOW_STEP_S and not found:
        fix = "--bf16-gradients halves it; use fewer, larger nodes, or a faster network"
        found.append(Verdict("network", "warn", speed, fix))
    return found or [Verdict("network", "ok", speed)]


def judge_messages(pairs: Mapping[Group, Outcome]) -> list[Verdict]:
    """All-reduces with gloo between nodes with GPUs: workers use it to exchange everything except gradients."""
    failed = {group: outcome for group, outcome in pairs.items() if isinstance(outcome, str)}
    if not failed:
        return [Verdict("network", "ok", "GPU nodes reach each other with gloo, too, which workers use for messages")]
    return [
        Verdict("network", "bad", f"{group}: workers cannot exchange messages with gloo: {why}", BETWEEN["gloo"])
        for group, why in failed.items()
    ]


def judge_rdma(facts: Facts) -> list[Verdict]:
    """The locked-memory limit of nodes with RDMA devices, for which NCCL pins its buffers. Nothing if there are none."""
    found, with_devices = [], {node: fact["rdma"] for node, fact in facts.items() if fact["rdma"]["devices"]}
    for node, rdma in with_devices.items():
        if rdma["memlock"] is not None:
            what = (
                f"{node}: {rdma['devices']} devices, but processes may lock only {rdma['memlock'] / 1024:.0f} KiB of memory"
            )
            fix = "docker run --ulimit memlock=-1; in Kubernetes, LimitMEMLOCK=infinity in the container runtime's service"
            found.append(Verdict("RDMA", "bad", what, fix))
    if found or not with_devices:
        return found
    least = min(rdma["devices"] for rdma in with_devices.values())
    return [
        Verdict("RDMA", "ok", f"at least {least} devices on {len(with_devices)} nodes, without a limit on locked memory")
    ]
