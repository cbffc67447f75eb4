"""Hosts as network namespaces of this machine, each with one link to a switch, whose rate `tc tbf` limits both ways.

Only the network is separate: the hosts share cores, memory and files. Needs root and iproute2 (ip, tc).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence

PREFIX = "vgg-scaling"
SUBNET = "10.213.91"
LINK = "eth0"
BURST_S = 2e-3  # tbf lets so many seconds of its rate through at once
MIN_BURST_BYTES = 128 * 1024  # more than a segment that the kernel hands over as one (64 KiB), else tbf cuts it up
QUEUE_MS = 50  # what waits longer is dropped, as by a switch


def address(host: int) -> str:
    """The IPv4 address of a host, counted from 0."""
    return f"{SUBNET}.{host + 1}"


def burst_bytes(mbits: float) -> int:
    """The bucket of the token bucket filter for a rate in Mbit/s."""
    return max(MIN_BURST_BYTES, int(mbits * 1e6 / 8 * BURST_S))


class Hosts:
    """`count` hosts on a switch. ValueError, one line, where they cannot be made."""

    def __init__(self, count: int) -> None:
        check_possible()
        remove_abandoned()
        self._switch = f"{PREFIX}-{os.getpid()}-switch"
        self._names = [f"{PREFIX}-{os.getpid()}-{number}" for number in range(count)]
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for name in (self._switch, *self._names):
            _ip("netns", "add", name)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for number, name in enumerate(self._names):
            port = f"port{number}"
            _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", LINK, "netns", name)
            _ip("-n", self._switch, "link", "set", port, "master", "bridge")
            _ip("-n", self._switch, "link", "set", port, "up")
            _ip("-n", name, "addr", "add", f"{address(number)}/24", "dev", LINK)
            for link in ("lo", LINK):
                _ip("-n", name, "link", "set", link, "up")

    def limit(self, mbits: float) -> None:
        """Limits every link to `mbits` Mbit/s in each direction."""
        rate = ["rate", f"{round(mbits * 1e6)}bit", "burst", str(burst_bytes(mbits)), "latency", f"{QUEUE_MS}ms"]
        for number, name in enumerate(self._names):
            for namespace, link in ((name, LINK), (self._switch, f"port{number}")):
                _run("tc", "-n", namespace, "qdisc", "replace", "dev", link, "root", "tbf", *rate)

    def command(self, host: int, arguments: Sequence[str]) -> list[str]:
        """The command line that runs `arguments` on a host."""
        return ["ip", "netns", "exec", self._names[host], *arguments]

    def close(self) -> None:
        """Removes the hosts. What still runs on them must have been ended before."""
        for name in (*self._names, self._switch):
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)


@contextlib.contextmanager
def hosts(count: int) -> Iterator[Hosts]:
    """Hosts that are removed at the end of the context."""
    opened = Hosts(count)
    try:
        yield opened
    finally:
        opened.close()


def check_possible() -> None:
    """ValueError, one line, if this process cannot make network namespaces."""
    reason = why_impossible()
    if reason:
        raise ValueError(f"scaling: {reason} (hosts are network namespaces); --no-measure predicts without them")


def why_impossible() -> str:
    """Why this process cannot make network namespaces; empty if it can."""
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"needs Linux with iproute2; not found: {', '.join(missing)}"
    if os.geteuid():
        return "needs root"
    tried = subprocess.run(["unshare", "--net", "true"], stderr=subprocess.PIPE, text=True, check=False)
    return f"root may not make network namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


def remove_abandoned() -> None:
    """Removes the namespaces of benchmarks that were killed."""
    for line in _ip("netns", "list").splitlines():
        found = re.match(rf"{PREFIX}-(\d+)-\w+", line)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            subprocess.run(["ip", "netns", "del", found[0]], stderr=subprocess.DEVNULL, check=False)


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"scaling: `{' '.join(command)}` failed: {' '.join(done.stderr.split())}")
    return done.stdout
