"""k8s/overlays/cpu and jobs/first, as kubectl builds them, run: services, a Ray cluster, a training, and what ends of it.

Without images and without Kubernetes: tests/support/kubelet.py and tests/support/kuberay.py stand in for those. Needs root.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import hosts
from support.container import missing_tools
from support.host_cluster import POSTGRES
from support.kubelet import Kubelet, Pod, template_of
from support.kuberay import RayJob
from support.manifests import Object, build, find
from support.mlflow_server import wait_for
from support.pod_images import IMAGES

WHY_NOT = hosts.WHY_NOT or missing_tools() or ("" if (POSTGRES / "initdb").exists() else "PostgreSQL")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.xdist_group("pods"),
    pytest.mark.skipif(bool(WHY_NOT), reason=f"not here: {WHY_NOT}"),
]
PASSWORD, TOKEN = "a-long-password-of-tests", "0123456789abcdef" * 4
# Behind the manifest's own flags, of which the last one counts. It has no end until the test says so.
SMALL = "--data synthetic:train=400,val=20 --global-batch 8 --epochs 1000 --log-every 1 --checkpoint-every 5s"


def found(objects: list[Object], kind: str, name: str) -> Object:
    [item] = [item for item in find(objects, kind) if item["metadata"]["name"] == name]
    return item


def template(objects: list[Object], kind: str, name: str) -> Object:
    return template_of(found(objects, kind, name))


class Applied:
    """What is made by `kubectl apply -k overlays/cpu`, and once that is ready by `kubectl create -k jobs/first`."""

    def __init__(self, kubelet: Kubelet, objects: list[Object]) -> None:
        self.kubelet = kubelet
        self.postgres = Pod(kubelet, "postgres-0", template(objects, "StatefulSet", "postgres"), "postgres")
        self.migration = Pod(kubelet, "mlflow-migrate", template(objects, "Job", "mlflow-migrate"))
        self.mlflow = Pod(kubelet, "mlflow-1", template(objects, "Deployment", "mlflow"), "mlflow")
        wait_for(lambda: self.postgres.ready and self.mlflow.ready)
        job = found(objects, "RayJob", "first")
        job["spec"]["entrypoint"] += f" {SMALL}"
        self.job = RayJob(kubelet, job, TOKEN)
        self.until(lambda: all(pod.ready for pod in self.job.nodes))

    def until(self, condition: Callable[[], object]) -> None:
        """Until it holds, while the job's pods that end are replaced."""

        def look() -> object:
            self.job.reconcile()
            return condition()

        try:
            wait_for(look)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.job.logs()}") from error

    def step(self) -> int:
        """The last that the job has told of."""
        return max((int(step) for step in re.findall(r"step +(\d+) ", self.job.logs())), default=0)


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Applied]:
    objects = build(tmp_path_factory.mktemp("k8s"), "cpu", "rwx", jobs=("first",))
    with (
        tempfile.TemporaryDirectory(prefix="vgg-pods-", ignore_cleanup_errors=True) as folder,
        hosts.network(0, Path(folder)) as network,
    ):
        kubelet = Kubelet(network, Path(folder), objects, IMAGES)
        # As docs/kubernetes.md makes them.
        kubelet.secrets |= {
            "postgres": {"password": "of-postgres"},
            "mlflow-server": {"admin-password": PASSWORD, "flask-secret-key": "a-secret-of-tests"},
            "mlflow-client": {"username": "admin", "password": PASSWORD},
        }
        try:
            yield Applied(kubelet, objects)
        except AssertionError:
            for pod in kubelet.pods:
                print(f"--- {pod.name}", pod.logs(), sep="\n")  # pytest shows it
            raise
        finally:
            kubelet.close()


def curl(pod: Pod, *request: str) -> str:
    """What curl prints in a pod."""
    return pod.run("curl", "--silent", *request).stdout


def status(pod: Pod, *request: str) -> int:
    """The HTTP status of an answer."""
    return int(curl(pod, "--output", "/dev/null", "--write-out", "%{http_code}", *request))


def test_mlflow_lets_in_whom_it_should(applied: Applied) -> None:
    """Kubernetes' own probes, who name the pod's address; Ray's pods, with the password; nobody else."""
    asked, login = "api/2.0/mlflow/experiments/get?experiment_id=0", ["--user", f"admin:{PASSWORD}"]
    pod = applied.job.workers[0]
    assert status(pod, f"http://{applied.mlflow.host.address}:5000/health") == 200
    for name in ("mlflow", "mlflow.vgg-dist", "mlflow.vgg-dist.svc", "mlflow.vgg-dist.svc.cluster.local"):
        assert status(pod, *login, f"http://{name}:5000/{asked}") == 200
    assert status(pod, f"http://mlflow:5000/{asked}") == 401
    assert status(pod, *login, f"http://{applied.mlflow.host.address}:5000/{asked}") == 403
    assert status(pod, *login, "--header", "Host: rebound.example:5000", f"http://mlflow:5000/{asked}") == 403


def test_pods_are_as_restricted_as_the_manifests_say(applied: Applied) -> None:
    """The stand-in for a container runtime does what it is asked, or the rest would show nothing."""
    for pod, uid in ((applied.postgres, 999), (applied.mlflow, 1000), (applied.job.head, 1000)):
        shown = pod.run(
            "sh", "-c", "id -u; grep -h -e CapEff -e CapBnd -e NoNewPrivs /proc/self/status; touch /x /usr/x"
        ).stdout
        zero = "0" * 16
        assert shown.split()[:7] == [str(uid), "CapEff:", zero, "CapBnd:", zero, "NoNewPrivs:", "1"]
        assert shown.count("Read-only file system") == 2


