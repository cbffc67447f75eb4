"""The Ray cluster that a command runs on: connecting to it, and what its workers reserve; and whether storage is there.

A cluster's nodes may still be on their way, as after the loss of its head: a command waits for as many as its workers need.
How long is VGG_DIST_WAIT_S; how many GPUs there are once all are there is VGG_DIST_GPUS, which k8s/ sets.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import time
from typing import NamedTuple

import ray
from ray._common.utils import reset_ray_address
from ray._private.services import find_bootstrap_address

from vgg_dist.ray_signals import unreached_by_signals
from vgg_dist.storage import check_writable

WAIT_S = 600.0  # on a cluster; a new node has to be had, and to load an image of several GB
POLL_S = 5.0
SAY_EVERY_S = 30.0


@unreached_by_signals()
def start_ray() -> None:
    """Connects to the cluster that RAY_ADDRESS or an earlier `ray start` tells of, or starts one on this machine.

    ValueError, one line, if there is none, or it lets nobody in.
    """
    logging.getLogger("ray").setLevel(logging.WARNING)
    if ray.is_initialized():  # by the command that this one is a part of, or this is one of Ray's own processes
        return
    named = os.environ.get("RAY_ADDRESS")
    if address := named or find_bootstrap_address(None):
        if why := _unanswered(address):  # Ray would try for ten minutes
            mend = "" if named else "; that is where `ray start` began a cluster, `ray stop` forgets it"
            raise ValueError(f"RAY_ADDRESS {address}: nothing answers ({why.strerror or why}){mend}")
        _join(address)
        return
    # Ray Train frees what a stopped trial holds once the dashboard says that it is gone. Where it is not told of the
    # dashboard, it looks for it among the machine's processes, and gives up if another Ray is up there.
    port = _free_port(8265)
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    ray.init(dashboard_port=port)


def _join(address: str) -> None:
    # A cluster's processes do not inherit this one's environment: the tracking server may want a password, and where the
    # cluster is they have to know as above. What the job was submitted with is there already, and Ray refuses to be told
    # it twice.
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    known = job.get("env_vars") or {}
    passed = "MLFLOW_", "VGG_DIST_PHASES", "VGG_DIST_STOP_S"  # not VGG_DIST_CACHE, which is each node's own
    told = {key: value for key, value in os.environ.items() if key.startswith(passed)} | {"RAY_ADDRESS": address}
    try:
        ray.init(runtime_env={"env_vars": {key: value for key, value in told.items() if key not in known}})
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        *_, reason = str(error.__cause__ or error).strip().splitlines()
        raise ValueError(f"RAY_ADDRESS {address}: {reason}") from None
    os.environ["RAY_ADDRESS"] = address  # not before: where it is unset, Ray takes this machine's token


def _unanswered(address: str) -> OSError | None:
    """Why nothing answers at HOST:PORT. None where something does, or where the address is of another form."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "://" in address:
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        return error
    return None


def forget_ended_cluster() -> None:
    """Removes what `ray start` leaves for commands to find its cluster by, once nothing answers there."""
    left = find_bootstrap_address(None)
    if left and _unanswered(left):
        reset_ray_address()


def _free_port(usual: int) -> int:
    """The usual port of this machine, or if it is taken any other."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", usual))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


def groups_at_once(num_workers: int) -> int:
    """How many groups of so many workers the cluster holds beside each other, by its GPUs, or its CPUs; at least one.

    By the GPUs that it is expected to have, where they are more than those that are there now.
    """
    inventory = _inventory()
    return max(1, max(inventory.total, inventory.expected) // num_workers)


def _inventory() -> Inventory:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    expected, most = int(_setting("VGG_DIST_GPUS", 0)), _grows_to()
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
    address = os.environ.get("RAY_ADDRESS", "local").rpartition("://")[2]
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


def check_storage(storage_path: str) -> None:
    """ValueError, one line, if nothing can be written there."""
    try:
        check_writable(storage_path)
    except (OSError, ValueError) as error:
        raise ValueError(f"--storage-path {storage_path}: cannot be written: {' '.join(str(error).split())}") from None
