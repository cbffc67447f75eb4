"""Builds and runs the image: as its user, on a read-only root, with the mounts of k8s/. Only with VGG_DIST_TEST_ALL=1."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support import hosts
from support.container import Container, Image, Mount, User
from support.image_build import GIB_FREE, MISSING, built_image
from support.image_commands import COMPILE
from support.mlflow_server import wait_for

TOKEN = "0123456789abcdef" * 4
STORAGE = "/storage"
"""The folder for data and runs, which the group may write to, like a volume."""
MEMORY = {"/tmp": 8 << 30, "/dev/shm": 1 << 30}
"""The mounts in k8s/, with sizes in bytes; HOME is /tmp there, too."""
ENTRYPOINT = ["tini", "--"]
DATA = f"{STORAGE}/data"
TRAIN = f"python -m vgg_dist.train --storage-path {STORAGE}/runs --global-batch 16 --log-every 1".split()
SMALL = ["--data", "synthetic:train=64,val=16,size=40", "--max-steps", "5"]
COMPILED = ["--arch", "A", "--head", "gap", "--image-size", "32", "--num-workers", "2", "--compile", "--name", "compiled"]
JOB = ["ray", "job", "submit", "--address", "http://127.0.0.1:8265", "--"]
SERVER = (
    f"mlflow server --host 0.0.0.0 --port 5000 --workers 1 --backend-store-uri sqlite:///{STORAGE}/runs/mlflow.db".split()
)
COMMANDS = [f"vgg_dist.{name}" for name in ("train", "tune", "evaluate", "reproduce", "report", "export")]
COMMANDS += ["pipelines.prepare", "cluster", "vgg_dist.benchmark"]
HEALTH = "import urllib.request as r; assert r.urlopen('http://127.0.0.1:5000/health').read() == b'OK'"
KERNEL = """
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

@triton.jit
def double(x, n: tl.constexpr):
    at = tl.arange(0, n)
    tl.store(x + at, tl.load(x + at) * 2)

for capability in (90, 100):
    source = ASTSource(double, {"x": "*fp32", "n": "constexpr"}, {"n": 128})
    assert triton.compile(source, GPUTarget("cuda", capability, 32)).asm["cubin"].startswith(b"\\x7fELF")
"""
"""Compiles for GPUs that need not be present: Hopper, and Blackwell, for which Triton has another assembler."""


def why_not() -> str:
    """The reason why the image cannot be built here, or nothing."""
    if not os.environ.get("VGG_DIST_TEST_ALL"):
        return "builds and runs the image for 15 minutes: set VGG_DIST_TEST_ALL=1"
    if missing := [f"buildah and debootstrap needed: no {tool}" for tool in MISSING]:
        return ", ".join(missing)
    free = shutil.disk_usage("/var/tmp").free >> 30
    return hosts.WHY_NOT or (f"{free} of {GIB_FREE} GiB free in /var/tmp" if free < GIB_FREE else "")


pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(2400),
    pytest.mark.xdist_group("hosts"),  # uses the same address as the hosts
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Image, User]]:
    with built_image(tmp_path_factory.mktemp("build")) as image:
        yield image


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hosts.Host]:
    """Where containers run; their storage is its."""
    with hosts.network(1, tmp_path_factory.mktemp("hosts")) as network:
        (host,) = network.hosts
        host.run("ip", "route", "add", "default", "dev", "eth0")  # Ray finds its own address through this route
        yield host


class Containers:
    """Those of a test, with the variables that k8s/ sets."""

    def __init__(self, image: Image, user: User, host: hosts.Host, folder: Path) -> None:
        self.image, self.user, self.host, self.folder, self.running = image, user, host, folder, list[Container]()
        self.storage = host.folder / "storage"
        self.storage.mkdir(exist_ok=True)
        os.chown(self.storage, 0, user.gid)
        self.storage.chmod(0o2775)
        names = folder / "hosts"
        names.write_text(f"127.0.0.1 localhost\n{host.address} {host.name}\n")
        self.mounts = [Mount(path, None, size=size) for path, size in MEMORY.items()]
        self.mounts += [Mount(STORAGE, self.storage), Mount("/etc/hosts", names)]
        self.env = {
            **image.env,
            "HOME": "/tmp",
            "RAY_AUTH_TOKEN": TOKEN,
            "VGG_DIST_CACHE": "/tmp/cache",
            "OMP_NUM_THREADS": "1",
        }
        self.env |= {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "20", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.env["RAY_memory_monitor_refresh_ms"] = "0"  # it would count everything that runs on this machine

    def start(self, *command: str) -> Container:
        """With the image's entrypoint, and its command where none is given."""
        line = [*ENTRYPOINT, *command] if command else list(self.image.command)
        folder = self.folder / f"container{len(self.running)}"
        self.running.append(Container(self.host, folder, self.image, line, self.env, self.user, self.mounts))
        return self.running[-1]

    def start_head(self) -> Container:
        """Started again if it ends: Ray's client server gives a raylet 30 seconds, and takes the head down with it."""
        for _ in range(2):
            head = self.start(*["ray", "start", "--head", "--block", "--num-cpus=2", "--dashboard-host=0.0.0.0"])
            wait_for(partial(self._has_settled, head))
            if head.process.poll() is None:
                return head
        raise AssertionError(head.output())

    def _has_settled(self, head: Container) -> bool:
        jobs = "ray", "job", "list", "--address", "http://127.0.0.1:8265"
        return head.process.poll() is not None or head.run(*jobs).returncode == 0


