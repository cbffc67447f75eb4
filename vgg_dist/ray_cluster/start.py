"""Connects a command to Ray: to a running cluster, or to a temporary one that it starts on this machine."""

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
from vgg_dist.ray_cluster.worker_output import take_worker_output

START_S = {"RAY_gcs_server_port_wait_time_s": "120", "RAY_worker_register_timeout_seconds": "300"}
"""How long Ray waits for its own processes when it is started here; its 30 s and 60 s are too short for a busy laptop."""
QUIET = "ray._private.authentication.authentication_token_setup"  # its warning says only that tokens are in use


@unreached_by_signals()
def start_ray() -> None:
    """Connects to the cluster that RAY_ADDRESS or an earlier `ray start` names, or starts one on this machine.

    No-op where this process is connected already. ValueError, one line, if the cluster does not answer or refuses, or Ray
    does not start.
    """
    logging.getLogger("ray").setLevel(logging.WARNING)
    if ray.is_initialized():  # by the command that this is a step of, or this is one of Ray's own processes
        return
    logging.getLogger(QUIET).setLevel(logging.ERROR)
    take_worker_output()
    if address := find_cluster():
        bypass_proxies(address.rpartition(":")[0])
        _join(address)
    else:
        bypass_proxies(ray.util.get_node_ip_address())
        _start_here()


def _start_here() -> None:
    """Starts Ray on this machine; it ends with this process. Tries twice, as a start may time out on a busy machine."""
    os.environ.pop("RAY_ADDRESS", None)  # empty or local: in the workers' processes Ray would try to connect to it
    for name, seconds in START_S.items():
        os.environ.setdefault(name, seconds)
    for again in (False, True):
        # Ray Train frees what a stopped trial holds once the dashboard reports its end. Unless told where the dashboard is,
        # it looks for one among the machine's processes, and gives up if another Ray runs there.
        port = _free_port(8265)
        os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
        before = set(psutil.Process().children(recursive=True))
        try:
            ray.init("local", dashboard_port=port, logging_level=logging.WARNING)
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
            print(f"Ray did not start on this machine ({what_failed(error)}); trying again", flush=True)


def _end(processes: set[psutil.Process]) -> None:
    """Ends what a failed start has left running: it would hold memory, and the ports that the next start needs."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(processes), timeout=10)


def _join(address: str) -> None:
    # A cluster's processes do not inherit this process's environment, but need some of it: the tracking server's password,
    # and the cluster's address. What the job was submitted with is set there already, and Ray refuses to set it twice.
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    known = job.get("env_vars") or {}
    passed = "MLFLOW_", "VGG_DIST_PHASES", "VGG_DIST_STOP_S"  # not VGG_DIST_CACHE, which is each node's own
    told = {key: value for key, value in os.environ.items() if key.startswith(passed)} | {"RAY_ADDRESS": address}
    if os.environ.get("RAY_ADDRESS", "").strip():  # where it is not set, Ray uses this machine's token
        os.environ["RAY_ADDRESS"] = address
    else:
        os.environ.pop("RAY_ADDRESS", None)
    try:
        env_vars = {key: value for key, value in told.items() if key not in known}
        ray.init(runtime_env={"env_vars": env_vars}, logging_level=logging.WARNING)
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        *_, reason = str(error.__cause__ or error).strip().splitlines()
        raise ValueError(f"RAY_ADDRESS {address}: {reason}") from None
    except RuntimeError as error:  # another version of Ray or Python there, no node of the cluster on this machine
        raise ValueError(f"RAY_ADDRESS {address}: {' '.join(str(error).split())[:500]}") from None
    os.environ["RAY_ADDRESS"] = address


def forget_ended_cluster() -> None:
    """Removes the address that `ray start` left on this machine, if nothing answers there any more."""
    left = find_bootstrap_address(None)
    if left and no_answer(left):
        reset_ray_address()


def _free_port(usual: int) -> int:
    """The usual port if it is free on this machine, else another."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", usual))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
