"""What is wrong with a cluster, from what its nodes said of themselves: each thing a line, with the mend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.secrets import masked
from vgg_dist.reporting.text import printable

GIB = 2**30
SHM_NEEDED = 1 * GIB  # NCCL's buffers and Ray's object store; Docker gives 64 MB unless told otherwise
DISK_NEEDED = 5 * GIB  # three checkpoints of E (1.15 GB each), the logs, Ray's spilled objects
DISK_SHARE = 0.05  # Ray gives no more work to a node whose disk is fuller than 95 %
SKEW_S = 2.0  # from here on curves and logs of several nodes are out of order
GPU_IMAGES_PER_S = 500  # for one GPU, about what it trains of configuration A

Level = Literal["ok", "warn", "bad"]
Facts = Mapping[str, Mapping[str, Any]]
"""Node -> what it said."""


@dataclass(frozen=True)
class Verdict:
    """One line of the doctor's."""

    check: str
    level: Level
    what: str
    mend: str = ""


def judge_nodes(alive: Sequence[str], lost: Sequence[str], silent: Mapping[str, str]) -> list[Verdict]:
    """Nodes that are there, that were, and that are said to be but did not answer (why)."""
    found = [
        Verdict("nodes", "bad", f"{node} does not answer: {why}", "stop it and start it again")
        for node, why in silent.items()
    ]
    if lost:
        mend = "start it again, unless it was stopped on purpose"
        found += [Verdict("nodes", "warn", f"{node} has left the cluster", mend) for node in lost]
    return found or [Verdict("nodes", "ok", f"{len(alive)}: {', '.join(alive)}")]


def judge_versions(facts: Facts) -> list[Verdict]:
    """All as the most of them are."""
    found, common = [], {}
    for name in next(iter(facts.values()))["versions"]:
        of_nodes = {node: fact["versions"][name] for node, fact in facts.items()}
        common[name] = Counter(of_nodes.values()).most_common(1)[0][0]
        for node, version in of_nodes.items():
            if version == "missing":
                found.append(Verdict("versions", "bad", f"{node} has no {name}", f"install {name} {common[name]} on it"))
            elif version != common[name]:
                what = f"{node} has {name} {version}, others {common[name]}"
                found.append(Verdict("versions", "bad", what, "one image, or one environment, for all nodes"))
    return found or [Verdict("versions", "ok", ", ".join(f"{name} {version}" for name, version in common.items()))]


def judge_gpus(facts: Facts, counted: Mapping[str, int]) -> list[Verdict]:
    """One model and one driver; nobody else's work on them; as many as Ray, which places the workers, has `counted`."""
    gpus = [(node, gpu) for node, fact in facts.items() for gpu in fact["gpus"]]
    found = _judge_counts(facts, counted)
    if not gpus:
        return found or [Verdict("GPUs", "ok", "none; training runs on CPUs")]
    for kind, mend in (("name", "the slowest sets the pace of all"), ("driver", "one driver for all nodes")):
        common = Counter(gpu[kind] for _, gpu in gpus).most_common(1)[0][0]
        level: Level = "warn" if kind == "name" else "bad"
        others = sorted({(node, gpu[kind]) for node, gpu in gpus if gpu[kind] != common})
        found += [Verdict("GPUs", level, f"{node} has {kind} {other}, others {common}", mend) for node, other in others]
    for node, gpu in gpus:
        if gpu["used"] > 0.1 * gpu["total"]:
            what = f"{node}: {gpu['used'] / GIB:.0f} of {gpu['total'] / GIB:.0f} GiB are in use already"
            found.append(Verdict("GPUs", "warn", what, "end what runs there, or set a smaller --micro-batch"))
    return found or [Verdict("GPUs", "ok", f"{len(gpus)} of {gpus[0][1]['name']}, driver {gpus[0][1]['driver']}")]


