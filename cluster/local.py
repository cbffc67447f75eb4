"""A Ray cluster of several nodes on this machine, with the services that a real one has: dashboard, job server, MLflow.

    python -m cluster up --nodes 3 --cpus 2
    ray job submit -- python -m vgg_dist.train --arch E
    python -m cluster status
    python -m cluster down

Each node is a `ray start --block` of its own. What is started is noted in a file, and only that is stopped.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HOST = "127.0.0.1"  # the servers are not to be reached from other machines; Ray's own ports want the token
PATIENCE_S = 120.0
STATE = "cluster.json"


class ClusterError(RuntimeError):
    """The cluster cannot be started: one line for the user."""


@dataclass(frozen=True, kw_only=True)
class Up:
    """Start a cluster of several nodes on this machine."""

    nodes: int = 3
    """How many nodes."""
    cpus: int = 2
    """CPUs that each node says it has."""
    gpus: int = 0
    """GPUs of each node."""
    storage_path: str = "runs"
    """Where MLflow's database is, as in a training without a cluster."""
    port: int = 6379
    """Where nodes find each other."""
    dashboard_port: int = 8265
    """Of the dashboard and the job server. Ray's commands look at 8265 of themselves."""
    mlflow_port: int = 5000
    """Of MLflow's server."""


def default_folder() -> Path:
    """Where what runs is noted, with its logs."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "vgg_dist" / "cluster"


@dataclass(frozen=True)
class Service:
    """A process that `up` started."""

    name: str
    pid: int
    started: float
    """As psutil has it: tells the process from a later one of the same pid."""
    log: str

    def process(self) -> psutil.Process | None:
        """The process; None if it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
            return process if same else None
        except psutil.NoSuchProcess:
            return None


@dataclass(frozen=True)
class Cluster:
    """What `up` started."""

    dashboard: str
    mlflow: str
    services: tuple[Service, ...]

    @staticmethod
    def read(folder: Path) -> Cluster | None:
        """The one noted in `folder`; None if there is none of which anything runs."""
        try:
            noted = json.loads((folder / STATE).read_text())
        except FileNotFoundError:
            return None
        cluster = Cluster(noted["dashboard"], noted["mlflow"], tuple(Service(**service) for service in noted["services"]))
        return cluster if any(service.process() for service in cluster.services) else None

    def write(self, folder: Path) -> None:
        """Notes it in `folder`."""
        services = [vars(service) for service in self.services]
        (folder / STATE).write_text(
            json.dumps({"dashboard": self.dashboard, "mlflow": self.mlflow, "services": services}, indent=1)
        )


def up(options: Up, folder: Path) -> Cluster:
    """Starts the cluster and returns when all its nodes have joined and both servers answer.

    ClusterError, with nothing left running, where that cannot be; ValueError for a flag that cannot be.
    """
    check(options)
    if Cluster.read(folder):
        raise ClusterError("a cluster is up on this machine; `python -m cluster status` shows it, `down` stops it")
    for flag in ("port", "dashboard_port", "mlflow_port"):
        if not _free(port := getattr(options, flag)):
            raise ClusterError(f"--{flag.replace('_', '-')} {port}: another program listens there; choose another port")
    folder.mkdir(parents=True, exist_ok=True)
    storage = Path(options.storage_path).absolute()
    storage.mkdir(parents=True, exist_ok=True)
    mlflow = f"http://{HOST}:{options.mlflow_port}"
    cluster = Cluster(f"http://{HOST}:{options.dashboard_port}", mlflow, ())
    environment = _environment(mlflow)
    begun = time.monotonic()
    _say(f"starting {options.nodes} nodes and MLflow")
    try:
        # Without the processes for MLflow's evaluations of language models, whose start takes 28 s of CPU time.
        lean = environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        cluster = _start(cluster, folder, "mlflow", _mlflow_command(options, storage), lean)
        cluster = _start(cluster, folder, "head", _node_command(options, head=True), _with_gpus(environment, options, 0))
        _wait(cluster, "the head node", _joined(cluster, 1), begun)
        # One after the other: Ray gives up a node that is not there after 30 s, which several at once may take on a laptop.
        for number in range(1, options.nodes):
            command, name = _node_command(options, head=False), f"node-{number}"
            cluster = _start(cluster, folder, name, command, _with_gpus(environment, options, number))
            _wait(cluster, f"node {number + 1} of {options.nodes}", _joined(cluster, number + 1), begun)
        _wait(cluster, "the job server", lambda: get(f"{cluster.dashboard}/api/jobs/") is not None, begun)
        _wait(cluster, "MLflow", lambda: get(f"{cluster.mlflow}/health") is not None, begun)
    except BaseException:
        stop(cluster)
        raise
    return cluster


