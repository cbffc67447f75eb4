"""Finds the Ray cluster that a command runs on, from RAY_ADDRESS or an earlier `ray start`, and checks that it answers.

The check takes seconds; Ray itself would try for minutes to reach a cluster that is not there.
"""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

CONNECT_S = 5.0
ANSWER_S = 15.0  # the head may be busy
FORM = "give HOST:PORT of the cluster's head, such as 10.0.0.1:6379, auto, or local"


def cluster_named() -> bool:
    """Whether RAY_ADDRESS names a cluster: is neither empty nor `local`. The data may then be on its nodes only."""
    return _named() not in ("", "local")


def find_cluster() -> str | None:
    """HOST:PORT of the cluster that RAY_ADDRESS or an earlier `ray start` names; None where Ray is to be started here.

    ValueError, one line, if that is not an address, or no cluster answers there.
    """
    named = _named()
    if named == "local":
        return None
    address = named
    if named in ("", "auto"):
        from ray._private.services import find_bootstrap_address

        address = find_bootstrap_address(None) or ""
        if not address and not named:
            return None
        if not address:
            raise ValueError(
                "RAY_ADDRESS auto: no cluster was started on this machine by `ray start`; give HOST:PORT of one,"
                " or unset it to start Ray here"
            )
    _check_form(address)
    if why := no_answer(address):
        shown = f"auto, {address}" if named == "auto" else address
        fix = "; that is where `ray start` began a cluster, `ray stop` forgets it" if named in ("", "auto") else ""
        raise ValueError(f"RAY_ADDRESS {shown}: {why}{fix}")
    return address


def no_answer(address: str) -> str | None:
    """The reason why no Ray cluster answers at HOST:PORT; None if one does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, UnicodeError) as error:
        return f"nothing answers ({getattr(error, 'strerror', None) or error})"
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
    from ray.exceptions import AuthenticationError

    options = [("grpc.enable_http_proxy", 0)]
    tls = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
    try:
        # Without a token, which this machine may not have: Ray itself reports a wrong one.
        channel = init_grpc_channel(address, options) if tls else grpc.insecure_channel(address, options)
    except (RuntimeError, OSError) as error:
        return f"its certificates cannot be used ({' '.join(str(error).split())})"
    with channel:
        try:
            NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=ANSWER_S)
        except AuthenticationError:
            return None
        except grpc.RpcError as error:
            code = error.code()
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"it takes connections, but answers no request of Ray's for {ANSWER_S:.0f} s; {FORM}"
            if code not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                other = "no TLS" if tls else "TLS"
                return f"what answers there is not the head of a Ray cluster, or wants {other} (RAY_USE_TLS); {FORM}"
    return None


def is_on_this_machine() -> bool:
    """Whether Ray is started here, or RAY_ADDRESS is this machine's own: nodes of other machines do not join that."""
    address = (_named() or "local").rpartition("://")[2]
    return address == "local" or address.startswith(("127.", "localhost:", "[::1]"))


def _named() -> str:
    return os.environ.get("RAY_ADDRESS", "").strip()


def _check_form(address: str) -> None:
    scheme, separator, rest = address.rpartition("://")
    if scheme == "ray":
        raise ValueError(f"RAY_ADDRESS {address}: is for Ray Client, through which Ray Train cannot run; {FORM}")
    if scheme in ("http", "https"):
        raise ValueError(f"RAY_ADDRESS {address}: is the job server; use `ray job submit` with it, or {FORM}")
    try:
        parts = urlsplit(f"//{rest}")
        is_valid = parts.hostname and parts.port and parts.netloc == rest and "@" not in rest and not rest.count(" ")
    except ValueError:  # not a port
        is_valid = False
    if separator or not is_valid:
        raise ValueError(f"RAY_ADDRESS {address}: is not an address; {FORM}")