def _judge_counts(facts: Facts, counted: Mapping[str, int]) -> list[Verdict]:
    """Ray's number of GPUs beside the driver's, and pods that share a machine's."""
    found = []
    machines: dict[str, list[str]] = {}
    for node, fact in facts.items():
        machines.setdefault(fact["machine"] or node, []).append(node)
        if counted[node] > (shown := len(fact["gpus"])):
            what = f"{node}: Ray counts {counted[node]} GPUs there, the driver shows {shown or 'none'}"
            mend = (
                "in Kubernetes NVIDIA's device plugin and runtimeClassName: nvidia; docker run --gpus all; "
                "the driver; or ray start with as many --num-gpus as there are"
            )
            found.append(Verdict("GPUs", "bad", what, mend))
    for nodes in machines.values():
        shown, with_gpus = max(len(facts[node]["gpus"]) for node in nodes), [node for node in nodes if counted[node]]
        if sum(counted[node] for node in nodes) < shown:
            what = f"{', '.join(nodes)}: the driver shows {shown} GPUs, Ray counts {sum(counted[node] for node in nodes)}"
            mend = "nvidia.com/gpu in the pod's limits, or ray start --num-gpus: the others are not trained on"
            found.append(Verdict("GPUs", "warn", what, mend))
        if len({facts[node]["host"] for node in with_gpus}) > 1:
            what = f"{', '.join(with_gpus)} are containers of one machine: NCCL uses sockets between their GPUs"
            mend = "one pod with all GPUs of the machine (k8s/components/gpus-per-node)"
            found.append(Verdict("GPUs", "warn", what, mend))
    return found


def judge_room(facts: Facts) -> list[Verdict]:
    """Shared memory and disks."""
    found = []
    for node, fact in facts.items():
        if fact["shm"] is None or fact["shm"]["total"] < SHM_NEEDED:
            has = f"{fact['shm']['total'] / 1e6:.0f} MB" if fact["shm"] else "no"
            mend = "docker run --shm-size 8g; in Kubernetes an emptyDir of medium Memory at /dev/shm"
            found.append(Verdict("/dev/shm", "bad", f"{node}: {has} shared memory; 1 GiB is the least", mend))
    found = found or [Verdict("/dev/shm", "ok", f"at least {min(f['shm']['total'] for f in facts.values()) / GIB:.0f} GiB")]
    full = []
    for node, fact in facts.items():
        for folder, disk in fact["disks"].items():
            if disk["free"] < DISK_NEEDED or disk["free"] < DISK_SHARE * disk["total"]:
                what = f"{node}: {disk['free'] / GIB:.1f} of {disk['total'] / GIB:.1f} GiB free at {folder}"
                full.append(
                    Verdict("disk", "bad", what, "5 GiB and a twentieth of the disk: remove old runs, or a larger one")
                )
    least = min((disk["free"] for fact in facts.values() for disk in fact["disks"].values()), default=0)
    return [*found, *(full or [Verdict("disk", "ok", f"at least {least / GIB:.0f} GiB free")])]


