"""Judges what the nodes of a cluster report about themselves: one verdict per problem, with a fix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.remote import size_text
from pipelines.secrets import masked
from vgg_dist.reporting.text import printable

GIB = 2**30
SHM_NEEDED = 1 * GIB  # for NCCL's buffers and Ray's object store; Docker's default is 64 MB
DISK_NEEDED = 5 * GIB  # for three checkpoints of E (1.15 GB each), logs and Ray's spilled objects
DISK_SHARE = 0.05  # Ray schedules nothing on a node whose disk is more than 95 % full
MAX_CLOCK_SKEW_S = 2.0  # beyond this, curves and logs of several nodes are out of order
GPU_IMAGES_PER_S = 500  # about the training speed of configuration A on one GPU

Level = Literal["ok", "warn", "bad"]
Facts = Mapping[str, Mapping[str, Any]]
"""Node -> what its probe reported."""


@dataclass(frozen=True)
class Verdict:
    """One line of `doctor`: what was checked, the result, and how to fix a problem."""

    check: str
    level: Level
    message: str
    fix: str = ""


def judge_nodes(alive: Sequence[str], lost: Sequence[str], unanswered: Mapping[str, str]) -> list[Verdict]:
    """Nodes that are alive, nodes that left, and nodes that did not answer (`unanswered`: node -> reason)."""
    found = [Verdict("nodes", "bad", f"{node} does not answer: {why}", "restart it") for node, why in unanswered.items()]
    if lost:
        fix = "restart it, unless it was stopped on purpose"
        found += [Verdict("nodes", "warn", f"{node} has left the cluster", fix) for node in lost]
    return found or [Verdict("nodes", "ok", f"{len(alive)}: {', '.join(alive)}")]


def judge_versions(facts: Facts) -> list[Verdict]:
    """Whether all nodes have the same versions; the most common one counts as right."""
    found, common = [], {}
    for name in next(iter(facts.values()))["versions"]:
        of_nodes = {node: fact["versions"][name] for node, fact in facts.items()}
        common[name] = Counter(of_nodes.values()).most_common(1)[0][0]
        for node, version in of_nodes.items():
            if version == "missing":
                found.append(Verdict("versions", "bad", f"{node} has no {name}", f"install {name} {common[name]} on it"))
            elif version != common[name]:
                what = f"{node} has {name} {version}, others {common[name]}"
                found.append(Verdict("versions", "bad", what, "use the same image, or the same environment, on all nodes"))
    return found or [Verdict("versions", "ok", ", ".join(f"{name} {version}" for name, version in common.items()))]


def judge_gpus(facts: Facts, counted: Mapping[str, int]) -> list[Verdict]:
    """Whether all GPUs are of one model with one driver, are unused, and are as many as Ray has `counted`, by node."""
    gpus = [(node, gpu) for node, fact in facts.items() for gpu in fact["gpus"]]
    found = _judge_counts(facts, counted)
    if not gpus:
        return found or [Verdict("GPUs", "ok", "none; training runs on CPUs")]
    for kind, fix in (
        ("name", "training runs at the speed of the slowest GPU"),
        ("driver", "install one driver version on all nodes"),
    ):
        common = Counter(gpu[kind] for _, gpu in gpus).most_common(1)[0][0]
        level: Level = "warn" if kind == "name" else "bad"
        others = sorted({(node, gpu[kind]) for node, gpu in gpus if gpu[kind] != common})
        found += [Verdict("GPUs", level, f"{node} has {kind} {other}, others {common}", fix) for node, other in others]
    for node, gpu in gpus:
        if gpu["used"] > 0.1 * gpu["total"]:
            what = f"{node}: {gpu['used'] / GIB:.0f} of {gpu['total'] / GIB:.0f} GiB are already in use"
            found.append(Verdict("GPUs", "warn", what, "stop the other process, or set a smaller --micro-batch"))
    return found or [Verdict("GPUs", "ok", f"{len(gpus)} of {gpus[0][1]['name']}, driver {gpus[0][1]['driver']}")]


def _judge_counts(facts: Facts, counted: Mapping[str, int]) -> list[Verdict]:
    """Whether Ray's number of GPUs agrees with the driver's, and whether several pods share the GPUs of a machine."""
    found = []
    machines: dict[str, list[str]] = {}
    for node, fact in facts.items():
        machines.setdefault(fact["machine"] or node, []).append(node)
        if counted[node] > (shown := len(fact["gpus"])):
            what = f"{node}: Ray counts {counted[node]} GPUs there, the driver shows {shown or 'none'}"
            fix = (
                "in Kubernetes, install NVIDIA's device plugin and set runtimeClassName: nvidia; docker run --gpus all; "
                "install the driver; or pass the right number to ray start --num-gpus"
            )
            found.append(Verdict("GPUs", "bad", what, fix))
    for nodes in machines.values():
        shown, with_gpus = max(len(facts[node]["gpus"]) for node in nodes), [node for node in nodes if counted[node]]
        if sum(counted[node] for node in nodes) < shown:
            what = f"{', '.join(nodes)}: the driver shows {shown} GPUs, Ray counts {sum(counted[node] for node in nodes)}"
            fix = "set nvidia.com/gpu in the pod's limits, or ray start --num-gpus: training ignores the other GPUs"
            found.append(Verdict("GPUs", "warn", what, fix))
        if len({facts[node]["host"] for node in with_gpus}) > 1:
            what = f"{', '.join(with_gpus)} are containers of one machine: NCCL uses sockets between their GPUs"
            fix = "use one pod with all GPUs of the machine (k8s/components/gpus-per-node)"
            found.append(Verdict("GPUs", "warn", what, fix))
    return found


def judge_memory_and_disks(facts: Facts) -> list[Verdict]:
    """Whether each node has enough shared memory and free disk space."""
    found = []
    for node, fact in facts.items():
        if fact["shm"] is None or fact["shm"]["total"] < SHM_NEEDED:
            has = f"{fact['shm']['total'] / 1e6:.0f} MB" if fact["shm"] else "no"
            fix = "docker run --shm-size 8g; in Kubernetes, an emptyDir of medium Memory at /dev/shm"
            found.append(Verdict("/dev/shm", "bad", f"{node}: {has} shared memory; at least 1 GiB is needed", fix))
    found = found or [Verdict("/dev/shm", "ok", f"at least {min(f['shm']['total'] for f in facts.values()) / GIB:.0f} GiB")]
    full = []
    for node, fact in facts.items():
        for folder, disk in fact["disks"].items():
            if disk["free"] < DISK_NEEDED or disk["free"] < DISK_SHARE * disk["total"]:
                what = f"{node}: {disk['free'] / GIB:.1f} of {disk['total'] / GIB:.1f} GiB free at {folder}"
                full.append(
                    Verdict("disk", "bad", what, "5 GiB and 5 % must be free: remove old runs, or use a larger disk")
                )
    least = min((disk["free"] for fact in facts.values() for disk in fact["disks"].values()), default=0)
    return [*found, *(full or [Verdict("disk", "ok", f"at least {least / GIB:.0f} GiB free")])]


def judge_clocks(offsets: Mapping[str, float]) -> list[Verdict]:
    """Whether the clocks agree. `offsets`: seconds by which each node's clock is ahead of this process's."""
    if not offsets:
        return []
    middle = sorted(offsets.values())[len(offsets) // 2]
    found = [
        Verdict("clocks", "bad", f"{node} is {offset - middle:+.1f} s off", "run an NTP client on it (chrony)")
        for node, offset in offsets.items()
        if abs(offset - middle) > MAX_CLOCK_SKEW_S
    ]
    apart = max(offsets.values()) - min(offsets.values())
    return found or [Verdict("clocks", "ok", f"within {max(apart, 0.001):.3f} s")]


def judge_storage(
    storage_path: str, written: Mapping[str, str | None], read: Mapping[str, Mapping[str, str | None]]
) -> list[Verdict]:
    """Whether all nodes share the storage: each wrote a file and read the files of all. Errors by node, or None."""
    check = f"--storage-path {storage_path}"
    found = [
        Verdict(
            check, "bad", f"{node} cannot write there: {error}", "check its permissions, its free space and its credentials"
        )
        for node, error in written.items()
        if error
    ]
    writers = [node for node, error in written.items() if not error]
    seen = {node: frozenset(writer for writer in writers if not marks[writer]) for node, marks in read.items()}
    # The most common view counts as right, so that a node that writes elsewhere is blamed, not those that miss its file.
    votes = Counter(seen.values())
    common = max(votes, key=lambda view: (votes[view], len(view)), default=frozenset()) or frozenset(writers)
    for node, marks in read.items():
        if unseen := sorted(common - seen[node]):
            what = f"{node} does not see what {', '.join(unseen)} wrote: {marks[unseen[0]]}"
            found.append(Verdict(check, "bad", what, "use storage that all nodes share: a network file system, or a URL"))
    return found or [Verdict(check, "ok", "all nodes can write and read")]


def judge_data(location: str, data: Facts, gpus: Mapping[str, int]) -> list[Verdict]:
    """Whether the data can be read on all nodes, are the same everywhere, and are read fast enough for the GPUs."""
    check = f"--data {location}"
    found = [
        Verdict(check, "bad", f"{node}: {fact['error']}", "make the same data available at the same location on every node")
        for node, fact in data.items()
        if "error" in fact
    ]
    good = {node: fact for node, fact in data.items() if "error" not in fact}
    if not good:
        return found
    kinds = {node: (fact["train"], fact["val"], fact["names"]) for node, fact in good.items()}
    votes = Counter(kinds.values())
    common = max(votes, key=lambda kind: (votes[kind], kind[0] + kind[1]))  # on a tie, the larger set counts as right
    for node, fact in good.items():
        if kinds[node] != common:
            what = f"{node} has {fact['train']} + {fact['val']} images, others {common[0]} + {common[1]}"
            if kinds[node][:2] == common[:2]:
                what = f"{node} has images with other names than the others"
            found.append(Verdict(check, "bad", what, "copy the data there again"))
        if fact["shards"] > fact["capacity"]:
            sizes = f"{size_text(fact['capacity'])} of {size_text(fact['shards'])} of shards fit ({fact['limit']})"
            fix = "train with --shuffle blocks, or use a larger disk there; VGG_DIST_CACHE can name another folder"
            found.append(Verdict(check, "warn", f"{node}: {sizes}; other images are read one by one", fix))
        elif not fact["to_fetch"] and (needed := GPU_IMAGES_PER_S * gpus.get(node, 0)) > fact["images_per_second"]:
            what = f"{node} reads {fact['images_per_second']:.0f} images/s; its GPUs need about {needed}"
            found.append(
                Verdict(check, "warn", what, "use shards (pipelines.prepare shard), a local disk, or a nearer store")
            )
    slowest = min(good.values(), key=lambda fact: fact["bytes_per_second"])
    rate = f"{slowest['bytes_per_second'] / 1e6:.0f} MB/s"
    if slowest["to_fetch"]:
        minutes = slowest["to_fetch"] / slowest["bytes_per_second"] / 60
        how = f"{slowest['to_fetch'] / 1e9:.1f} GB are first copied to each node, at {rate} in {minutes:.0f} min"
    else:
        how = f"at least {slowest['images_per_second']:.0f} images/s ({rate}) per node"
    return found or [Verdict(check, "ok", f"{common[0]} + {common[1]} images; {how}")]


def judge_tracking(tracking_uri: str, errors: Mapping[str, str | None]) -> list[Verdict]:
    """Whether every node can connect to MLflow."""
    check = f"--tracking-uri {tracking_uri}"
    fix = "check the server's address and --allowed-hosts, MLFLOW_TRACKING_USERNAME and _PASSWORD, and network policies"
    found = [Verdict(check, "bad", f"{node}: {error}", fix) for node, error in errors.items() if error]
    return found or [Verdict(check, "ok", "all nodes can connect")]


def to_line(verdict: Verdict) -> str:
    """A verdict as printed; the fix is on a line of its own."""
    line = f"{verdict.level:<4}  {printable(masked(f'{verdict.check}: {verdict.message}'))}"
    return f"{line}\n      fix: {verdict.fix}" if verdict.fix else line
