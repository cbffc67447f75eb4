"""A container of an image without a container engine: namespaces, a read-only root, a user without capabilities."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hosts import Host

DEVICES = "null", "zero", "full", "random", "urandom", "tty"
MEMORY_MB = {"/tmp": 8192, "/dev/shm": 1024}
"""What k8s/ mounts there; HOME is /tmp there, too."""
STORAGE = "/storage"
"""Where data and runs are: a folder that the group may write to, like a volume."""


@dataclass(frozen=True)
class Image:
    """An unpacked image, and what it says of how it is run."""

    root: Path
    config: Mapping[str, Any]
    """OCI's: Env, User, WorkingDir, Entrypoint, Cmd."""

    @classmethod
    def read(cls, root: Path, inspected: str) -> Image:
        """From the output of `buildah inspect`."""
        return cls(root, json.loads(inspected)["OCIv1"]["config"])

    @property
    def env(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.config["Env"])

    def become_user(self) -> list[str]:
        """The command line, with the image's own setpriv, that becomes its user and drops what k8s/ drops."""
        uid, gid = self.config["User"].split(":")
        drop = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
        return ["/usr/bin/setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *drop]


class Container:
    """A running one: its entrypoint is process 1. Its output goes to a log."""

    def __init__(self, image: Image, host: Host, folder: Path, *command: str, env: Mapping[str, str] | None = None) -> None:
        """`command`, or else the image's; `folder`: of its log and of what it is made from."""
        self.image, self.env = image, {**image.env, "HOME": "/tmp", **(env or {})}
        self.log = folder / "log"
        storage = host.folder / "storage"
        storage.mkdir(exist_ok=True)
        os.chown(storage, 0, 1000)
        storage.chmod(0o2775)
        self.storage = storage
        line = [*image.become_user(), *image.config["Entrypoint"], *(command or image.config["Cmd"])]
        (folder / "root").mkdir(parents=True)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{host.address} {host.name}\n")
        (folder / "start").write_text(_mounts(image.root, folder, storage) + self._script(line))
        # The host's first process keeps its network; whatever becomes of this process, the container's end with it.
        spaces = ["--mount", "--pid", "--ipc", "--fork", "--kill-child"]
        own = ["setpriv", "--pdeathsig", "KILL", "nsenter", "--target", str(host.init), "--net", "--uts", "unshare", *spaces]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*own, "sh", str(folder / "start")], env={"PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def _script(self, line: Sequence[str]) -> str:
        """Becomes that, in the image's working folder and with no other variables than the container's."""
        variables = [f"{name}={value}" for name, value in self.env.items()]
        return f"cd {self.image.config['WorkingDir']}\nexec {shlex.join(['/usr/bin/env', '-i', *variables, *line])}\n"

    @property
    def init(self) -> int | None:
        """This machine's number of its process 1; None before that is the entrypoint, and after its end."""
        try:
            pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            programs = [Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0] for pid in pids]
        except OSError:
            return None
        return int(pids[0]) if programs == self.image.config["Entrypoint"][:1] else None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def run(self, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Runs it in there to its end, as `docker exec` does; its errors are with its output."""
        own = ["nsenter", "--target", str(self.init), "--net", "--uts", "--ipc", "--mount", "--pid"]
        script = self._script([*self.image.become_user(), *arguments])
        return subprocess.run(
            [*own, "/bin/sh", "-c", script], timeout=timeout, text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def stop(self, timeout: float = 60) -> int:
        """As an engine does, by SIGTERM to process 1; the exit status. subprocess.TimeoutExpired if it goes on."""
        if self.init is not None:
            os.kill(self.init, signal.SIGTERM)
        return self.process.wait(timeout)

    def wait_for_output(self, text: str, seconds: float = 480) -> None:
        """AssertionError if it ends without it, or the time does."""
        deadline = time.monotonic() + seconds
        while text not in self.output():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.1)

    def kill(self) -> None:
        """Nothing of it is left."""
        self.process.kill()
        self.process.wait()


def _mounts(image: Path, folder: Path, storage: Path) -> str:
    """A script, for a mount namespace of its own, that makes the container's root in the folder and enters it."""
    lower, own = shlex.quote(str(image)), shlex.quote(str(folder))
    upper = f"{own}/upper"
    lines = ["set -e", f"mkdir {upper}", f"mount -t tmpfs upper {upper}", f"mkdir {upper}/on {upper}/work"]
    # Over the image, so that mount points can be made in it.
    lines += [f"mount -t overlay -o lowerdir={lower},upperdir={upper}/on,workdir={upper}/work root {own}/root"]
    lines += [f"cd {own}/root", f"mkdir -p dev proc sys old .{STORAGE}", "touch etc/hosts"]
    lines += [
        "mount -t tmpfs -o mode=755 dev dev",
        "mkdir dev/shm dev/pts",
        "mount -t proc proc proc",
        "mount -t sysfs -o ro sys sys",
    ]
    lines += [f"touch dev/{name} && mount --bind /dev/{name} dev/{name}" for name in DEVICES]
    lines += [f"ln -s /proc/self/fd{end}" for end in (" dev/fd", "/0 dev/stdin", "/1 dev/stdout", "/2 dev/stderr")]
    lines += [f"mount -t tmpfs -o mode=1777,size={size}m memory .{path}" for path, size in MEMORY_MB.items()]
    lines += [f"mount --bind {shlex.quote(str(storage))} .{STORAGE}", f"mount --bind {own}/hosts etc/hosts"]
    lines += ["pivot_root . old", "cd /", "umount -l /old", "mount -o remount,ro /"]
    return "\n".join([*lines, ""])
