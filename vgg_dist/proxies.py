"""Proxies that the environment names (http_proxy, https_proxy, all_proxy): none for this machine and the cluster's."""

from __future__ import annotations

import os

from pipelines.secrets import masked

THIS_MACHINE = "localhost", "127.0.0.1", "::1"


def bypass_proxies(*hosts: str) -> None:
    """No proxy between this process, or those it starts, and this machine, nor between it and `hosts`.

    An HTTP client sends a request for 127.0.0.1 to the proxy, too, which looks for the server on its own machine.
    """
    names = "no_proxy", "NO_PROXY"  # some read the one, some the other
    listed = [host.strip() for name in names for host in os.environ.get(name, "").split(",") if host.strip()]
    if "*" not in listed:
        listed += THIS_MACHINE + tuple(host.strip("[]") for host in hosts)
        os.environ.update(dict.fromkeys(names, ",".join(dict.fromkeys(listed))))


def describe_proxy(url: str) -> str:
    """The proxy that stands between this process and `url`, and how to go past it, for a message; empty if there is none."""
    from requests.utils import get_environ_proxies, select_proxy
    from urllib3.util import parse_url

    try:
        proxy = select_proxy(url, get_environ_proxies(url))
        host = parse_url(url).host
    except ValueError:  # no URL
        return ""
    return f" (through the proxy {masked(proxy)}; no_proxy={host} goes past it)" if proxy else ""