def judge_clocks(offsets: Mapping[str, float]) -> list[Verdict]:
    """`offsets`: seconds by which each node's clock is ahead of this process's."""
    if not offsets:
        return []
    middle = sorted(offsets.values())[len(offsets) // 2]
    found = [
        Verdict("clocks", "bad", f"{node} is {offset - middle:+.1f} s off", "run an NTP client on it (chrony)")
        for node, offset in offsets.items()
        if abs(offset - middle) > SKEW_S
    ]
    apart = max(offsets.values()) - min(offsets.values())
    return found or [Verdict("clocks", "ok", f"within {max(apart, 0.001):.3f} s")]


def judge_storage(
    storage_path: str, written: Mapping[str, str | None], read: Mapping[str, Mapping[str, str | None]]
) -> list[Verdict]:
    """What went wrong where each node wrote a file, and read those of all."""
    check = f"--storage-path {storage_path}"
    found = [
        Verdict(check, "bad", f"{node} cannot write there: {error}", "its rights, its room, its credentials there")
        for node, error in written.items()
        if error
    ]
    writers = [node for node, error in written.items() if not error]
    seen = {node: frozenset(writer for writer in writers if not marks[writer]) for node, marks in read.items()}
    # Who sees what the most see is not blamed for the one that writes elsewhere.
    votes = Counter(seen.values())
    common = max(votes, key=lambda view: (votes[view], len(view)), default=frozenset()) or frozenset(writers)
    for node, marks in read.items():
        if unseen := sorted(common - seen[node]):
            what = f"{node} does not see what {', '.join(unseen)} wrote: {marks[unseen[0]]}"
            found.append(Verdict(check, "bad", what, "storage that all nodes share: a network file system, or a URL"))
    return found or [Verdict(check, "ok", "written and read by all nodes")]


def judge_data(location: str, data: Facts, gpus: Mapping[str, int]) -> list[Verdict]:
    """Readable from all nodes, the same on all, and fast enough for their GPUs."""
    check = f"--data {location}"
    found = [
        Verdict(check, "bad", f"{node}: {fact['error']}", "the same data, at the same place, for every node")
        for node, fact in data.items()
        if "error" in fact
    ]
    good = {node: fact for node, fact in data.items() if "error" not in fact}
    if not good:
        return found
    kinds = {node: (fact["train"], fact["val"], fact["names"]) for node, fact in good.items()}
    votes = Counter(kinds.values())
    common = max(votes, key=lambda kind: (votes[kind], kind[0] + kind[1]))  # of as many, what misses no images
    for node, fact in good.items():
        if kinds[node] != common:
            what = f"{node} has {fact['train']} + {fact['val']} images, others {common[0]} + {common[1]}"
            if kinds[node][:2] == common[:2]:
                what = f"{node} has images of other names than the others"
            found.append(Verdict(check, "bad", what, "copy the data there again"))
        if fact["to_fetch"] > fact["free"]:
            sizes = (
                f"{fact['to_fetch'] / GIB:.1f} GiB are to be copied to {fact['cache']}, {fact['free'] / GIB:.1f} are free"
            )
            found.append(
                Verdict(check, "bad", f"{node}: {sizes}", "a larger disk there; VGG_DIST_CACHE names another folder")
            )
        elif not fact["to_fetch"] and (needed := GPU_IMAGES_PER_S * gpus.get(node, 0)) > fact["images_per_second"]:
            what = f"{node} reads {fact['images_per_second']:.0f} images/s; its GPUs want about {needed}"
            found.append(Verdict(check, "warn", what, "shards (pipelines.prepare shard), a local disk, a nearer store"))
    slowest = min(good.values(), key=lambda fact: fact["bytes_per_second"])
    rate = f"{slowest['bytes_per_second'] / 1e6:.0f} MB/s"
    if slowest["to_fetch"]:
        minutes = slowest["to_fetch"] / slowest["bytes_per_second"] / 60
        how = f"{slowest['to_fetch'] / 1e9:.1f} GB are copied to a node at first, at {rate} in {minutes:.0f} min"
    else:
        how = f"at least {slowest['images_per_second']:.0f} images/s ({rate}) a node"
    return found or [Verdict(check, "ok", f"{common[0]} + {common[1]} images; {how}")]


def judge_tracking(tracking_uri: str, errors: Mapping[str, str | None]) -> list[Verdict]:
    """Reachable, and letting every node in."""
    check = f"--tracking-uri {tracking_uri}"
    mend = "the server's address and --allowed-hosts; MLFLOW_TRACKING_USERNAME and _PASSWORD; network policies"
    found = [Verdict(check, "bad", f"{node}: {error}", mend) for node, error in errors.items() if error]
    return found or [Verdict(check, "ok", "answers every node")]


def to_line(verdict: Verdict) -> str:
    """For people; the mend on a line of its own."""
    line = f"{verdict.level:<4}  {printable(masked(f'{verdict.check}: {verdict.what}'))}"
    return f"{line}\n      mend: {verdict.mend}" if verdict.mend else line
