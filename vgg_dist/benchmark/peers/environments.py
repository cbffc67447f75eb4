"""Python environments for peers whose packages are not installed in this one.

Each is a virtual environment on top of this one: pip installs the peer's packages, and other versions of packages that
conflict. Everything else, above all torch, comes from this environment, so all loaders are compared on the same torch. The
environments are kept in `~/.cache/vgg_dist/benchmark-envs` (or `$VGG_DIST_CACHE`), and created again if this one moves.
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
    """The Python that can run the peer: this one if it has the package. Raises PeerError if that cannot be installed."""
    if importlib.util.find_spec(peer.package) is not None:
        return sys.executable
    folder = environment(name, peer)
    python = folder / "bin" / "python"
    if not is_complete(folder):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            venv.create(folder, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise PeerError(f"could not create an environment in {folder}: {error}") from None
        site_packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        Path(site_packages, "below.pth").write_text("".join(f"{path}\n" for path in _site_packages()))
        install(python, peer)
        (folder / "complete").touch()
    return str(python)


def environment(name: str, peer: Peer) -> Path:
    """The folder of the peer's environment, whether it exists or not."""
    key = hashlib.sha256("\0".join([sys.version, *_site_packages(), *peer.requirements]).encode()).hexdigest()[:12]
    return cache_folder(None) / "benchmark-envs" / f"{name}-{key}"


def is_complete(folder: Path) -> bool:
    """Whether the environment was created completely."""
    return (folder / "complete").exists()


def _site_packages() -> list[str]:
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
    # pip ends with the fact that a build failed; the exception that the build raised says why.
    raised = [line for line in errors if not line.lower().startswith("error: ")]
    return (raised or errors or output.splitlines() or ["no output"])[-1]
