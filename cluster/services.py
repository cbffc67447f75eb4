"""The processes of a local cluster: starts and stops them, records them in a file, and queries them over HTTP."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

STATE = "cluster.json"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # without a proxy


class ClusterError(RuntimeError):
    """The cluster cannot be started. The message is one line for the user."""


class ServiceEnded(ClusterError):
    """A process of the cluster ended while starting."""

    def __init__(self, name: str, log: str) -> None:
        super().__init__(f"{name} ended while starting: {_last_line(log)} ({log})")
        self.name = name


@dataclass(frozen=True)
class Service:
    """A process that `up` started."""

    name: str
    pid: int
    started: float
    """Creation time from psutil, which distinguishes the process from a later one with the same pid."""
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
    """The cluster that `up` started: URLs of its servers, and its processes."""

    dashboard: str
    mlflow: str
    services: tuple[Service, ...]

    @staticmethod
    def read(folder: Path) -> Cluster | None:
        """The cluster recorded in `folder`; None if there is none, or none of its processes is running."""
        try:
            record = json.loads((folder / STATE).read_text())
        except FileNotFoundError:
            return None
        cluster = Cluster(record["dashboard"], record["mlflow"], tuple(Service(**service) for service in record["services"]))
        return cluster if any(service.process() for service in cluster.services) else None

    def write(self, folder: Path) -> None:
        """Records the cluster in `folder`."""
        services = [vars(service) for service in self.services]
        (folder / STATE).write_text(
            json.dumps({"dashboard": self.dashboard, "mlflow": self.mlflow, "services": services}, indent=1)
        )


def start(cluster: Cluster, folder: Path, name: str, command: Sequence[str], environment: dict[str, str]) -> Cluster:
    """Starts another process of the cluster and records it. Returns the cluster with it."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    service = Service(name, process.pid, psutil.Process(process.pid).create_time(), str(log))
    cluster = Cluster(cluster.dashboard, cluster.mlflow, (*cluster.services, service))
    cluster.write(folder)
    return cluster


def stop(cluster: Cluster) -> int:
    """Ends all processes of the cluster, the head last. Returns how many there were."""
    processes = []
    for service in reversed(cluster.services):
        if process := service.process():
            with suppress(psutil.NoSuchProcess):  # it may end at any moment
                processes += [process, *process.children(recursive=True)]
                process.send_signal(signal.SIGTERM)  # `ray start --block` and `mlflow server` end their children
    _, left = psutil.wait_procs(processes, timeout=15)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)
    from vgg_dist.ray_cluster.start import forget_ended_cluster  # imported here because Ray takes seconds

    forget_ended_cluster()
    return len(processes)


def alive_nodes(cluster: Cluster) -> list[dict[str, Any]]:
    """The dashboard's data on each node that is alive."""
    answer = get(f"{cluster.dashboard}/nodes?view=summary")
    nodes = json.loads(answer)["data"]["summary"] if answer else []
    return [node for node in nodes if node["raylet"].get("state") == "ALIVE"]


def get(url: str) -> bytes | None:
    """The server's answer to a request with Ray's token; None if it does not answer."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token()}"})
    try:
        with DIRECT.open(request, timeout=10) as answer:
            return bytes(answer.read())
    except (OSError, urllib.error.URLError):
        return None


def token() -> str:
    """Ray's authentication token, from where Ray looks for it. Creates one in ~/.ray/auth_token if there is none."""
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return given
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(secrets.token_hex(32))
    return file.read_text().strip()


def _last_line(log: str) -> str:
    lines = [line.strip() for line in Path(log).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "its log is empty"
