"""A container without an engine: a process in namespaces of its own, on a root of its own, as a user without capabilities.

The root is an unpacked image; or it has this machine's /usr, the environment as /opt/venv and the repository, all read-only.
The process is number 1 there, as in a real one, so that a signal which it does not handle is ignored. Needs root and
util-linux.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.host_cluster import POSTGRES
from support.hosts import Host
from support.paths import ROOT

DEVICES = "null", "zero", "full", "random", "urandom", "tty"
ETC = [f"/etc/{name}" for name in ("ld.so.cache", "nsswitch.conf", "services", "ssl", "alternatives", "localtime", "fonts")]
CAPABILITIES = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]


@dataclass(frozen=True)
class Image:
    """What an image says, or would say."""

    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"
    users: Mapping[int, str] = field(default_factory=dict)
    command: Sequence[str] = ()
    """Its entrypoint and what that runs, where the manifest has no command."""
    stop_signal: signal.Signals = signal.SIGTERM
    """What Kubernetes sends to end it."""
    root: Path | None = None
    """Where it is unpacked. None: this machine stands in for it."""


@dataclass(frozen=True)
class Mount:
    """Something that is there besides the image."""

    path: str
    source: Path | None
    """A folder or a file of this machine; None: memory."""
    read_only: bool = False
    size: int = 64 << 20
    """Of memory, in bytes."""


@dataclass(frozen=True)
class User:
    """Whom the process runs as."""

    uid: int
    gid: int
    group: int | None
    """The one group besides, if any."""

    def drop(self) -> list[str]:
        """The command line that becomes this user, without any capability."""
        groups = "--clear-groups" if self.group is None else f"--groups={self.group}"
        return ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", groups, *CAPABILITIES]


class Container:
    """A running one. Its output goes to `log`."""

    def __init__(
        self,
        host: Host,
        folder: Path,
        image: Image,
        command: Sequence[str],
        env: Mapping[str, str],
        user: User,
        mounts: Sequence[Mount],
        *,
        workdir: str | None = None,
        read_only: bool = True,
    ) -> None:
        folder.mkdir(parents=True)
        self.host, self.env, self.user, self.log = host, dict(env), user, folder / "log"
        script = _setup(folder, image, mounts, read_only)
        script += f"cd {shlex.quote(workdir or image.workdir)}\n"
        script += f"echo >&3; exec 3>&-; exec {shlex.join([*user.drop(), *command])}\n"
        (folder / "setup").write_text(script)
        line = ["setpriv", "--pdeathsig", "KILL", "nsenter", "--target", str(host.init), "--net", "--uts"]
        line += ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "sh", str(folder / "setup")]
        started = folder / "started"
        started.touch()
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                ["sh", "-c", f'exec "$@" 3>{shlex.quote(str(started))}', "sh", *line],
                env=self.env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.init: int | None = None
        while self.process.poll() is None and not started.stat().st_size:
            time.sleep(0.01)
        assert started.stat().st_size, f"the root was not made: {self.output()}"
        if self.process.poll() is None and (pids := children.read_text().split()):
            self.init = int(pids[0])

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line that runs `arguments` in there, as its user."""
        own = ["nsenter", "--target", str(self.init), "--net", "--uts", "--ipc", "--mount", "--pid"]
        return [*own, *self.user.drop(), *arguments]

    def run(self, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Runs it in there to its end, as `kubectl exec` does; its errors are with its output."""
        return subprocess.run(
            self.command(arguments), env=self.env, timeout=timeout, text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def send(self, number: signal.Signals) -> None:
        """A signal to its first process; SIGKILL ends all of them."""
        if self.init is not None and self.process.poll() is None:
            os.kill(self.init, number)

    def stop(self, timeout: float = 60) -> int:
        """As an engine does, by SIGTERM; the exit status. subprocess.TimeoutExpired if it goes on."""
        self.send(signal.SIGTERM)
        return self.process.wait(timeout)

    def wait_for_output(self, text: str, seconds: float = 480) -> None:
        """AssertionError if it ends without it, or the time does."""
        deadline = time.monotonic() + seconds
        while text not in self.output():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.1)


def _setup(folder: Path, image: Image, mounts: Sequence[Mount], read_only: bool) -> str:
    """A script, for a mount namespace of its own, that makes the root and enters it."""
    (folder / "root").mkdir()
    lines = ["set -e", "ulimit -n 1048576 2>/dev/null || true", f"cd {shlex.quote(str(folder))}"]
    lines += _machine(folder, image) if image.root is None else _unpacked(image.root)
    lines += ["mkdir -p dev proc sys old"]
    lines += [line for device in DEVICES for line in _bind(Mount(f"/dev/{device}", Path("/dev", device)))]
    lines += [f"ln -sfn /proc/self/fd{end}" for end in (" dev/fd", "/0 dev/stdin", "/1 dev/stdout", "/2 dev/stderr")]
    lines += ["mount -t proc proc proc", "mount --rbind /sys sys"]
    given = {mount.path: mount for mount in [Mount("/dev/shm", None), *mounts]}
    for _, mount in sorted(given.items()):
        lines += _bind(mount)
    if image.root is None:  # last: this machine may have some of it below /tmp
        lines += _programs()
    lines += ["pivot_root . old", "cd /", "umount -l /old", *["mount -o remount,ro /"] * read_only]
    return "\n".join([*lines, ""])


def _unpacked(image: Path) -> list[str]:
    """The lines that mount the image, and enter it: below a layer of memory, so that mount points can be made in it."""
    layers = f"lowerdir={shlex.quote(str(image))},upperdir=layer/new,workdir=layer/work"
    return [
        "mkdir layer",
        "mount -t tmpfs layer layer",
        "mkdir layer/new layer/work",
        f"mount -t overlay -o {layers} root root",
        "cd root",
    ]


def _machine(folder: Path, image: Image) -> list[str]:
    """The lines that make a root for this machine's programs, and enter it."""
    passwd = [f"{name}:x:{uid}:{uid}::/nonexistent:/usr/sbin/nologin" for uid, name in image.users.items()]
    (folder / "passwd").write_text("\n".join(["root:x:0:0:root:/root:/bin/bash", *passwd, ""]))
    lines = ["mount -t tmpfs -o mode=755 root root", "cd root"]
    lines += ["mkdir -p tmp var/tmp var/run home/ubuntu opt", "chmod 1777 tmp var/tmp"]
    for path in map(Path, ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")):
        if path.is_symlink():
            lines.append(f"ln -s {os.readlink(path)} .{path}")
        elif path.exists():
            lines += _bind(Mount(str(path), path, read_only=True))
    lines.append(f"ln -s {shlex.quote(sys.prefix)} opt/venv")
    return lines + _bind(Mount("/etc/passwd", folder / "passwd", read_only=True))


def _programs() -> list[str]:
    """The lines that mount this machine's programs, the environment and the repository."""
    lines: list[str] = []
    # The interpreter that the environment was made of may lie anywhere.
    kept: list[Path] = []
    for path in map(Path, ("/usr", *ETC, str(ROOT), sys.prefix, sys.base_prefix, str(POSTGRES))):
        if path.exists() and not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
            lines += _bind(Mount(str(path), path, read_only=True))
    return lines


def _bind(mount: Mount) -> list[str]:
    """The lines that mount it below the working folder."""
    target = shlex.quote(f".{mount.path}")
    if mount.source is None:
        options = f"mode=1777,size={mount.size}"
        return [f"mkdir -p {target}", f"mount -t tmpfs -o {options} memory {target}"]
    make = f"mkdir -p {target}" if mount.source.is_dir() else f"mkdir -p $(dirname {target}) && touch {target}"
    lines = [f"[ -e {target} ] || {{ {make}; }}", f"mount --bind {shlex.quote(str(mount.source))} {target}"]
    return lines + [f"mount -o remount,bind,ro {target}"] * mount.read_only


def missing_tools() -> str:
    """Those that are not here, for a test to say why it is skipped."""
    return ", ".join(tool for tool in ("kubectl", "curl", "pivot_root") if shutil.which(tool) is None)
