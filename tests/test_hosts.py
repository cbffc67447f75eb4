"""A cluster of hosts with addresses of their own, MLflow with passwords on PostgreSQL, S3; and what happens when one fails.

The hosts are namespaces of this machine (see hosts.py): needs root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hosts
import pytest
from mlflow_server import wait_for

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
POSTGRES = Path(shutil.which("postgres") or "").resolve().parent
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(bool(hosts.WHY_NOT), reason=hosts.WHY_NOT),
    pytest.mark.skipif(not (POSTGRES / "initdb").exists(), reason="no PostgreSQL"),
]
TOKEN, PASSWORD = "0123456789abcdef" * 4, "a-long-password-of-tests"
NOBODY = "65534"
# 20 steps in two epochs, a checkpoint every third.
SMALL = """
    --arch A --head linear --image-size 32 --data synthetic:train=160,val=30,size=40 --global-batch 16 --micro-batch 8
    --lr 0.002 --precision fp32 --log-every 1 --epochs 2 --checkpoint-every 3 --num-workers 2
""".split()  # noqa: SIM905


class Cluster:
    """Three hosts: the head with all services, and two that train."""

    def __init__(self, network: hosts.Network) -> None:
        self.network = network
        self.head, *self.workers = network.hosts
        at = self.head.address
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "AWS_"))},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_API_SERVER_ADDRESS": f"http://{at}:8265",
            "MLFLOW_TRACKING_URI": f"http://{at}:5000",
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{at}:9000",
            "OMP_NUM_THREADS": "1",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start_postgres(self) -> None:
        folder = self.head.folder / "postgres"
        folder.mkdir()
        os.chmod(self.head.folder, 0o755)
        shutil.chown(folder, int(NOBODY), int(NOBODY))
        as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        make = [str(POSTGRES / "initdb"), "-D", "/tmp/postgres", "-U", "mlflow", "-A", "trust", "-N"]
        self.head.run(*as_nobody, *make, env=self.env)
        serve = [
            str(POSTGRES / "postgres"),
            "-D",
            "/tmp/postgres",
            "-k",
            "/tmp/postgres",
            "-c",
            "listen_addresses=127.0.0.1",
        ]
        self.processes["postgres"] = self.head.start(*as_nobody, *serve, env=self.env, log="postgres.log")
        self.wait_for("postgres", "127.0.0.1", 5432)
        connect = "import psycopg2 as p; c = p.connect('host=127.0.0.1 user=mlflow dbname=postgres'); c.autocommit = True"
        for database in ("mlflow", "auth"):
            self.head.run(sys.executable, "-c", f"{connect}; c.cursor().execute('create database {database}')")

    def start_mlflow(self) -> None:
        auth = self.head.folder / "auth.ini"
        auth.write_text(
            "[mlflow]\nadmin_username = admin\ndefault_permission = READ\n"
            "database_uri = postgresql+psycopg2://mlflow@127.0.0.1/auth\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        own = {
            "MLFLOW_AUTH_CONFIG_PATH": "/tmp/auth.ini",
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-secret-of-tests",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        line = [sys.executable, "-m", "mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1"]
        line += ["--app-name", "basic-auth", "--allowed-hosts", f"{self.head.address}:*"]
        line += [
            "--backend-store-uri",
            "postgresql+psycopg2://mlflow@127.0.0.1/mlflow",
            "--artifacts-destination",
            "/tmp/artifacts",
        ]
        self.processes["mlflow"] = self.head.start(*line, env=self.env | own, log="mlflow.log")
        self.wait_for("mlflow", self.head.address, 5000)

    def start_s3(self) -> None:
        line = [str(BIN / "moto_server"), "--host", "0.0.0.0", "--port", "9000"]
        self.processes["s3"] = self.head.start(*line, env=self.env, log="s3.log")
        self.wait_for("s3", self.head.address, 9000)
        self.head.run(sys.executable, "-c", "import s3fs; s3fs.S3FileSystem().mkdir('runs')", env=self.env)

    def start_ray(self, host: hosts.Host) -> None:
        flags = ["--disable-usage-stats", "--node-ip-address", host.address]
        if host is self.head:
            flags += ["--head", "--num-cpus", "0", "--port", "6379", "--dashboard-host", "0.0.0.0"]
        else:
            flags += ["--num-cpus", "1", "--address", f"{self.head.address}:6379"]
        host.run(str(BIN / "ray"), "start", *flags, env=self.env)

    def wait_for(self, service: str, address: str, port: int) -> None:
        """Until the service listens."""
        probe = self.head.command(
            [sys.executable, "-c", f"import socket; socket.create_connection(('{address}', {port}), 2)"]
        )

        def listens() -> bool:
            assert self.processes[service].poll() is None, (self.head.folder / f"{service}.log").read_text()
            return subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0

        wait_for(listens)

    def submit(self, *flags: str) -> subprocess.Popen[bytes]:
        """A job, submitted from the head; its output is in the head's folder, as job.log."""
        line = [str(BIN / "ray"), "job", "submit", "--", "python", "-m", "vgg_dist.train", *flags]
        return self.head.start(*line, env=self.env, log="job.log")

    def log(self) -> str:
        return (self.head.folder / "job.log").read_text(errors="replace")

    def python(self, script: str) -> Any:
        """What the script prints, as JSON, on the head."""
        return json.loads(self.head.run(sys.executable, "-c", script, env=self.env).splitlines()[-1])

    def logged(self, name: str) -> dict[str, list[int]]:
        """Metric -> the steps that MLflow has of it."""
        return self.python(
            "import json, mlflow; from mlflow import MlflowClient as C; c = C();"
            f"[r] = c.search_runs(['1'], \"attributes.run_name = '{name}'\");"
            "print(json.dumps({k: [m.step for m in c.get_metric_history(r.info.run_id, k)] for k in r.data.metrics}))"
        )

    def weights(self, name: str) -> str:
        """A digest of the last checkpoint's."""
        return self.python(
            "import hashlib, json; from vgg_dist.storage import *;"
            f"f = 's3://runs/{name}';"
            "n = [x for x in list_folder(f) if x.startswith('checkpoint-')][-1];"
            "print(json.dumps(hashlib.sha256(read_file(beside(beside(f, n), 'model.safetensors'))).hexdigest()))"
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(f"/tmp/vgg{os.getpid()}-hosts")  # short: Ray's sockets lie in there
    with hosts.network(3, folder) as network:
        cluster = Cluster(network)
        cluster.start_postgres()
        cluster.start_s3()
        cluster.start_ray(cluster.head)
        cluster.start_mlflow()
        for host in cluster.workers:
            cluster.start_ray(host)
        yield cluster
    for process in cluster.processes.values():
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def train(cluster: Cluster, name: str, disturb: Callable[[], None] | None = None) -> None:
    """A job to its end; `disturb` is called once its second epoch has begun."""
    job = cluster.submit(*SMALL, "--storage-path", "s3://runs", "--name", name)
    if disturb is not None:
        wait_for(lambda: job.poll() is not None or "step     12 " in cluster.log())
        disturb()
    assert job.wait(600) == 0, cluster.log()


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> str:
    train(cluster, "whole")
    return cluster.weights("whole")


def assert_whole(cluster: Cluster, name: str) -> None:
    """Every step logged once, every validation too."""
    steps = cluster.logged(name)
    assert sorted(steps["train/loss"]) == list(range(1, 21))
    assert sorted(steps["val/top1_error"]) == [10, 20]


def test_a_job_trains_on_two_hosts_and_is_tracked(cluster: Cluster, undisturbed: str) -> None:
    assert_whole(cluster, "whole")


def test_a_worker_host_is_cut_off(cluster: Cluster, undisturbed: str) -> None:
    lost = cluster.workers[1]

    def cut() -> None:
        cluster.network.cut(lost)
        time.sleep(45)  # Ray gives a node up after half a minute
        cluster.network.mend(lost)
        lost.run("sh", "-c", f"{BIN / 'ray'} stop --force || true", env=cluster.env)
        cluster.start_ray(lost)

    train(cluster, "cut", cut)
    assert_whole(cluster, "cut")
    assert cluster.weights("cut") == undisturbed
