"""The nodes of the Ray cluster that a command runs on, and what its workers reserve there.

A cluster's nodes may still be on their way, as after the loss of its head: a command waits for as many as its workers need.
How long is VGG_DIST_WAIT_S; how many GPUs there are once all are there is VGG_DIST_GPUS, which k8s/ sets.
"""

from __future__ import annotations

import math
import os
import time
from typing import NamedTuple

import ray

from vgg_dist.ray_cluster.address import find_cluster

WAIT_S = 600.0  # on a cluster; a new node has to be had, and to load an image of several GB
POLL_S = 5.0
SAY_EVERY_S = 30.0


class Inventory(NamedTuple):
    """What the cluster has."""

    nodes: list[dict[str, float]]
    """The resources of each node that is up."""
    kind: str
    """What a worker takes one of: GPU, or CPU where none are there or expected."""
    total: int
    """How many of those there are."""
    expected: int
    """How many GPUs there are once all nodes are up; 0 where nothing says so."""
    most: dict[str, int] | None
    """How far an autoscaler lets it grow; None where nothing says so."""

    def room(self, cpus: int) -> int:
        """How many workers of so many CPUs (and a GPU) fit into the nodes."""
        gpus = [node.get("GPU", 0) if self.kind == "GPU" else math.inf for node in self.nodes]
        return sum(int(min(node.get("CPU", 0) // cpus, gpu)) for node, gpu in zip(self.nodes, gpus, strict=True))

    def cpus_for(self, num_workers: int) -> int:
        """The most CPUs that each of so many workers can have; 0 where there is no room for them."""
        most = int(max((node.get("CPU", 0) for node in self.nodes), default=0))
        return next((cpus for cpus in range(most, 0, -1) if self.room(cpus) >= num_workers), 0)

    def describe(self) -> str:
        """For people."""
        there = self.room(1)
        bounds = [f"{self.expected} expected"] * bool(self.expected)
        bounds += [f"at most {self.most.get(self.kind, 0):.0f}"] if self.most is not None else []
        counts = ", ".join([f"{self.total} {self.kind}s on {len(self.nodes)} nodes", *bounds])
        return f"the cluster has room for {there} workers ({counts})"


def max_concurrent_groups(num_workers: int) -> int:
    """How many groups of so many workers the cluster holds beside each other, by its GPUs, or its CPUs; at least one.

    By the GPUs that it is expected to have, where they are more than those that are there now.
    """
    inventory = _inventory()
    return max(1, max(inventory.total, inventory.expected) // num_workers)


def check_cluster(num_workers: int | None) -> None:
    """What can be said without starting Ray. ValueError, one line, if the cluster that is named does not answer; or, where
    Ray is to be started on this machine, if that has no room for so many workers.
    """
    if ray.is_initialized() or find_cluster() is not None or num_workers is None:
        return
    inventory = _inventory_of([_this_machine()], None)
    if inventory.room(1) < num_workers:
        raise ValueError(f"--num-workers {num_workers}: {inventory.describe()}")


def _this_machine() -> dict[str, float]:
    """What Ray will find here."""
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
    """How much of each resource an autoscaler may bring. KubeRay's tells Ray nothing of that, nor does `ray up`'s."""
    from ray._private.state import state

    return state.get_max_resources_from_cluster_config()


def _setting(name: str, default: float) -> float:
    """A number of the environment, 0 or more; ValueError, one line, for anything else."""
    text = os.environ.get(name, "").strip() or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} {text}: must be a number, 0 or more")
    return value


def _wait_limit() -> float:
    """For how many seconds nodes are waited for: on this machine's own cluster not at all, as nobody joins it."""
    address = (os.environ.get("RAY_ADDRESS", "").strip() or "local").rpartition("://")[2]
    own = address.startswith(("127.", "localhost:", "[::1]")) or address == "local"
    return _setting("VGG_DIST_WAIT_S", 0.0 if own else WAIT_S)


def worker_resources(num_workers: int | None) -> list[dict[str, float]]:
    """What each of `num_workers` workers reserves: a GPU where there are any, and as many CPUs as the cluster has for it.

    Without `num_workers` as many as there are GPUs, VGG_DIST_GPUS at least, or one where there are none. Waits, with a line
    now and then, until the nodes have room for them all: never fewer workers, and none on CPUs where GPUs are expected.
    ValueError if the cluster will never have that room, or has not after the time to wait.
    """
    limit, begun, asked = _wait_limit(), time.monotonic(), False
    say_at = 0.0
    try:
        while True:
            inventory = _inventory()
            many = max(inventory.total, inventory.expected, 1) if inventory.kind == "GPU" else 1
            wanted = num_workers or many
            if cpus := inventory.cpus_for(wanted):
                return [{"CPU": float(cpus)} | ({"GPU": 1.0} if inventory.kind == "GPU" else {})] * wanted
            waited = time.monotonic() - begun
            too_many = inventory.most is not None and inventory.most.get(inventory.kind, 0) < wanted
            if too_many or waited >= limit:
                what = "--num-workers" if num_workers or not inventory.expected else "VGG_DIST_GPUS"
                after = f" after {waited:.0f} s (VGG_DIST_WAIT_S)" if waited and not too_many else ""
                raise ValueError(f"{what} {wanted}: {inventory.describe()}{after}")
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
    """Has an autoscaler, if there is one, bring nodes for so many workers; 0 withdraws that."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[{"CPU": 1} | {kind: 1}] * workers)


def describe_workers(resources: list[dict[str, float]]) -> str:
    """For people."""
    each = ", ".join(f"{amount:.0f} {kind}" for kind, amount in resources[0].items())
    return f"{len(resources)} worker{'s' * (len(resources) > 1)} of {each}"
