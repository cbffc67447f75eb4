"""Keeps requests to this machine and the cluster from going through a proxy (http_proxy, https_proxy, all_proxy)."""

from __future__ import annotations

import os

from pipelines.secrets import masked

THIS_MACHINE = "localhost", "127.0.0.1", "::1"


def bypass_proxies(*hosts: str) -> None:
    """Adds this machine and `hosts` to no_proxy, for this process and those that it starts.

    Otherwise an HTTP client sends even a request for 127.0.0.1 to the proxy, which looks for the server on its own machine.
    """
    names = "no_proxy", "NO_PROXY"  # libraries read one or the other
    listed = [host.strip() for name in names for host in os.environ.get(name, "").split(",") if host.strip()]
    if "*" not in listed:
        listed += THIS_MACHINE + tuple(host.strip("[]") for host in hosts)
        os.environ.update(dict.fromkeys(names, ",".join(dict.fromkeys(listed))))


def describe_proxy(url: str) -> str:
    """For an error message: the proxy for `url`, and how to bypass it; empty if there is none."""
    from requests.utils import get_environ_proxies, select_proxy
    from urllib3.util import parse_url

    try:
        proxy = select_proxy(url, get_environ_proxies(url))
        host = parse_url(url).host
    except ValueError:  # not a URL
        return ""
    return f" (through the proxy {masked(proxy)}; no_proxy={host} bypasses it)" if proxy else ""
