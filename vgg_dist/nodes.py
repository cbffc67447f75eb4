"""The Ray cluster that a command runs on: connecting to it, and what its workers reserve; and whether storage is there."""

from __future__ import annotations

import json
import logging
import math
import os
import socket

import ray
from ray._common.utils import reset_ray_address
from ray._private.services import find_bootstrap_address

from vgg_dist.storage import check_writable


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
    passed = "MLFLOW_", "VGG_DIST_PHASES"  # not VGG_DIST_CACHE, which is each node's own
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


def groups_at_once(num_workers: int) -> int:
    """How many groups of so many workers the cluster holds beside each other, by its GPUs, or its CPUs; at least one."""
    _, _, total = _inventory()
    return max(1, total // num_workers)


def _inventory() -> tuple[list[dict[str, float]], str, int]:
    """What each node has; what a worker takes one of, GPU or CPU; and how many of those there are."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    kind = "GPU" if any(node.get("GPU") for node in nodes) else "CPU"
    return nodes, kind, int(sum(node.get(kind, 0) for node in nodes))


def worker_resources(num_workers: int | None) -> list[dict[str, float]]:
    """What each of `num_workers` workers reserves: a GPU where there are any, and as many CPUs as the cluster has for it.

    ValueError if the cluster will never have room for them.
    """
    nodes, kind, total = _inventory()
    use_gpu = kind == "GPU"
    num_workers = num_workers or (total if use_gpu else 1)

    def room(cpus: int) -> int:
        """How many workers of so many CPUs (and a GPU) fit into the nodes."""
        return sum(int(min(node.get("CPU", 0) // cpus, node.get("GPU", 0) if use_gpu else math.inf)) for node in nodes)

    cpus = next((cpus for cpus in range(int(max(n.get("CPU", 0) for n in nodes)), 0, -1) if room(cpus) >= num_workers), 0)
    if not cpus:
        from ray._private.state import state

        most = state.get_max_resources_from_cluster_config()  # None where no autoscaler can add nodes
        if most is None or most.get(kind, 0) < num_workers:
            raise ValueError(
                f"--num-workers {num_workers}: the cluster has room for {room(1)} workers "
                f"({total} {kind}s on {len(nodes)} nodes{'' if most is None else f', at most {most.get(kind, 0):.0f}'})"
            )
        cpus = 1
    return [{"CPU": float(cpus)} | ({"GPU": 1.0} if use_gpu else {})] * num_workers


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
