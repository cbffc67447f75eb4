"""Ray for a command: the cluster that there is, or one on this machine for the while."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket

import psutil
import ray
from ray._common.utils import reset_ray_address
from ray._private.services import find_bootstrap_address

from pipelines.failures import what_failed
from vgg_dist.proxies import bypass_proxies
from vgg_dist.ray_cluster.address import find_cluster, no_answer
from vgg_dist.ray_cluster.signals import unreached_by_signals

START_S = {"RAY_gcs_server_port_wait_time_s": "120", "RAY_worker_register_timeout_seconds": "300"}
"""How long Ray waits for its own processes where it is started here; its 30 s and 60 s are too short for a busy laptop."""


@unreached_by_signals()
def start_ray() -> None:
    """Connects to the cluster that RAY_ADDRESS or an earlier `ray start` tells of, or starts one on this machine.

    ValueError, one line, if there is none, it lets nobody in, or Ray does not start.
    """
    logging.getLogger("ray").setLevel(logging.WARNING)
    if ray.is_initialized():  # by the command that this one is a part of, or this is one of Ray's own processes
        return
    if address := find_cluster():
        bypass_proxies(address.rpartition(":")[0])
        _join(address)
    else:
        bypass_proxies(ray.util.get_node_ip_address())
        _start_here()


def _start_here() -> None:
    """Ray on this machine, which ends with this process. On a busy machine a start may time out: it is tried twice."""
    os.environ.pop("RAY_ADDRESS", None)  # empty or local; Ray would try to join it from the workers' processes
    for name, seconds in START_S.items():
        os.environ.setdefault(name, seconds)
    for again in (False, True):
        # Ray Train frees what a stopped trial holds once the dashboard says that it is gone. Where it is not told of the
        # dashboard, it looks for it among the machine's processes, and gives up if another Ray is up there.
        port = _free_port(8265)
        os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
        before = set(psutil.Process().children(recursive=True))
        try:
            ray.init("local", dashboard_port=port)
            return
        except Exception as error:  # Ray raises bare Exceptions for what timed out
            ray.shutdown()
            _end(set(psutil.Process().children(recursive=True)) - before)
            kinds = ValueError, OSError, ray.exceptions.AuthenticationError
            mistake = isinstance(error, kinds) and not isinstance(error, (TimeoutError, ConnectionError))
            if again or mistake:
                logs = f"{os.environ.get('RAY_TMPDIR', '/tmp')}/ray/session_latest/logs"
                twice = "" if mistake else " in two tries"
                raise ValueError(f"Ray did not start on this machine{twice}: {what_failed(error)} (see {logs})") from None
            print(f"Ray did not start on this machine ({what_failed(error)}); once more", flush=True)


def _end(processes: set[psutil.Process]) -> None:
    """What a start that failed has left: it would hold memory, and the ports of the next."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(processes), timeout=10)


def _join(address: str) -> None:
    # A cluster's processes do not inherit this one's environment: the tracking server may want a password, and where the
    # cluster is they have to know as above. What the job was submitted with is there already, and Ray refuses to be told
    # it twice.
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    known = job.get("env_vars") or {}
    passed = "MLFLOW_", "VGG_DIST_PHASES", "VGG_DIST_STOP_S"  # not VGG_DIST_CACHE, which is each node's own
    told = {key: value for key, value in os.environ.items() if key.startswith(passed)} | {"RAY_ADDRESS": address}
    if os.environ.get("RAY_ADDRESS", "").strip():  # where it is unset, Ray takes this machine's token
        os.environ["RAY_ADDRESS"] = address
    else:
        os.environ.pop("RAY_ADDRESS", None)
    try:
        ray.init(runtime_env={"env_vars": {key: value for key, value in told.items() if key not in known}})
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        *_, reason = str(error.__cause__ or error).strip().splitlines()
        raise ValueError(f"RAY_ADDRESS {address}: {reason}") from None
    except RuntimeError as error:  # another version of Ray or Python there, no node of the cluster on this machine
        raise ValueError(f"RAY_ADDRESS {address}: {' '.join(str(error).split())[:500]}") from None
    os.environ["RAY_ADDRESS"] = address


def describe_loss(error: ray.exceptions.RayError, what: str, name: str) -> str:
    """One line for a process of Ray's that is gone. An error that was raised in one is raised again, with its traceback."""
    if isinstance(error, ray.exceptions.RayTaskError):
        raise error
    return f"{what} was lost: killed, or out of memory ({what_failed(error)}); the same command, or {name}, goes on with it"


def forget_ended_cluster() -> None:
    """Removes what `ray start` leaves for commands to find its cluster by, once nothing answers there."""
    left = find_bootstrap_address(None)
    if left and no_answer(left):
        reset_ray_address()


def _free_port(usual: int) -> int:
    """The usual port of this machine, or if it is taken any other."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", usual))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
