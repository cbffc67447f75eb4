"""Builds cluster/Dockerfile with buildah, without a container engine or a registry.

The base that it names cannot be pulled everywhere, so another is made by debootstrap and given its name: Ubuntu 24.04 with
the certificates, the user and the variables that NVIDIA's image has, but without its libraries of CUDA.
"""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from support.container import Image, User
from support.paths import ROOT

DOCKERFILE = ROOT / "cluster" / "Dockerfile"
BASES = set(re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.MULTILINE))
SUITE = "noble"
SCRIPT = Path("/usr/share/debootstrap/scripts/gutsy")
"""debootstrap's script for all Ubuntu releases since gutsy; Debian's debootstrap has no script for the newest."""
KEYS = "pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb"
KEYS_SHA256 = "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8"
"""Ubuntu's archive keys of 2012 and 2018."""
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# As in nvidia/cuda's own Dockerfile.
VARIABLES = {
    "PATH": "/usr/local/nvidia/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LD_LIBRARY_PATH": "/usr/local/cuda/lib64",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
}
# As in Docker's ubuntu: apt keeps neither packages nor its caches.
CLEAN = (
    'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };\n'
    'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";\n'
)
TOOLS = "buildah", "debootstrap", "dpkg-deb"
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
GIB_FREE = 25


@contextlib.contextmanager
def built_image(logs: Path) -> Iterator[tuple[Image, User]]:
    """The image, unpacked inside the context, and its user. The output of the builds goes to the folder of logs."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="vgg-dist-image-") as folder:
        builder = Builder(Path(folder), logs)
        try:
            builder.make_base()
            builder.build()
            container = builder.buildah("from", "--pull-never", "vgg-dist")
            yield builder.read(container)
        finally:
            for line in (["umount", "--all"], ["rm", "--all"], ["rmi", "--all", "--force"]):
                builder.buildah(*line, check=False)
            if os.path.ismount(f"{folder}/storage/overlay"):
                subprocess.run(["umount", f"{folder}/storage/overlay"], check=True)


class Builder:
    """Buildah with a separate storage."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder, self.logs = folder, logs
        self.env = {**os.environ, "TMPDIR": str(folder)}

    def buildah(self, *arguments: str, check: bool = True) -> str:
        """Runs buildah and returns its output. Raises AssertionError if it fails."""
        line = ["buildah", f"--root={self.folder}/storage", f"--runroot={self.folder}/run", *arguments]
        done = subprocess.run(line, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, f"{shlex.join(line)}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout.strip()

    def make_base(self) -> None:
        """Builds the stand-in for the base image."""
        mirror = str(re.findall(r"default_mirror (http://archive\S+)", SCRIPT.read_text())[0])
        container = self.buildah("from", "scratch")
        root = Path(self.buildah("mount", container))
        line = ["debootstrap", "--variant=minbase", "--include=ca-certificates", f"--keyring={self._keyring(mirror)}"]
        with (self.logs / "debootstrap.log").open("wb") as log:
            subprocess.run([*line, SUITE, str(root), mirror, str(SCRIPT)], check=True, stdout=log, stderr=log)
        suites = SUITE, f"{SUITE}-updates", f"{SUITE}-security"
        (root / "etc/apt/sources.list").write_text("".join(f"deb {mirror} {suite} main universe\n" for suite in suites))
        (root / "etc/apt/apt.conf.d/docker-clean").write_text(CLEAN)
        for pattern in ("var/cache/apt/*.bin", "var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*"):
            for path in root.glob(pattern):
                path.unlink()
        add_user = ["useradd", "--uid", "1000", "--user-group", "--create-home", "--shell", "/bin/bash", "ubuntu"]
        subprocess.run(["chroot", str(root), *add_user], check=True)
        self.buildah("config", *(f"--env={name}={value}" for name, value in VARIABLES.items()), container)
        for base in BASES:
            self.buildah("commit", container, base)
        self.buildah("rm", container)

    def _keyring(self, mirror: str) -> Path:
        """Ubuntu's keys: from this machine, or from a package whose digest is known."""
        here = Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")
        if not here.exists():
            with urllib.request.urlopen(f"{mirror}/{KEYS}", timeout=60) as answer:
                package = answer.read()
            assert hashlib.sha256(package).hexdigest() == KEYS_SHA256, f"{KEYS} is another"
            (self.folder / "keys.deb").write_bytes(package)
            subprocess.run(["dpkg-deb", "--extract", str(self.folder / "keys.deb"), str(self.folder / "keys")], check=True)
            here = self.folder / "keys" / here.relative_to("/")
        return here

    def read(self, container: str) -> tuple[Image, User]:
        """The image of a container, and its user."""
        config = json.loads(self.buildah("inspect", container))["OCIv1"]["config"]
        env = dict(line.split("=", 1) for line in config["Env"])
        command = [*config["Entrypoint"], *config["Cmd"]]
        uid, gid = map(int, config["User"].split(":"))
        root = Path(self.buildah("mount", container))
        return Image(env, config["WorkingDir"], command=command, root=root), User(uid, gid, None)

    def build(self) -> None:
        """Builds the image from the repository, as `docker build` does."""
        arguments = ["--isolation=chroot", "--pull-never", "--layers=false", *self._package_index()]
        output = self.buildah("build", *arguments, f"--file={DOCKERFILE}", "--tag=vgg-dist", str(ROOT))
        (self.logs / "build.log").write_text(output)

    def _package_index(self) -> list[str]:
        """Mounts with this machine's pip configuration and certificates, for pip and uv in the build."""
        bundle = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().openssl_cafile
        pip, uv = configparser.ConfigParser(), ["system-certs = true"]
        pip["global"] = {"cert": CERTIFICATES}
        ask = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
        asked = subprocess.run(ask, capture_output=True, text=True, check=False)
        if index := os.environ.get("PIP_INDEX_URL") or asked.stdout.strip():
            pip["global"]["index-url"] = index
            uv.append(f'index-url = "{index}"')
        for_pip, for_uv = self.folder / "pip.conf", self.folder / "uv.toml"
        with for_pip.open("w") as file:
            pip.write(file)
        for_uv.write_text("\n".join([*uv, ""]))
        places = {bundle: CERTIFICATES, for_pip: "/etc/pip.conf", for_uv: "/etc/uv/uv.toml"}
        return [f"--volume={source}:{target}:ro" for source, target in places.items()]
