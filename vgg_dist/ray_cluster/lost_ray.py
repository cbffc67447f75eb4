"""What a command does when a process of Ray's is lost: an actor, the raylet of this machine, or the head's GCS.

For a lost raylet or GCS, Ray ends the process from C++, after seconds or a minute, with pages on stderr and nothing cleaned
up. A thread here looks first: it prints one line, has the command finish its MLflow run, and ends the process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import ray
from ray._private import worker

from pipelines.failures import what_failed
from pipelines.secrets import masked

LOOK_S = 1.0
GCS_AWAY_S = 40.0  # a head may come back; Ray waits for 60 s
GRACE_S = 3.0  # for a command to end by itself, where all its processes were sent a signal; Ray waits for 10 s
RECORD_S = 30.0  # for MLflow to answer


def describe_loss(error: ray.exceptions.RayError, what: str, name: str) -> str:
    """One line for an actor or task that was lost. An error that was raised inside of it is raised again."""
    if isinstance(error, ray.exceptions.RayTaskError):
        raise error
    return f"{what} was lost: killed, or out of memory ({what_failed(error)}); the same command, or {name}, resumes it"


@contextlib.contextmanager
def watched_cluster(command: str, leave: Callable[[str], None] | None = None) -> Iterator[None]:
    """Ends the process with status 2 and one line if Ray is lost meanwhile; first `leave` is called with the reason."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(command, leave, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(command: str, leave: Callable[[str], None] | None, over: threading.Event) -> None:
    node = worker.global_worker.node
    if node is None:
        return
    host, _, port = node.gcs_address.rpartition(":")
    own_head = bool(getattr(node, "head", False))
    answered = time.monotonic()
    while not over.wait(LOOK_S):
        if _answers(socket.AF_UNIX, node.raylet_socket_name) is False:
            if not over.wait(GRACE_S):
                _end(command, leave, "Ray's raylet on this machine was lost")
            return
        there = _answers(socket.AF_INET6 if ":" in host else socket.AF_INET, (host.strip("[]"), int(port)))
        if there:
            answered = time.monotonic()
        elif (own_head and there is False) or time.monotonic() - answered > GCS_AWAY_S:
            if not over.wait(GRACE_S):
                _end(command, leave, f"Ray's GCS at {node.gcs_address} was lost")
            return


def _answers(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool | None:
    """Whether something listens there; None if that is unknown, as for a machine that is busy or cut off."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(address)
        except (ConnectionError, FileNotFoundError):
            return False
        except OSError:
            return None
    return True


def _end(command: str, leave: Callable[[str], None] | None, why: str) -> None:
    why += ": killed, or out of memory; the same command resumes from what is saved"
    print(f"{command}: {masked(why)}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    if leave is not None:
        recorded = threading.Thread(target=leave, args=(why,), daemon=True)
        recorded.start()
        recorded.join(RECORD_S)
    with contextlib.suppress(Exception):
        if ray.is_initialized() and worker.global_worker.node is not None:
            worker.global_worker.node.kill_all_processes(check_alive=False)
    if sys.__stdout__ is not None and sys.__stdout__.isatty():
        print(file=sys.__stdout__, flush=True)  # below a live line
    os._exit(2)
