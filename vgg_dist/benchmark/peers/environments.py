"""The Python environments of peers whose packages are not installed here.

Each is a virtual environment on top of this one: pip installs the peer's packages and those that clash with the versions
here; all else (torch above all) is taken from here, so that what is compared runs on the same torch. They are kept in
`~/.cache/vgg_dist/benchmark-envs` (or `$VGG_DIST_CACHE`) and made anew when this environment has moved.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from pipelines.remote import cache_folder
from vgg_dist.benchmark.peers import Peer, PeerError


def interpreter(name: str, peer: Peer) -> str:
    """The Python that can run the peer: this one where its package is here. PeerError if it cannot be installed."""
    if importlib.util.find_spec(peer.package) is not None:
        return sys.executable
    folder = environment(name, peer)
    python = folder / "bin" / "python"
    if not is_complete(folder):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            venv.create(folder, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise PeerError(f"no environment could be made in {folder}: {error}") from None
        site_packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        Path(site_packages, "below.pth").write_text("".join(f"{path}\n" for path in _below()))
        install(python, peer)
        (folder / "complete").touch()
    return str(python)


def environment(name: str, peer: Peer) -> Path:
    """The folder of the peer's environment, whether it is there or not."""
    key = hashlib.sha256("\0".join([sys.version, *_below(), *peer.requirements]).encode()).hexdigest()[:12]
    return cache_folder(None) / "benchmark-envs" / f"{name}-{key}"


def is_complete(folder: Path) -> bool:
    """Whether the environment has been made to the end."""
    return (folder / "complete").exists()


def _below() -> list[str]:
    return list(dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))


def install(python: Path, peer: Peer) -> None:
    """Installs the peer's requirements. PeerError, with pip's reason, if that fails."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *peer.requirements]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise PeerError(f"pip could not install {' '.join(peer.requirements)}: {reason(done.stdout)}")


def reason(output: str) -> str:
    """The line of pip's output that says why it failed."""
    errors = [line.strip() for line in output.splitlines() if re.match(r"\s*(\w*Error|ERROR|error): ", line)]
    # What a build raised says more than that a build has failed, which is what pip ends with.
    raised = [line for line in errors if not line.lower().startswith("error: ")]
    return (raised or errors or output.splitlines() or ["no output"])[-1]
