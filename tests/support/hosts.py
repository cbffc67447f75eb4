"""Several hosts on one machine: a namespace each for network, mounts, host name and processes, and a switch between them.

Each has an address, a /tmp/ray and a /dev/shm of its own; links can be cut or made slow, and a host can be lost with what
runs on it. Needs root, iproute2 and util-linux.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SUBNET = "10.213.77"
# The first process of a host: it holds the namespaces and reaps what is left to it.
INIT = "import os, time\nwhile True:\n try: os.waitpid(-1, 0)\n except ChildProcessError: time.sleep(0.2)"
MISSING = [tool for tool in ("ip", "unshare", "nsenter", "mount", "setpriv") if shutil.which(tool) is None]
WHY_NOT = "not root" if os.geteuid() else f"no {', '.join(MISSING)}" if MISSING else ""
if not WHY_NOT and subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], check=False).returncode:
    WHY_NOT = "root may not make namespaces here"


class Host:
    """One of them."""

    def __init__(self, number: int, folder: Path, name: str | None = None) -> None:
        self.name, self.address, self.folder = name or f"host{number}", f"{SUBNET}.{10 + number}", folder
        (folder / "ray").mkdir(parents=True)
        Path("/tmp/ray").mkdir(exist_ok=True)
        flags = ["--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
        # Whatever becomes of this process, nothing of the hosts is left behind.
        line = ["setpriv", "--pdeathsig", "KILL", "unshare", *flags, sys.executable, "-c", INIT]
        self.holder = subprocess.Popen(line, stdin=subprocess.DEVNULL)
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children")
        while not (pids := children.read_text().split()):
            assert self.holder.poll() is None, "unshare failed"
        self.init = int(pids[0])
        names = [f"{SUBNET}.{10 + other} host{other}" for other in range(1, 10)]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names, ""]))
        own = f"mount --bind {folder}/hosts /etc/hosts && mount --bind {folder}/ray /tmp/ray && mount -t tmpfs x /dev/shm"
        self.run("sh", "-c", f"hostname {self.name} && ip link set lo up && {own}")

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line that runs `arguments` there."""
        return ["nsenter", "--target", str(self.init), "--net", "--mount", "--uts", "--pid", *arguments]

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 900) -> str:
        """Runs it there to its end; returns what it printed. AssertionError if it fails."""
        process = self.try_run(*arguments, env=env, timeout=timeout)
        assert process.returncode == 0, f"{' '.join(arguments)} on {self.name}: {process.stdout}"
        return process.stdout

    def try_run(
        self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 900
    ) -> subprocess.CompletedProcess[str]:
        """Runs it there to its end, however that is; its errors are with its output."""
        return subprocess.run(
            self.command(arguments),
            env=env,
            timeout=timeout,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def start(self, *arguments: str, env: Mapping[str, str] | None = None, log: str) -> subprocess.Popen[bytes]:
        """Starts it there; its output goes to `log` in the host's folder."""
        with (self.folder / log).open("wb") as output:
            return subprocess.Popen(self.command(arguments), env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def lose(self) -> None:
        """The host is gone, with all its processes."""
        self.holder.kill()
        self.holder.wait()


def _port(host: Host) -> str:
    """The switch's end of its cable."""
    return f"port-{host.address.rpartition('.')[2]}"


class Network:
    """Hosts on a switch."""

    def __init__(self, count: int, folder: Path) -> None:
        self.switch = Host(0, folder / "switch")
        self._folder = folder
        self._at_switch(f"ip link add switch type bridge && ip addr add {SUBNET}.1/24 dev switch && ip link set switch up")
        self.hosts: list[Host] = []
        for _ in range(count):
            self.add()

    def add(self, name: str | None = None) -> Host:
        """One more host."""
        number = len(self.hosts) + 1
        host = Host(number, self._folder / f"host{number}", name)
        self.hosts.append(host)
        port = _port(host)
        self._at_switch(f"ip link add {port} type veth peer name eth0 netns {host.init}")
        self._at_switch(f"ip link set {port} master switch && ip link set {port} up")
        host.run("sh", "-c", f"ip addr add {host.address}/24 dev eth0 && ip link set eth0 up")
        return host

    def _at_switch(self, script: str) -> None:
        # In its network only: processes of hosts have numbers that it does not know.
        subprocess.run(["nsenter", "--target", str(self.switch.init), "--net", "sh", "-c", script], check=True)

    def cut(self, host: Host) -> None:
        """Nothing goes to or from the host any more."""
        self._at_switch(f"ip link set {_port(host)} down")

    def slow(self, host: Host, megabits: int) -> None:
        """So many a second to the host, and from it."""
        shape = f"root tbf rate {megabits}mbit burst 256kb latency 400ms"
        self._at_switch(f"tc qdisc replace dev {_port(host)} {shape}")
        host.run("sh", "-c", f"tc qdisc replace dev eth0 {shape}")

    def close(self) -> None:
        """All hosts are gone."""
        for host in [*self.hosts, self.switch]:
            host.lose()


@contextlib.contextmanager
def network(count: int, folder: Path) -> Iterator[Network]:
    """Hosts for the while."""
    opened = Network(count, folder)
    try:
        yield opened
    finally:
        opened.close()