def check(options: Up) -> None:
    """ValueError, one line, for what cannot be."""
    for name in ("nodes", "cpus"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} {getattr(options, name)}: must be at least 1")
    if options.gpus < 0:
        raise ValueError(f"--gpus {options.gpus}: must be at least 0")
    if options.nodes * options.gpus > (there := len(_gpus())):
        raise ValueError(f"--gpus {options.gpus} on --nodes {options.nodes}: this machine has {there} GPUs")


def down(folder: Path) -> int:
    """Stops what `up` started; returns how many processes that were."""
    cluster = Cluster.read(folder)
    if cluster is None:
        return 0
    stopped = stop(cluster)
    (folder / STATE).unlink()
    return stopped


def stop(cluster: Cluster) -> int:
    """Ends all processes of the cluster, nodes before the head; returns how many."""
    processes = []
    for service in reversed(cluster.services):
        if process := service.process():
            with suppress(psutil.NoSuchProcess):  # it may end by itself at any moment
                processes += [process, *process.children(recursive=True)]
                process.send_signal(signal.SIGTERM)  # `ray start --block` and `mlflow server` end their own
    _, left = psutil.wait_procs(processes, timeout=15)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)
    from vgg_dist.ray_start import forget_ended_cluster  # in here: Ray takes seconds

    forget_ended_cluster()
    return len(processes)


def alive_nodes(cluster: Cluster) -> list[dict[str, Any]]:
    """What the dashboard says of each node that is up."""
    answer = get(f"{cluster.dashboard}/nodes?view=summary")
    nodes = json.loads(answer)["data"]["summary"] if answer else []
    return [node for node in nodes if node["raylet"].get("state") == "ALIVE"]


def _joined(cluster: Cluster, nodes: int) -> Callable[[], bool]:
    return lambda: len(alive_nodes(cluster)) == nodes


def get(url: str) -> bytes | None:
    """What the server answers to a request with Ray's token; None as long as it does not."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token()}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())
    except (OSError, urllib.error.URLError):
        return None


def token() -> str:
    """Ray's authentication token, where Ray looks for it; a new one in ~/.ray/auth_token if there is none."""
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return given
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(secrets.token_hex(32))
    return file.read_text().strip()


def _environment(mlflow: str) -> dict[str, str]:
    """What all nodes have, and so the jobs on them: the token, MLflow's address, this environment's python."""
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token(),
        "MLFLOW_TRACKING_URI": mlflow,
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "VGG_DIST_WAIT_S": os.environ.get("VGG_DIST_WAIT_S", "0"),  # no node of this machine comes later
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own


def _with_gpus(environment: dict[str, str], options: Up, number: int) -> dict[str, str]:
    """The environment of node `number`, which has the next of the machine's GPUs."""
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
    # Port 0: any that is free. The usual one is the same for all nodes, and this is one machine.
    own = ["--num-cpus", str(options.cpus), "--num-gpus", str(options.gpus), "--dashboard-agent-listen-port", "0"]
    if not head:  # Of several log monitors on one machine each would send every line.
        return [*ray, *own, "--address", f"{HOST}:{options.port}", "--include-log-monitor", "false"]
    server = ["--dashboard-host", HOST, "--dashboard-port", str(options.dashboard_port)]
    return [*ray, *own, "--head", "--port", str(options.port), *server]


def _mlflow_command(options: Up, storage: Path) -> list[str]:
    server = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(options.mlflow_port), "--workers", "1"]
    database, artifacts = f"sqlite:///{storage / 'mlflow.db'}", str(storage / "mlartifacts")
    return [*server, "--backend-store-uri", database, "--artifacts-destination", artifacts]


def _start(cluster: Cluster, folder: Path, name: str, command: Sequence[str], environment: dict[str, str]) -> Cluster:
    """Starts one more process of the cluster, and notes it."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    service = Service(name, process.pid, psutil.Process(process.pid).create_time(), str(log))
    cluster = Cluster(cluster.dashboard, cluster.mlflow, (*cluster.services, service))
    cluster.write(folder)
    return cluster


def _wait(cluster: Cluster, what: str, ready: Callable[[], bool], begun: float) -> None:
    """Returns when `ready`; ClusterError if that takes too long or one of the processes ends before."""
    end = time.monotonic() + PATIENCE_S
    while not ready():
        for service in cluster.services:
            if service.process() is None:
                raise ClusterError(f"{service.name} ended at its start: {_last_line(service.log)} ({service.log})")
        if time.monotonic() > end:
            raise ClusterError(f"{what}: not there after {PATIENCE_S:.0f} s; see {Path(cluster.services[-1].log).parent}")
        time.sleep(0.2)
    _say(f"{what} is there, {time.monotonic() - begun:.0f} s after the start")


def _last_line(log: str) -> str:
    lines = [line.strip() for line in Path(log).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "without a word"


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def _say(line: str) -> None:
    print(f"cluster: {line}", file=sys.stderr, flush=True)
