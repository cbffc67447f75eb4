"""What is wrong between GPUs and between nodes, from the all-reduces of `cluster.links`: a line each, with the mend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from cluster.legs import Leg, Plan
from cluster.verdicts import Facts, Verdict

Outcome: TypeAlias = float | str
"""Of an all-reduce: its seconds, or what went wrong."""
E_BYTES = 143_667_240 * 4  # configuration E's gradients
SLOW_STEP_S = 2.0  # their all-reduce may take so long a step
SLOW_LINK = 3.0  # times the median of the links
# Between GPUs of a node: a prediction, not measured. By PCIe or shared memory some GB/s are usual, by NVLink a hundred.
SOCKET_MB_S = 2000
WITHIN = (
    "shared memory of 1 GiB and more (docker run --shm-size; an emptyDir of medium Memory at /dev/shm); one pod with all "
    "GPUs of the node, not one for each; NCCL_P2P_DISABLE and NCCL_SHM_DISABLE unset; NCCL_DEBUG=INFO tells what NCCL uses"
)
BETWEEN = {
    "gloo": "the firewall between nodes (all ports); GLOO_SOCKET_IFNAME where there are several networks",
    "nccl": "the firewall between nodes (all ports); NCCL_SOCKET_IFNAME where there are several networks; with RDMA the "
    "pod's device, its limit of locked memory, NCCL_IB_HCA; NCCL_IB_DISABLE=1 to see whether it works without",
}


def judge_starts(missing: Mapping[str, str]) -> list[Verdict]:
    """Nodes on which no process could reserve what it takes part with, and why."""
    mend = "another job holds its GPUs, or it is too busy: wait, or end that job (ray job list, ray job stop)"
    return [
        Verdict("network", "bad", f"{node}: its processes for all-reduces do not start: {why}", mend)
        for node, why in missing.items()
    ]


def judge_within(
    plan: Plan, outcomes: Mapping[Leg, Outcome], megabytes: int, settings: Mapping[str, Mapping[str, str]]
) -> list[Verdict]:
    """All-reduces of `megabytes` between the processes of each node; `settings`: NCCL's variables there."""
    found: list[Verdict] = []
    mend = WITHIN if plan.backend == "nccl" else BETWEEN["gloo"]
    kind = "GPUs" if plan.backend == "nccl" else "processes"
    for leg, outcome in outcomes.items():
        known = ", ".join(f"{name}={value}" for name, value in settings.get(leg.nodes[0], {}).items())
        members = f"its {len(leg.seats)} {kind}{f' ({known} is set)' if known else ''}"
        if isinstance(outcome, str):
            found.append(Verdict("network", "bad", f"{leg}: no all-reduce between {members}: {outcome}", mend))
        elif plan.backend == "nccl" and (speed := megabytes / outcome) < SOCKET_MB_S:
            what = f"{leg}: {speed:.0f} MB/s between {members}, as by sockets"
            found.append(Verdict("network", "warn", what, mend))
    if found or not outcomes:
        return found
    slowest = max(outcomes, key=lambda leg: float(outcomes[leg]))
    took = f"all-reduce of {megabytes} MB in {float(outcomes[slowest]) * 1000:.1f} ms at most"
    return [Verdict("network", "ok", f"within a node, between {len(slowest.seats)} {kind}: {took}")]


def node_seconds(pairs: Mapping[Leg, Outcome]) -> dict[str, float]:
    """Of each node the quicker of its pairs: a slow neighbour is not its own fault."""
    seconds: dict[str, float] = {}
    for leg, outcome in pairs.items():
        for node in leg.nodes if isinstance(outcome, float) else ():
            seconds[node] = min(float(outcome), seconds.get(node, float("inf")))
    return seconds


def slow_links(pairs: Mapping[Leg, Outcome]) -> dict[str, float]:
    """Nodes that take much longer than is usual, with the seconds that are."""
    seconds = node_seconds(pairs)
    usual = sorted(seconds.values())[(len(seconds) - 1) // 2] if seconds else 0.0
    return {node: usual for node, own in seconds.items() if own > SLOW_LINK * usual}


def judge_between(
    plan: Plan, pairs: Mapping[Leg, Outcome], everyone: Leg, among_all: Outcome, megabytes: int
) -> list[Verdict]:
    """All-reduces of `megabytes` between each node and the next, and among all."""
    mend = BETWEEN[plan.backend]
    failed = {leg: outcome for leg, outcome in pairs.items() if isinstance(outcome, str)}
    if isinstance(among_all, str) and not failed:
        failed = {everyone: among_all}
    if failed:
        return [
            Verdict("network", "bad", f"{leg}: no all-reduce by {plan.backend.upper()}: {why}", mend)
            for leg, why in failed.items()
        ]
    found, seconds = [], node_seconds(pairs)
    for node, usual in slow_links(pairs).items():
        what = f"{node}: {megabytes / seconds[node]:.0f} MB/s, others {megabytes / usual:.0f} MB/s"
        found.append(Verdict("network", "bad", what, "its cable, switch port or placement: it sets the pace of all"))
    step_s = float(among_all) * E_BYTES / (megabytes * 1e6)
    speed = (
        f"{everyone}: all-reduce of {megabytes} MB in {float(among_all):.2f} s; "
        f"configuration E's gradients take {step_s:.1f} s a step"
    )
    if step_s > SLOW_STEP_S and not found:
        slower = "--bf16-gradients halves it; fewer, larger nodes; a faster network"
        found.append(Verdict("network", "warn", speed, slower))
    return found or [Verdict("network", "ok", speed)]


def judge_messages(pairs: Mapping[Leg, Outcome]) -> list[Verdict]:
    """All-reduces by gloo between nodes with GPUs: workers exchange everything but gradients by it."""
    failed = {leg: outcome for leg, outcome in pairs.items() if isinstance(outcome, str)}
    if not failed:
        return [Verdict("network", "ok", "GPU nodes reach each other by gloo too, as workers exchange messages")]
    return [
        Verdict("network", "bad", f"{leg}: workers cannot exchange messages by gloo: {why}", BETWEEN["gloo"])
        for leg, why in failed.items()
    ]


def judge_rdma(facts: Facts) -> list[Verdict]:
    """Nodes with RDMA devices: NCCL pins its buffers for them. Nothing is said where there are none."""
    found, with_devices = [], {node: fact["rdma"] for node, fact in facts.items() if fact["rdma"]["devices"]}
    for node, rdma in with_devices.items():
        if rdma["memlock"] is not None:
            what = f"{node}: {rdma['devices']} devices, but only {rdma['memlock'] / 1024:.0f} KiB may be locked in memory"
            mend = "docker run --ulimit memlock=-1; in Kubernetes LimitMEMLOCK=infinity of the container runtime's service"
            found.append(Verdict("RDMA", "bad", what, mend))
    if found or not with_devices:
        return found
    least = min(rdma["devices"] for rdma in with_devices.values())
    return [Verdict("RDMA", "ok", f"at least {least} devices on {len(with_devices)} nodes, and memory may be locked")]
