"""A Ray cluster of several nodes on this machine, with the services of a real one: dashboard, job server, MLflow.

    python -m cluster up --nodes 3 --cpus 2
    ray job submit -- python -m vgg_dist.train --arch A --image-size 32 --head gap --epochs 1 --num-workers 2
    python -m cluster status
    python -m cluster down

Each node is a separate `ray start --block` process. `up` records its processes in a file, and `down` stops only those.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.services import STATE, Cluster, ClusterError, ServiceEnded, alive_nodes, get, start, stop, token
from vgg_dist.proxies import bypass_proxies

HOST = "127.0.0.1"  # other machines must not reach the servers; Ray's own ports require the token
TIMEOUT_S = 600.0  # for each process; on a busy laptop it may take minutes
LOG_EVERY_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Up:
    """Start a cluster of several nodes on this machine."""

    nodes: int = 3
    """Number of nodes."""
    cpus: int = 2
    """Number of CPUs that each node reports to Ray."""
    gpus: int = 0
    """Number of GPUs per node."""
    storage_path: str = "runs"
    """Folder for MLflow's database, the same as in a training without a cluster."""
    port: int = 6379
    """Port of the head node, which the other nodes join."""
    dashboard_port: int = 8265
    """Port of the dashboard and the job server; 8265 is the default of Ray's commands."""
    mlflow_port: int = 5000
    """Port of MLflow's server."""


def default_folder() -> Path:
    """The folder with the record of the cluster's processes, and their logs."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "vgg_dist" / "cluster"


def up(options: Up, folder: Path) -> Cluster:
    """Starts the cluster and returns when all nodes have joined and both servers answer.

    Raises ClusterError, and leaves nothing running, if that fails; ValueError for an invalid flag.
    """
    check(options)
    if Cluster.read(folder):
        raise ClusterError(
            "a cluster is already running on this machine; `python -m cluster status` shows it, `down` stops it"
        )
    for flag in ("port", "dashboard_port", "mlflow_port"):
        if not _free(port := getattr(options, flag)):
            raise ClusterError(f"--{flag.replace('_', '-')} {port}: another program listens there; choose another port")
    bypass_proxies()  # also for the processes started here
    folder.mkdir(parents=True, exist_ok=True)
    storage = Path(options.storage_path).absolute()
    storage.mkdir(parents=True, exist_ok=True)
    mlflow = f"http://{HOST}:{options.mlflow_port}"
    cluster = Cluster(f"http://{HOST}:{options.dashboard_port}", mlflow, ())
    environment = _environment(mlflow)
    start_time = time.monotonic()
    _log(f"starting {options.nodes} nodes and MLflow")
    try:
        # Without MLflow's job processes for evaluating language models, which take 28 s of CPU time to start.
        lean = environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        cluster = start(cluster, folder, "mlflow", _mlflow_command(options, storage), lean)
        cluster = _start_node(cluster, folder, options, 0, environment, start_time)
        # One after the other: Ray gives up on a node after 30 s, which several at once may need on a laptop.
        for number in range(1, options.nodes):
            cluster = _start_node(cluster, folder, options, number, environment, start_time)
        _wait(cluster, "the job server", lambda: get(f"{cluster.dashboard}/api/jobs/") is not None, start_time)
        _wait(cluster, "MLflow", lambda: get(f"{cluster.mlflow}/health") is not None, start_time)
    except BaseException:
        stop(cluster)
        raise
    return cluster


def check(options: Up) -> None:
    """Raises ValueError, one line, for an invalid flag."""
    for name in ("nodes", "cpus"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} {getattr(options, name)}: must be at least 1")
    if options.gpus < 0:
        raise ValueError(f"--gpus {options.gpus}: must be at least 0")
    if options.nodes * options.gpus > (available := len(_gpus())):
        raise ValueError(f"--gpus {options.gpus} on --nodes {options.nodes}: this machine has {available} GPUs")


def down(folder: Path) -> int:
    """Stops what `up` started. Returns the number of processes."""
    cluster = Cluster.read(folder)
    if cluster is None:
        return 0
    stopped = stop(cluster)
    (folder / STATE).unlink()
    return stopped


def _joined(cluster: Cluster, nodes: int) -> Callable[[], bool]:
    return lambda: len(alive_nodes(cluster)) == nodes


def _environment(mlflow: str) -> dict[str, str]:
    """The environment of all nodes and of the jobs on them: the token, MLflow's address, this environment's Python."""
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token(),
        "MLFLOW_TRACKING_URI": mlflow,
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "VGG_DIST_WAIT_S": os.environ.get("VGG_DIST_WAIT_S", "0"),  # all nodes are there from the start
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    given = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {"RAY_gcs_server_port_wait_time_s": "120"} | given | own


def _with_gpus(environment: dict[str, str], options: Up, number: int) -> dict[str, str]:
    """The environment of node `number`, with its share of the machine's GPUs."""
    if not options.gpus:
        return environment
    own = _gpus()[number * options.gpus : (number + 1) * options.gpus]
    return environment | {"CUDA_VISIBLE_DEVICES": ",".join(own)}


