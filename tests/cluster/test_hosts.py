"""A cluster of hosts with addresses of their own, MLflow with passwords on PostgreSQL, S3; and what happens when one fails.

The hosts are namespaces of this machine (see hosts.py): needs root.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from support.host_cluster import PASSWORD, TOKEN, Cluster, on_hosts, opened
from support.manifests import monitoring
from support.mlflow_server import wait_for
from support.paths import ROOT

pytestmark = on_hosts
# 20 steps in two epochs, a checkpoint every third step.
SMALL = """
    --arch A --head linear --image-size 32 --data s3://runs/data --global-batch 16 --micro-batch 8
    --lr 0.002 --precision fp32 --log-every 1 --epochs 2 --checkpoint-every 3 --num-workers 2
""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with opened() as cluster:
        cluster.start_postgres()
        cluster.start_s3()
        cluster.put_shards("synthetic:train=160,val=30,size=40", "s3://runs/data")
        cluster.start_ray(cluster.head)
        cluster.start_mlflow()
        for host in cluster.workers:
            cluster.start_ray(host)
        yield cluster


def train(cluster: Cluster, name: str, disturb: Callable[[], None] | None = None) -> None:
    """A job to its end; `disturb` is called in the middle of its second epoch."""
    job = cluster.submit(*SMALL, "--storage-path", "s3://runs", "--name", name)
    if disturb is not None:
        wait_for(lambda: job.poll() is not None or "step     14 " in cluster.log())
        assert job.poll() is None, cluster.log()
        disturb()
    assert job.wait(600) == 0, cluster.log()


@dataclass(frozen=True)
class Left:
    """What a run left behind."""

    weights: str
    curves: dict[str, list[tuple[int, float]]]
    """Of each metric that does not tell the time, the steps and values. Errors of an epoch count all of its images."""


def left(cluster: Cluster, name: str) -> Left:
    logged = cluster.logged(name)
    of_images = {metric: values for metric, values in logged.items() if metric.startswith(("train/", "epoch/", "val/"))}
    return Left(cluster.weights(name), of_images)


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> Left:
    train(cluster, "whole")
    return left(cluster, "whole")


def test_a_job_trains_on_two_hosts_and_is_tracked(cluster: Cluster, undisturbed: Left) -> None:
    steps = {metric: [step for step, _ in values] for metric, values in cluster.logged("whole").items()}
    assert steps["train/loss"] == list(range(1, 21))
    assert steps["epoch/train_top1_error"] == steps["val/top1_error"] == [10, 20]
    assert {f"system/{host.name}/cpu_utilization_percentage" for host in cluster.workers} <= steps.keys()
    for host in cluster.workers:
        assert {path.name for path in host.folder.glob("cache/*/*.tar")} == {"train-00000.tar", "val-00000.tar"}
    assert not (cluster.head.folder / "cache").exists()


def test_who_has_no_token_or_password_is_refused(cluster: Cluster, undisturbed: Left) -> None:
    jobs, server = f"http://{cluster.head.address}:8265/api/jobs/", f"http://{cluster.head.address}:5000"
    experiments = f"{server}/api/2.0/mlflow/experiments/get?experiment_id=1"
    login = ["--user", f"admin:{PASSWORD}"]
    assert cluster.status("--header", f"Authorization: Bearer {TOKEN}", jobs) == 200
    assert cluster.status(jobs) == 401
    assert cluster.status("--header", f"Authorization: Bearer {'0' * 64}", jobs) == 403
    assert cluster.status(*login, experiments) == 200
    assert cluster.status(experiments) == 401
    assert cluster.status("--user", "admin:password1234", experiments) == 401
    assert cluster.status(*login, "--header", "Host: rebound.example:5000", experiments) == 403


def test_prometheus_finds_the_metrics_that_alerts_and_dashboard_name(cluster: Cluster, undisturbed: Left) -> None:
    folder = ROOT / "k8s" / "components" / "monitoring"
    queries = (folder / "rules.yaml").read_text() + (folder / "dashboard.json").read_text()
    wanted = set(re.findall(r"ray_(?:node|vgg_dist)_\w+", queries)) - {"ray_node_gpus_utilization", "ray_node_gram_used"}
    # The targets that Ray gives Prometheus.
    found = json.loads(cluster.head.run("cat", "/tmp/ray/prom_metrics_service_discovery.json"))
    targets = [target for group in found for target in group["targets"]]
    time.sleep(25)  # Ray drops a gauge that is not refreshed for 20 s
    scraped = "".join(cluster.head.run("curl", "--silent", f"http://{target}/metrics") for target in targets)
    names = set(re.findall(r"^(\w+)[{ ]", scraped, re.MULTILINE))
    assert sorted(monitoring.PROJECT_METRICS - names) == []
    assert sorted(wanted - names) == []
    values = dict(re.findall(r'^ray_vgg_dist_(\w+)\{.*run="whole".*\} (\S+)$', scraped, re.MULTILINE))
    assert float(values["running"]) == 0
    assert float(values["step"]) == 20
    assert float(values["train_loss"]) == pytest.approx(undisturbed.curves["train/loss"][-1][1])


def test_mlflow_is_away_storage_refuses_and_then_a_worker_is_killed(cluster: Cluster, undisturbed: Left) -> None:
    def disturb() -> None:
        cluster.head.run("pkill", "-KILL", "-f", "mlflow")
        cluster.processes["mlflow"].wait()
        cluster.s3_down.touch()
        time.sleep(20)
        cluster.s3_down.unlink()
        cluster.workers[1].run("pkill", "-KILL", "-f", "RayTrainWorker")
        time.sleep(40)
        cluster.start_mlflow()

    train(cluster, "disturbed", disturb)
    assert "refused: " in (cluster.head.folder / "s3.log").read_text()
    assert "failed" in cluster.log()
    assert left(cluster, "disturbed") == undisturbed
