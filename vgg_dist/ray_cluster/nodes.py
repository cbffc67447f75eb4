"""The nodes of the Ray cluster that a command runs on, and the resources that its workers reserve there.

Nodes may still be starting, as after the loss of the head: a command waits until there is room for its workers, for
VGG_DIST_WAIT_S seconds at most. VGG_DIST_GPUS, which k8s/ sets, says how many GPUs the cluster has once all nodes are up.
"""

from __future__ import annotations

import math
import os
import time
from typing import NamedTuple

import ray

from vgg_dist.ray_cluster.address import find_cluster, is_on_this_machine

WAIT_S = 600.0  # on a cluster: a new node has to be provisioned, and to pull an image of several GB
POLL_S = 5.0
SAY_EVERY_S = 30.0


class Inventory(NamedTuple):
    """The resources of the cluster."""

    nodes: list[dict[str, float]]
    """The resources of each node that is up."""
    kind: str
    """What each worker takes one of: GPU, or CPU if there are no GPUs and none are expected."""
    total: int
    """How many of these are up."""
    expected: int
    """How many GPUs there are once all nodes are up; 0 if unknown."""
    most: dict[str, int] | None
    """The most of each resource that an autoscaler may bring; None if unknown."""

    def room(self, cpus: int) -> int:
        """How many workers with this many CPUs each (and a GPU, where there are any) fit on the nodes."""
        gpus = [node.get("GPU", 0) if self.kind == "GPU" else math.inf for node in self.nodes]
        return sum(int(min(node.get("CPU", 0) // cpus, gpu)) for node, gpu in zip(self.nodes, gpus, strict=True))

    def cpus_for(self, num_workers: int) -> int:
        """The most CPUs that each of this many workers can have; 0 if they do not fit."""
        most = int(max((node.get("CPU", 0) for node in self.nodes), default=0))
        return next((cpus for cpus in range(most, 0, -1) if self.room(cpus) >= num_workers), 0)

    def describe(self) -> str:
        """For messages."""
        there = self.room(1)
        bounds = [f"{self.expected} expected"] * bool(self.expected)
        bounds += [f"at most {self.most.get(self.kind, 0):.0f}"] if self.most is not None else []
        counts = ", ".join([f"{self.total} {self.kind}s on {len(self.nodes)} nodes", *bounds])
        return f"the cluster has room for {there} workers ({counts})"


def max_concurrent_groups(num_workers: int) -> int:
    """How many groups of this many workers fit on the cluster at the same time, by its GPUs, or else its CPUs; at least one.

    Counts the GPUs that are expected, if they are more than those that are up now.
    """
    inventory = _inventory()
    return max(1, max(inventory.total, inventory.expected) // num_workers)


def check_cluster(num_workers: int | None, most: int | None = None) -> None:
    """Checks what can be checked without starting Ray. `most`: the largest number of workers, for a range.

    ValueError, one line, if the named cluster does not answer; or, where Ray is to be started on this machine, if that has
    no room for this many workers.
    """
    if ray.is_initialized() or find_cluster() is not None or num_workers is None:
        return
    inventory = _inventory_of([_this_machine()], None)
    if inventory.room(1) < num_workers:
        raise ValueError(f"--num-workers {_range_text(num_workers, most)}: {inventory.describe()}")


def _this_machine() -> dict[str, float]:
    """The resources that Ray will find on this machine."""
    from ray._private.accelerators import get_accelerator_manager_for_resource
    from ray._private.utils import get_num_cpus

    gpus = get_accelerator_manager_for_resource("GPU")
    visible = gpus.get_current_process_visible_accelerator_ids()
    count = gpus.get_current_node_num_accelerators()
    return {"CPU": float(get_num_cpus()), "GPU": float(count if visible is None else min(count, len(visible)))}


def _inventory() -> Inventory:
    return _inventory_of([node["Resources"] for node in ray.nodes() if node["Alive"]], _grows_to())


def _inventory_of(nodes: list[dict[str, float]], most: dict[str, int] | None) -> Inventory:
    expected = int(_setting("VGG_DIST_GPUS", 0))
    gpus = expected or (most or {}).get("GPU") or any(node.get("GPU") for node in nodes)
    kind = "GPU" if gpus else "CPU"
    return Inventory(nodes, kind, int(sum(node.get(kind, 0) for node in nodes)), expected, most)


def _grows_to() -> dict[str, int] | None:
    """The most of each resource that an autoscaler may bring; those of KubeRay and `ray up` do not tell."""
    from ray._private.state import state

    return state.get_max_resources_from_cluster_config()


def _setting(name: str, default: float) -> float:
    """An environment variable that is a number, 0 or more; ValueError, one line, for anything else."""
    text = os.environ.get(name, "").strip() or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} {text}: must be a number, 0 or more")
    return value


def _wait_limit() -> float:
    """For how many seconds to wait for nodes; on this machine's own cluster not at all."""
    return _setting("VGG_DIST_WAIT_S", 0.0 if is_on_this_machine() else WAIT_S)


def _range_text(least: int, most: int | None) -> str:
    return str(least) if most is None else f"{least}:{most}"


def worker_resources(num_workers: int | None, most: int | None = None) -> list[dict[str, float]]:
    """What each of `num_workers` workers reserves: a GPU if there are any, and an equal share of the CPUs.

    With `most` there are more of them if they fit, `most` at most. Without `num_workers` there are as many workers as GPUs,
    at least VGG_DIST_GPUS, or one if there are none. Waits until all fit, and prints a line now and then: never fewer
    workers, and none on CPUs where GPUs are expected. ValueError if the cluster will never have the room, or has not after
    the time to wait.
    """
    limit, begun, asked = _wait_limit(), time.monotonic(), False
    say_at = 0.0
    try:
        while True:
            inventory = _inventory()
            many = max(inventory.total, inventory.expected, 1) if inventory.kind == "GPU" else 1
            wanted = num_workers or many
            if most is not None:
                wanted = max(wanted, min(most, inventory.room(1)))
            if cpus := inventory.cpus_for(wanted):
                return [{"CPU": float(cpus)} | ({"GPU": 1.0} if inventory.kind == "GPU" else {})] * wanted
            waited = time.monotonic() - begun
            too_many = inventory.most is not None and inventory.most.get(inventory.kind, 0) < wanted
            if too_many or waited >= limit:
                what = "--num-workers" if num_workers or not inventory.expected else "VGG_DIST_GPUS"
                after = f" after {waited:.0f} s (VGG_DIST_WAIT_S)" if waited and not too_many else ""
                raise ValueError(f"{what} {_range_text(wanted, most)}: {inventory.describe()}{after}")
            if not asked:
                _ask_autoscaler(inventory.kind, wanted)
                asked = True
            if waited >= say_at:
                left = f"for {limit - waited:.0f} s at most (VGG_DIST_WAIT_S)"
                print(f"waiting for {wanted} workers, {left}: {inventory.describe()}", flush=True)
                say_at = waited + SAY_EVERY_S
            time.sleep(min(POLL_S, limit - waited))
    finally:
        if asked:
            _ask_autoscaler("CPU", 0)


def _ask_autoscaler(kind: str, workers: int) -> None:
    """Asks an autoscaler, if there is one, for nodes for this many workers; 0 withdraws the request."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[{"CPU": 1} | {kind: 1}] * workers)


def describe_workers(resources: list[dict[str, float]]) -> str:
    """For messages, such as "2 workers of 1 CPU, 1 GPU"."""
    each = ", ".join(f"{amount:.0f} {kind}" for kind, amount in resources[0].items())
    return f"{len(resources)} worker{'s' * (len(resources) > 1)} of {each}"


def only_worker_here(num_workers: int | None) -> dict[str, float] | None:
    """What the worker of a training has that needs no Ray: the only one, on this machine. None for any other training.

    ValueError, one line, if a cluster is named that does not answer.
    """
    if ray.is_initialized() or find_cluster() is not None or _setting("VGG_DIST_GPUS", 0):
        return None
    here = _this_machine()
    gpus = int(here["GPU"])
    if (num_workers or max(gpus, 1)) != 1:
        return None
    return {"CPU": here["CPU"]} | ({"GPU": 1.0} if gpus else {})