@pytest.fixture
def containers(image: tuple[Image, User], host: hosts.Host, tmp_path: Path) -> Iterator[Containers]:
    opened = Containers(*image, host, tmp_path)
    yield opened
    for container in opened.running:
        container.send(signal.SIGKILL)
        container.process.wait()


def output(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_without_a_command_it_says_how_it_is_used(containers: Containers) -> None:
    container = containers.start()
    assert container.process.wait(300) == 0
    assert list(containers.image.command[:2]) == ENTRYPOINT
    assert container.output().startswith("usage: python -m vgg_dist.train")


def test_its_user_its_root_and_its_programs(containers: Containers) -> None:
    container = containers.start("sleep", "infinity")
    assert output(container.run("id", "--user")).strip() == "1000"
    assert "CapBnd:\t0000000000000000\n" in output(container.run("cat", "/proc/self/status"))
    assert output(container.run("cat", "/proc/1/cmdline")).startswith("tini\0--\0sleep")
    for folder in ("/", "/opt/venv", "/home/ubuntu", "/var/tmp"):
        assert "Read-only file system" in container.run("touch", f"{folder}/new").stdout
    # As `ray up` calls it, and copies with it.
    assert "2.60.0" in output(container.run("bash", "--login", "-c", "-i", "ray --version"))
    assert output(container.run("rsync", "--version")).startswith("rsync")
    output(container.run("pip", "check"))
    for command in COMMANDS:
        assert f"python -m {command}" in output(container.run("python", "-m", command, "--help"))
    # torch.compile on a CPU, and for GPUs up to the point where it needs one.
    output(container.run("python", "-c", COMPILE, "/tmp"))
    (containers.storage / "kernel.py").write_text(KERNEL)
    output(container.run("python", f"{STORAGE}/kernel.py"))
    assert container.stop() == 128 + signal.SIGTERM


def test_a_cluster_of_it_trains_and_all_look_at_it(containers: Containers) -> None:
    """`ray start` as KubeRay writes it; jobs, one of them on images that DALI decodes and one compiled; MLflow; doctor."""
    head = containers.start_head()
    output(head.run(*f"python -m pipelines.prepare synthetic --out {DATA} --train 60 --val 20".split()))
    assert "80 images: all plain" in output(head.run(*f"python -m pipelines.prepare check --data {DATA}".split()))
    lenet = [*TRAIN, "--arch", "lenet5", "--data", DATA, "--max-steps", "5", "--name", "lenet"]
    assert "run lenet finished at step 5" in output(head.run(*JOB, *lenet))
    assert "run compiled finished at step 5" in output(head.run(*JOB, *TRAIN, *SMALL, *COMPILED))
    assert output(head.run("sh", "-c", "find /tmp/torchinductor_* -name '*.so'")).count("\n") >= 1
    assert (containers.storage / "runs" / "compiled" / "checkpoint-000000005" / "model.safetensors").exists()
    export = f"python -m vgg_dist.export {STORAGE}/runs/lenet --format torch-export --output {STORAGE}/lenet.pt2"
    output(head.run(*export.split()))
    look = output(head.run(*JOB, *f"python -m cluster doctor --storage-path {STORAGE}/runs --data synthetic".split()))
    assert "ok    --data synthetic" in look
    server = containers.start(*SERVER)
    wait_for(lambda: server.process.poll() is not None or head.run("python", "-c", HEALTH).returncode == 0)
    report = f"python -m vgg_dist.report --tracking-uri http://127.0.0.1:5000 --output {STORAGE}/report.html"
    assert "compiled" in output(head.run(*report.split()))
    assert "--output comparison.html: cannot be written: Read-only" in head.run(*report.split()[:-2]).stdout
    assert server.stop() == 0, server.output()
    head.stop()  # Ray's exit status is 1 if draining takes all of its time


def test_sigterm_ends_a_training(containers: Containers) -> None:
    """As tini passes it on, within the grace period."""
    container = containers.start(
        *TRAIN, "--data", "synthetic:train=64,val=16,size=40", "--arch", "lenet5", "--name", "ended"
    )
    container.wait_for_output("step      3")
    assert container.stop(timeout=120) == 128 + signal.SIGTERM
    assert "checkpoint written; the same command with --name ended resumes it" in container.output()
