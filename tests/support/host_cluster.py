"""A Ray cluster on hosts of its own (see hosts.py) with the services of a real one: MLflow on PostgreSQL, S3."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import hosts
from support.mlflow_server import wait_for
from support.paths import ROOT, SUPPORT

BIN = Path(sys.executable).parent
POSTGRES = Path(shutil.which("postgres") or next(Path("/usr/lib/postgresql").glob("*/bin/postgres"), "")).resolve().parent
TOKEN, PASSWORD = "0123456789abcdef" * 4, "a-long-password-of-tests"
NOBODY = "65534"
SERVICE = f"{hosts.SUBNET}.50"
"""A second address of the head, to be routed to apart from it."""
on_hosts = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.xdist_group("hosts"),  # their addresses are the same; they are apart from this machine's own Ray
    pytest.mark.skipif(bool(hosts.WHY_NOT) or not (POSTGRES / "initdb").exists(), reason=hosts.WHY_NOT or "no PostgreSQL"),
]


class Cluster:
    """The head with all services, and the hosts that train."""

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
        self.s3_down = self.head.folder / "s3-down"
        """S3 answers 503 as long as this file is there."""

    def start_postgres(self) -> None:
        folder = self.head.folder / "postgres"
        folder.mkdir()
        shutil.chown(folder, int(NOBODY), int(NOBODY))
        as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        make = [str(POSTGRES / "initdb"), "-D", str(folder), "-U", "mlflow", "-A", "trust", "-N"]
        self.head.run(*as_nobody, *make, env=self.env)
        serve = f"{POSTGRES}/postgres -D {folder} -k {folder} -c listen_addresses=127.0.0.1".split()
        self.processes["postgres"] = self.head.start(*as_nobody, *serve, env=self.env, log="postgres.log")
        self.wait_for("postgres", "127.0.0.1", 5432)
        connect = "import psycopg2 as p; c = p.connect('host=127.0.0.1 user=mlflow dbname=postgres'); c.autocommit = True"
        for database in ("mlflow", "auth"):
            self.head.run(sys.executable, "-c", f"{connect}; c.cursor().execute('create database {database}')")

    def start_mlflow(self) -> None:
        """With passwords."""
        auth = self.head.folder / "auth.ini"
        auth.write_text(
            "[mlflow]\nadmin_username = admin\ndefault_permission = READ\n"
            "database_uri = postgresql+psycopg2://mlflow@127.0.0.1/auth\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        own = {
            "MLFLOW_AUTH_CONFIG_PATH": str(auth),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-secret-of-tests",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        line = [sys.executable, "-m", "mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1"]
        line += ["--app-name", "basic-auth", "--allowed-hosts", f"{self.head.address}:*,{SERVICE}:*"]
        line += ["--backend-store-uri", "postgresql+psycopg2://mlflow@127.0.0.1/mlflow"]
        line += ["--artifacts-destination", str(self.head.folder / "artifacts")]
        self.processes["mlflow"] = self.head.start(*line, env=self.env | own, log="mlflow.log")
        self.wait_for("mlflow", self.head.address, 5000)

    def start_s3(self) -> None:
        line = [sys.executable, str(SUPPORT / "s3_server.py"), "0.0.0.0", "9000", str(self.s3_down)]
        self.processes["s3"] = self.head.start(*line, env=self.env, log="s3.log")
        self.wait_for("s3", self.head.address, 9000)
        self.head.run(sys.executable, "-c", "import s3fs; s3fs.S3FileSystem().mkdir('runs')", env=self.env)

    def put_shards(self, data: str, url: str) -> None:
        """As docs/operations.md says: shards are written to a folder, and copied to the bucket."""
        folder = str(self.head.folder / "shards")
        self.head.run(sys.executable, "-m", "pipelines.prepare", "shard", "--data", data, "--out", folder, env=self.env)
        put = f"import s3fs; s3fs.S3FileSystem().put('{folder}', '{url}', recursive=True)"
        self.head.run(sys.executable, "-c", put, env=self.env)

    def start_ray(self, host: hosts.Host, cpus: int = 1, **env: str) -> None:
        flags = ["--disable-usage-stats", "--node-ip-address", host.address]
        if host is self.head:
            flags += ["--head", "--num-cpus", "0", "--port", "6379", "--dashboard-host", "0.0.0.0"]
        else:
            flags += ["--num-cpus", str(cpus), "--address", f"{self.head.address}:6379"]
        own = {"VGG_DIST_CACHE": str(host.folder / "cache")}
        host.run(str(BIN / "ray"), "start", *flags, env=self.env | own | env)

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

    def status(self, *request: str) -> int:
        """The HTTP status of curl's answer, asked from a worker's host."""
        return int(self.workers[0].run("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", *request))

    def logged(self, name: str) -> dict[str, list[tuple[int, float]]]:
        """Metric -> the steps, in order, and values that MLflow has of it."""
        return self.python(
            "import json, mlflow; from mlflow import MlflowClient as C; c = C();"
            f"[r] = c.search_runs(['1'], \"attributes.run_name = '{name}'\");"
            "h = {k: c.get_metric_history(r.info.run_id, k) for k in r.data.metrics};"
            "print(json.dumps({k: sorted((m.step, m.value) for m in h[k]) for k in h}))"
        )

    def weights(self, name: str) -> str:
        """A digest of the last checkpoint's."""
        return self.python(
            "import hashlib, json; from pipelines.paths import join; from vgg_dist.storage import *;"
            f"f = 's3://runs/{name}';"
            "n = [x for x in list_folder(f) if x.startswith('checkpoint-')][-1];"
            "print(json.dumps(hashlib.sha256(read_file(join(join(f, n), 'model.safetensors'))).hexdigest()))"
        )


@contextmanager
def opened(count: int = 3) -> Iterator[Cluster]:
    """So many hosts for the while, on which nothing runs yet."""
    with tempfile.TemporaryDirectory(prefix="vgg-hosts-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # PostgreSQL does not run as root
        with hosts.network(count, Path(folder)) as network:
            cluster = Cluster(network)
            try:
                yield cluster
            finally:
                network.close()
                for process in cluster.processes.values():
                    process.wait()