def test_ray_keeps_its_objects_in_shared_memory(applied: Applied) -> None:
    for pod in applied.job.nodes:
        assert "/dev/shm" not in pod.logs(), pod.logs()  # a warning that it is too small
        stored = pod.run("sh", "-c", "grep -rho 'object store with directory [^,]*' /tmp/ray/session_latest/logs").stdout
        assert stored.split() == ["object", "store", "with", "directory", "/dev/shm"]


def test_prometheus_finds_metrics_of_each_node(applied: Applied) -> None:
    for pod in applied.job.nodes:
        url = f"http://{pod.host.address}:8080/metrics"
        wait_for(lambda url=url: "ray_node_disk_utilization_percentage{" in applied.kubelet.curl(url).stdout)


def test_doctor_finds_nothing(applied: Applied) -> None:
    done = applied.job.head.run("python", "-m", "cluster", "doctor", "--storage-path", "/mnt/storage/runs")
    lines = re.findall("^(ok|warn|bad) +(.*)", done.stdout, re.MULTILINE)
    # On a busy machine every link may be too slow for E.
    assert [line for level, line in lines if level != "ok" and "configuration E's gradients" not in line] == [], done.stdout
    assert done.returncode == 0
    said = "\n".join(line for _, line in lines)
    for words in (
        "nodes: 3: ",
        "/dev/shm: at least",
        "--storage-path /mnt/storage/runs: all nodes can write and read",
        "--tracking-uri http://mlflow",
    ):
        assert words in said, done.stdout


def test_a_job_goes_on_without_a_worker_and_without_its_head(applied: Applied) -> None:
    """Both are told to end, as by `kubectl drain` or `kubectl delete pod`."""
    job = applied.job
    job.submit()
    applied.until(lambda: applied.step() >= 3)

    # The submitter's shell, had it come to its end here: the job has not ended, so it must be tried again.
    assert job.submitter.run("/bin/bash", "-ce", "--", "true").returncode == 1

    worker = job.workers[0]
    leaving = threading.Thread(target=worker.delete)
    leaving.start()
    wait_for(lambda: not leaving.is_alive())
    drain = float(worker.containers[-1].env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert f"received SIGTERM. Draining for up to {drain} seconds" in worker.logs()
    assert re.search("did not finish draining|finished draining; shutting down", worker.logs()), "Ray came to its own end"
    assert not worker.killed, f"not gone within its grace period: {worker.logs()}"
    applied.until(lambda: job.workers[0].ready and job.workers[0].run("pgrep", "-f", "RayTrainWorker").returncode == 0)
    assert job.workers[0] is not worker
    before = applied.step()
    applied.until(lambda: applied.step() > before)
    until, _, since = job.submitter.logs().partition("resumes from step ")
    assert f"node {worker.host.address} is to be taken away in" in until, "the pod's SIGTERM has reached the training"
    assert int(re.split(r"\D", since)[0]) == max(map(int, re.findall(r"step +(\d+)  epoch", until))), "no step is lost"

    head, old = job.head, set(job.workers)
    head.delete()
    assert not head.killed, f"not gone within its grace period: {head.logs()}"
    wait_for(lambda: job.submitter.exit is not None)
    assert job.submitter.exit != 0, "Kubernetes takes the job for submitted, and nobody submits again"
    last = applied.step() + 20  # the log may be behind the checkpoint
    job.entrypoint += f" --max-steps {last}"
    applied.until(lambda: job.finished)
    assert len(job.submitters) >= 2  # on a busy machine a new head, too, may end as it starts
    assert not old & set(job.workers), "workers of the old head have ended by themselves"
    # Of one CPU each where one node is back before the other.
    assert re.search("run first, 2 workers of [12] CPU", job.submitter.logs()), job.submitter.logs()
    steps = [int(step) for step in re.findall(r"step +(\d+)  epoch", job.submitter.logs())]
    assert 1 < steps[0] <= steps[-1] == last, "it went on from a checkpoint, to its end"
    assert f"run first finished at step {last}" in job.submitter.logs()

    api = ["--user", f"admin:{PASSWORD}", "--header", "Content-Type: application/json"]
    url = "http://mlflow:5000/api/2.0/mlflow"
    [run] = json.loads(curl(job.head, *api, "--data", '{"experiment_ids": ["1"]}', f"{url}/runs/search"))["runs"]
    assert run["info"]["status"] == "FINISHED"
    asked = f"{url}/metrics/get-history?run_id={run['info']['run_id']}&metric_key=train/loss&max_results=20000"
    logged = json.loads(curl(job.head, *api, asked))["metrics"]
    assert sorted(int(metric["step"]) for metric in logged) == list(range(1, last + 1))


def test_no_probe_would_have_restarted_a_pod_and_all_end_in_time(applied: Applied) -> None:
    services = [applied.postgres, applied.mlflow]
    for pod in [*services, *applied.job.nodes]:
        assert pod.restarts == 0, pod.logs()
        assert pod.unhealthy < pod.spec["containers"][0]["livenessProbe"].get("failureThreshold", 3), pod.name
    ending = [threading.Thread(target=pod.delete) for pod in services]
    for thread in ending:
        thread.start()
    for thread in ending:
        thread.join()
    assert [pod.name for pod in services if pod.killed] == []
