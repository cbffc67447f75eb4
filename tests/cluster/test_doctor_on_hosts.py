"""`doctor` on a cluster of hosts with eleven problems. (On one without: tests/k8s/test_manifests_run.py.)"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from support.host_cluster import BIN, SERVICE, Cluster, on_hosts, opened
from support.paths import ROOT

pytestmark = on_hosts


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that all hosts share, with another version of the project, data, and a folder for runs."""
    folder = tmp_path / "shared"
    for room in ("vgg_dist", "pipelines", "cluster"):
        shutil.copytree(ROOT / room, folder / "other" / room)
    (folder / "other" / "vgg_dist" / "metrics.py").write_text("# an earlier version\n")
    # Sets the clock back by half a minute, for Python only (libfaketime hangs in time.sleep).
    (folder / "other" / "sitecustomize.py").write_text("import time\nnow = time.time\ntime.time = lambda: now() - 30\n")
    (folder / "runs").mkdir()
    return folder


def doctor(cluster: Cluster, shared: Path) -> tuple[int, list[str]]:
    """The exit status of `doctor`, and its lines without the fixes, with hosts by name."""
    flags = [
        "--data",
        str(shared / "data"),
        "--storage-path",
        str(shared / "runs"),
        "--tracking-uri",
        f"http://{SERVICE}:5000",
    ]
    env = cluster.env | {"RAY_ADDRESS": f"{cluster.head.address}:6379"}
    done = cluster.head.try_run(str(BIN / "python"), "-m", "cluster", "doctor", *flags, env=env)
    text = done.stdout
    for host in cluster.network.hosts:
        text = re.sub(rf"{re.escape(host.address)} \(\w+\)", host.name, text)
    return done.returncode, [line for line in text.splitlines() if re.match("(ok|warn|bad) ", line)]


def test_eleven_faults_of_real_hosts_are_found_and_nothing_else(shared: Path, small_tree: Path) -> None:
    shutil.copytree(small_tree, shared / "data")
    with opened() as cluster:
        head, second, third = cluster.network.hosts
        head.run("ip", "addr", "add", f"{SERVICE}/24", "dev", "eth0")
        cluster.start_postgres()
        cluster.start_mlflow()
        cluster.start_ray(head)
        # The second host: another checkout, a wrong clock, no route to MLflow, read-only storage, no data.
        cluster.start_ray(second, PYTHONPATH=str(shared / "other"))
        second.run("ip", "route", "add", "unreachable", f"{SERVICE}/32")
        second.run("mount", "--bind", str(shared / "runs"), str(shared / "runs"))
        second.run("mount", "-o", "remount,bind,ro", str(shared / "runs"))
        second.run("mount", "-t", "tmpfs", "none", str(shared / "data"))
        # The third host: GPUs that only Ray counts, little shared memory, separate storage, which is full, one image
        # missing, a slow network. Its two processes each reserve a GPU.
        cluster.start_ray(third, RAY_OVERRIDE_RESOURCES='{"GPU": 2}')
        third.run("mount", "-t", "tmpfs", "-o", "size=64m", "none", "/dev/shm")
        third.run("mount", "-t", "tmpfs", "-o", "size=100m", "none", str(shared / "runs"))
        shutil.copytree(small_tree, third.folder / "data")
        next((third.folder / "data" / "train").glob("*/*")).unlink()
        third.run("mount", "--bind", str(third.folder / "data"), str(shared / "data"))
        cluster.network.slow(third, megabits=100)
        status, lines = doctor(cluster, shared)
        assert status == 1
        bad = [line for line in lines if not line.startswith("ok ")]
        assert len(bad) == 11, bad
        for words in (
            ["versions: host2 has vgg_dist code"],
            ["clocks: host2 is -30.", "s off"],
            ["--tracking-uri", "host2"],
            ["--storage-path", "host2 cannot write there", "Read-only file system"],
            ["--data", "host2"],
            ["GPUs: host3: Ray counts 2 GPUs there, the driver shows none"],
            ["/dev/shm: host3: 67 MB shared memory"],
            ["disk: host3: 0.1 of 0.1 GiB free at"],
            ["--storage-path", "host3 does not see what host1"],
            ["--data", "host3 has", "others"],
            ["network: host3: ", "MB/s, others"],
        ):
            assert any(all(word in line for word in words) for line in bad), (words, bad)
        assert any(line.startswith("ok    network: within a node, between 2 processes:") for line in lines), lines