def _gpus() -> list[str]:
    """The GPUs of this machine that this process may use."""
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [device for device in visible.split(",") if device]
    import pynvml

    try:
        pynvml.nvmlInit()
        return [str(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _node_command(options: Up, head: bool) -> list[str]:
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    # Port 0 means any free port: the default is the same for all nodes, and these are on one machine.
    own = ["--num-cpus", str(options.cpus), "--num-gpus", str(options.gpus), "--dashboard-agent-listen-port", "0"]
    if not head:  # Each of several log monitors on one machine would forward every line.
        return [*ray, *own, "--address", f"{HOST}:{options.port}", "--include-log-monitor", "false"]
    server = ["--dashboard-host", HOST, "--dashboard-port", str(options.dashboard_port)]
    return [*ray, *own, "--head", "--port", str(options.port), *server]


def _mlflow_command(options: Up, storage: Path) -> list[str]:
    server = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(options.mlflow_port), "--workers", "1"]
    database, artifacts = f"sqlite:///{storage / 'mlflow.db'}", str(storage / "mlartifacts")
    return [*server, "--backend-store-uri", database, "--artifacts-destination", artifacts]


def _start_node(
    cluster: Cluster, folder: Path, options: Up, number: int, environment: dict[str, str], start_time: float
) -> Cluster:
    """Starts node `number` (0 is the head) and returns once it has joined.

    Tries twice, because Ray gives up on a node that takes more than 30 s.
    """
    name, what = f"node-{number}" if number else "head", f"node {number + 1} of {options.nodes}"
    command, own = _node_command(options, head=not number), _with_gpus(environment, options, number)
    for again in (False, True):
        started = start(cluster, folder, name, command, own)
        try:
            _wait(started, what if number else "the head node", _joined(started, number + 1), start_time)
            return started
        except ServiceEnded as error:
            if again or error.name != name:
                raise
            _log(f"{error}; trying once more")
            stop(Cluster(cluster.dashboard, cluster.mlflow, started.services[-1:]))  # the processes it left behind
    raise AssertionError


def _wait(cluster: Cluster, what: str, ready: Callable[[], bool], start_time: float) -> None:
    """Returns when `ready()` is true. Raises ClusterError after TIMEOUT_S, or if a process of the cluster ends."""
    end, log_at = time.monotonic() + TIMEOUT_S, time.monotonic() + LOG_EVERY_S
    while not ready():
        for service in cluster.services:
            if service.process() is None:
                raise ServiceEnded(service.name, service.log)
        if time.monotonic() > log_at:
            _log(f"waiting for {what}, at most {end - time.monotonic():.0f} s more")
            log_at += LOG_EVERY_S
        if time.monotonic() > end:
            raise ClusterError(f"{what}: not ready after {TIMEOUT_S:.0f} s; see {Path(cluster.services[-1].log).parent}")
        time.sleep(0.2)
    _log(f"{what} is ready, {time.monotonic() - start_time:.0f} s after the start")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def _log(line: str) -> None:
    print(f"cluster: {line}", file=sys.stderr, flush=True)
