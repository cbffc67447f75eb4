"""Which Ray cluster a command runs on, by RAY_ADDRESS in all its forms or an earlier `ray start`; checked in seconds.

Ray itself would try for minutes to reach what is not there.
"""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

CONNECT_S = 5.0
ANSWER_S = 15.0  # of a head that may be busy
FORM = "give HOST:PORT of the cluster's head, such as 10.0.0.1:6379, auto, or local"


def cluster_named() -> bool:
    """Whether the environment names a cluster: RAY_ADDRESS is neither empty nor local. Data may then be there only."""
    return _named() not in ("", "local")


def find_cluster() -> str | None:
    """HOST:PORT of the cluster that RAY_ADDRESS or an earlier `ray start` tells of; None where Ray is to be started here.

    ValueError, one line, where that is no address, or no cluster answers there.
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
                "RAY_ADDRESS auto: no `ray start` has begun a cluster on this machine; give HOST:PORT of one,"
                " or unset it to start Ray here"
            )
    _check_form(address)
    if why := no_answer(address):
        shown = f"auto, {address}" if named == "auto" else address
        mend = "; that is where `ray start` began a cluster, `ray stop` forgets it" if named in ("", "auto") else ""
        raise ValueError(f"RAY_ADDRESS {shown}: {why}{mend}")
    return address


def no_answer(address: str) -> str | None:
    """Why HOST:PORT is not a Ray cluster that answers; None where it is one."""
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
        # Without a token, which this machine may lack: whether it is right Ray says itself.
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


def _named() -> str:
    return os.environ.get("RAY_ADDRESS", "").strip()


def _check_form(address: str) -> None:
    scheme, separator, rest = address.rpartition("://")
    if scheme == "ray":
        raise ValueError(f"RAY_ADDRESS {address}: is Ray Client's, through which Ray Train cannot run; {FORM}")
    if scheme in ("http", "https"):
        raise ValueError(f"RAY_ADDRESS {address}: is the job server's; send it the command by `ray job submit`, or {FORM}")
    try:
        parts = urlsplit(f"//{rest}")
        whole = parts.hostname and parts.port and parts.netloc == rest and "@" not in rest and not rest.count(" ")
    except ValueError:  # a port that is none
        whole = False
    if separator or not whole:
        raise ValueError(f"RAY_ADDRESS {address}: is no address; {FORM}")
