"""k8s/: every combination that a user would build passes all checks, and the checks catch what can be broken."""

from __future__ import annotations

import copy
import itertools
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.hurt_manifests import BOX, HEAD, JOB, JOBS, POD, WORKER, Change, drop, hurt
from support.manifests import Object, build, crds_folder, documented_secrets, find, kustomize, name_of, problems
from support.paths import ROOT

if shutil.which("kubectl") is None:
    pytest.skip("no kubectl", allow_module_level=True)
if not crds_folder().is_dir():
    pytest.skip(f"no CRDs of KubeRay: {crds_folder()} does not exist (set VGG_DIST_TEST_DATA)", allow_module_level=True)

pytestmark = pytest.mark.slow
COMBINATIONS = [
    (flavour, storage, queue, flavour == "gpu")
    for flavour, storage, queue in itertools.product(("cpu", "gpu"), ("rwx", "s3"), (None, "kueue", "volcano"))
] + [("cpu", "rwx", None, True), ("gpu", "s3", None, False)]  # monitoring has to do with services alone


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Any, ...], list[Object]]:
    """Every combination, with its jobs."""

    def one(combination: tuple[str, str, str | None, bool]) -> list[Object]:
        jobs = JOBS[combination[0]]
        if combination[1] == "rwx":  # without a volume there is nothing to prepare
            jobs += ("prepare",)
        return build(tmp_path_factory.mktemp("k8s"), *combination, jobs)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(COMBINATIONS, pool.map(one, COMBINATIONS), strict=True))


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda c: "-".join(str(part) for part in c))
def test_combination_passes(builds: dict[tuple[Any, ...], list[Object]], combination: tuple[Any, ...]) -> None:
    objects = builds[combination]
    assert {"RayJob", "RayCluster", "Deployment", "StatefulSet", "NetworkPolicy"} <= {item["kind"] for item in objects}
    assert problems(objects) == []


def test_shipped_as_they_are(builds: dict[tuple[Any, ...], list[Object]], tmp_path: Path) -> None:
    """What is in the tree, where a combination is a changed copy of it, is one of the combinations."""
    for flavour, jobs in (("cpu", ("first",)), ("gpu", (*JOBS["gpu"], "prepare"))):
        folders = [f"overlays/{flavour}", *(f"jobs/{job}" for job in jobs)]
        resources = [os.path.relpath(ROOT / "k8s" / folder, tmp_path.resolve()) for folder in folders]
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": resources}))
        combined = {name_of(item): item for item in builds[flavour, "rwx", None, flavour == "gpu"]}
        shipped = kustomize(tmp_path)
        assert len(shipped) == len(combined) - len(JOBS[flavour]) - 1 + len(jobs)
        assert all(combined[name_of(item)] == item for item in shipped)


def test_interactive_cluster_is_a_jobs(builds: dict[tuple[Any, ...], list[Object]]) -> None:
    for combination, objects in builds.items():
        job = find(objects, "RayJob")[0]
        cluster = copy.deepcopy(job["spec"]["rayClusterSpec"])
        cluster["workerGroupSpecs"][0] |= {"replicas": 1, "minReplicas": 1}
        (interactive,) = find(objects, "RayCluster")
        assert interactive["spec"] == cluster, combination
        assert interactive["metadata"]["labels"] == job["metadata"]["labels"]


def test_secrets_are_documented() -> None:
    """The command in docs/kubernetes.md makes what the manifests name; that they name no other is checked with them."""
    assert documented_secrets() == {
        "postgres": {"password"},
        "mlflow-server": {"admin-password", "flask-secret-key"},
        "mlflow-client": {"username", "password"},
        "s3": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
    }


def test_alerts(builds: dict[tuple[Any, ...], list[Object]], tmp_path: Path) -> None:
    """Each alert fires and keeps silent where it should, by promtool's clock."""
    if shutil.which("promtool") is None:
        pytest.skip("no promtool (Debian's package prometheus has it)")
    (rules,) = find(builds["gpu", "rwx", None, True], "PrometheusRule")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules["spec"]))
    tests = yaml.safe_load((ROOT / "tests" / "support" / "alerts.yaml").read_text())
    asked = {case["alertname"]: [] for test in tests["tests"] for case in test.get("alert_rule_test", [])}
    for case in (case for test in tests["tests"] for case in test.get("alert_rule_test", [])):
        asked[case["alertname"]].append(bool(case["exp_alerts"]))
    assert set(asked) == {rule["alert"] for rule in rules["spec"]["groups"][0]["rules"] if "alert" in rule}
    assert all(set(outcomes) == {True, False} for outcomes in asked.values()), "each fires once, and does not once"
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(tests))
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


# What can be broken: (name, object, where, how, words of the line that must be said).


def put(value: Any) -> Change:
    """Sets the field, or an item of a list, to the value."""

    def change(parent: Any, key: Any) -> None:
        parent[key] = value

    return change


def text(old: str, new: str) -> Change:
    """Replaces a part of a text."""

    def change(parent: Any, key: Any) -> None:
        parent[key] = parent[key].replace(old, new)

    return change


SERVER = "spec.template.spec.containers.0"
OLD_DASHBOARD = '{"panels": [{"title": "GPU", "targets": [{"expr": "ray_gpus"}]}], "templating": {"list": []}}'
MUTATIONS: list[tuple[str, str, str, Change, str]] = [
    # Schemas
    ("a misspelt field of a RayJob", JOB, "spec.shutDownAfterJobFinishes", put(True), "shutDownAfterJobFinishes"),
    ("a misspelt field of a worker's pod", JOB, f"{WORKER}{POD}.tolerationz", put([]), "tolerationz"),
    ("a number of replicas in quotes", JOB, f"{WORKER}.replicas", put("4"), f"{WORKER}.replicas"),
    ("a start parameter that is a number", JOB, f"{HEAD}.rayStartParams.num-cpus", put(0),
     f"{HEAD}.rayStartParams.num-cpus"),
    ("no head group", JOB, HEAD, drop, "headGroupSpec"),
    ("a container without a name", JOB, f"{WORKER}{BOX}.name", drop, f"{WORKER}{BOX}"),
    ("a misspelt field of the Deployment", "Deployment/mlflow", f"{SERVER}.imagePullPolice", put("Always"),
     "imagePullPolice"),
    ("a port that is a word", "Service/mlflow", "spec.ports.0.port", put("http"), "spec.ports.0.port"),
    ("a port that is a list", "NetworkPolicy/dns", "spec.egress.0.ports.0.port", put(["53"]), "NetworkPolicy/dns"),
    ("an old API of the PodDisruptionBudget", "PodDisruptionBudget/ray-heads", "apiVersion", put("policy/v1beta1"),
     "policy/v1beta1"),
    ("an alert without a runbook", "PrometheusRule/vgg-dist", "spec.groups.0.rules.1.annotations.runbook", drop, "rules.1"),
    ("a field that PodMonitor has not", "PodMonitor/ray", "spec.endpoints", put([]), "endpoints"),
    ("a queue of Volcano without weight", "Queue/vgg-dist", "spec.weight", drop, "weight"),
    ("another namespace", "NetworkPolicy/ray", "metadata.namespace", put("default"), "metadata.namespace"),
    # What KubeRay and Kueue refuse
    ("a name of 48 characters", JOB, "metadata.name", put("e" * 48), "metadata.name"),
    ("a name that begins with a digit", JOB, "metadata.name", put("256-e"), "RayJob/256-e metadata.name"),
    ("a TTL without shutdown", JOB, "spec.shutdownAfterJobFinishes", put(False), "spec.ttlSecondsAfterFinished"),
    (
        "deletion rules beside shutdown",
        JOB,
        "spec.deletionStrategy",
        put({"deletionRules": [{"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}]}),
        "spec.deletionStrategy.deletionRules",
    ),
    ("a submitter template with a sidecar", JOB, "spec.submissionMode", put("SidecarMode"), "spec.submitterPodTemplate"),
    ("a submission mode that there is not", JOB, "spec.submissionMode", put("Sidecar"), "spec.submissionMode"),
    ("KubeRay's own submitter", JOB, "spec.submitterPodTemplate", drop, "spec.submitterPodTemplate"),
    ("restarts under autoscaler v2", JOB, f"{WORKER}{POD}.restartPolicy", put("Always"), f"{WORKER}{POD}.restartPolicy"),
    ("a Ray without tokens", JOB, "spec.rayClusterSpec.rayVersion", put("2.51.0"), "spec.rayClusterSpec.rayVersion"),
    ("no tokens", JOB, "spec.rayClusterSpec.authOptions.mode", put("disabled"), "spec.rayClusterSpec.authOptions.mode"),
    ("no tokens for a cluster", "RayCluster/interactive", "spec.authOptions", drop,
     "RayCluster/interactive spec.authOptions"),
    ("no auth mode in a worker", JOB, f"{WORKER}{BOX}.env.RAY_AUTH_MODE", drop, f"{WORKER}{BOX}.env.RAY_AUTH_MODE"),
    ("more workers than the most", JOB, f"{WORKER}.maxReplicas", put(0), f"{WORKER}.replicas"),
    ("no worker to start with", JOB, f"{WORKER}.minReplicas", put(0), f"{WORKER}.replicas"),
    ("an autoscaler under Kueue", "RayJob/lr-a", "metadata.labels", put({"kueue.x-k8s.io/queue-name": "vgg-dist"}),
     "enableInTreeAutoscaling"),
    ("a drain longer than the pod's grace period", JOB, f"{WORKER}{POD}.terminationGracePeriodSeconds", put(60),
     "100 s of a grace period of 60 s; must be from 30 to 50"),
    ("a drain that ends long before it", JOB, f"{WORKER}{BOX}.env.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", drop,
     f"{WORKER}{POD}.containers.0.env.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S: 30 s of a grace period of 120 s"),
    ("a head killed while it drains", JOB, f"{HEAD}{BOX}.env.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S.value", put("30"),
     f"{HEAD}{POD}.containers.0.env.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S: 30 s of a grace period of 30 s"),
    ("objects that have no room in the head's shared memory", JOB, f"{HEAD}.rayStartParams.object-store-memory",
     put("2147483648"), f"{HEAD}.rayStartParams.object-store-memory: 2147483648 do not fit"),
    ("objects of the head's without a bound", JOB, f"{HEAD}.rayStartParams.object-store-memory", drop,
     f"{HEAD}.rayStartParams.object-store-memory: missing"),
    ("a submission that ends with the head", JOB, "spec.submitterPodTemplate.spec.containers.0.env.BASH_ENV", drop,
     "env.BASH_ENV: missing"),
    ("a script that is not mounted", JOB, "spec.submitterPodTemplate.spec.containers.0.env.BASH_ENV.value",
     put("/etc/submitter/submit.sh"), "env.BASH_ENV: there is no /etc/submitter/submit.sh"),
    # GPUs
    ("little shared memory for NCCL", JOB, f"{WORKER}{POD}.volumes.shared-mem.emptyDir.sizeLimit", put("11Gi"),
     f"{WORKER}{POD}.volumes.shared-mem: 11Gi"),
    ("objects of Ray's without a bound", JOB, f"{WORKER}.rayStartParams", put({}),
     f"{WORKER}.rayStartParams.object-store-memory"),
    ("NCCL kept from NVLink", JOB, f"{WORKER}{BOX}.env.NCCL_DEBUG", put({"name": "NCCL_P2P_DISABLE", "value": "1"}),
     "NCCL_P2P_DISABLE"),
    ("GPUs that are not limited as they are requested", JOB, f"{WORKER}{BOX}.resources.requests",
     put({"cpu": "64", "memory": "268Gi", "nvidia.com/gpu": 4}), "requests and limits of nvidia.com/gpu must be alike"),
    ("a search wider than the cluster grows", "RayJob/lr-a", "spec.entrypoint",
     text("--max-concurrent-trials 8", "--max-concurrent-trials 17"), "RayJob/lr-a spec.entrypoint: 17 workers at once"),
    ("more workers than GPUs", JOB, "spec.entrypoint", text("--arch E", "--arch E --num-workers 17"), "17 workers at once"),
    ("a queue of Kueue with too few GPUs", "ClusterQueue/vgg-dist",
     "spec.resourceGroups.0.flavors.0.resources.2.nominalQuota", put(7), "8 of nvidia.com/gpu in all, and the queue has 7"),
    ("a queue of Kueue that covers no GPUs", "ClusterQueue/vgg-dist", "spec.resourceGroups.0.flavors.0.resources.2", drop,
     "the queue covers no nvidia.com/gpu"),
    ("a queue of Volcano with little memory", "Queue/vgg-dist", "spec.capability.memory", put("512Gi"),
     "of memory in all, and the queue has 512Gi"),
    ("a wait for more GPUs than there are", JOB, f"{HEAD}{BOX}.env.VGG_DIST_GPUS.value", put("16"),
     f"{HEAD}{BOX}.env.VGG_DIST_GPUS: commands wait for 16 GPUs, and the replicas have 8"),
    ("GPUs that nobody waits for", JOB, f"{HEAD}{BOX}.env.VGG_DIST_GPUS", drop, "commands wait for 0 GPUs"),
    # Entrypoints
    ("a flag that there is not", JOB, "spec.entrypoint", text("--arch", "--architecture"), "spec.entrypoint"),
    ("a value that there is not", JOB, "spec.entrypoint", text("--arch E", "--arch F"), "spec.entrypoint"),
    ("settings that cannot be", JOB, "spec.entrypoint", text("--train-scale 256", "--train-scale 200"), "--train-scale 200"),
    ("a second command", JOB, "spec.entrypoint", text("python", "true && python"), "sh -c"),
    ("a run named otherwise than its job", JOB, "spec.entrypoint", text("--name e-256", "--name e-384"), "--name e-384"),
    ("a run without a name", JOB, "spec.entrypoint", text("--name e-256", ""), "must be the job's"),
    ("runs in the pod", JOB, "spec.entrypoint", text("$STORAGE/runs", "/tmp/runs"), "/tmp/runs is not on the storage"),
    ("a submitter without the storage", JOB, "spec.submitterPodTemplate.spec.containers.0.env.STORAGE", drop,
     "the submitter has no $STORAGE"),
    ("a search's flag that there is not", "RayJob/lr-a", "spec.entrypoint", text("--trials ", "--trial "),
     "RayJob/lr-a spec.entrypoint"),
    ("prepared data outside the volume", "Job/prepare", f"{SERVER}.args.3", put("/data"), "/data is on no volume"),
    ("a flag that prepare has not", "Job/prepare", f"{SERVER}.args.2", put("--output"), "Job/prepare"),
    # References
    ("a ConfigMap of another name", "ConfigMap/storage", "metadata.name", put("store"), "env.STORAGE"),
    ("a migration of another database", "Job/mlflow-migrate", f"{SERVER}.command.3", text("/mlflow", "/other"),
     "must be those of"),
    ("a key that the ConfigMap has not", "ConfigMap/storage", "data", put({"place": "/mnt/storage"}), "env.STORAGE"),
    (
        "a Secret that nobody makes",
        JOB,
        f"{HEAD}{BOX}.env.MLFLOW_TRACKING_PASSWORD.valueFrom.secretKeyRef.name",
        put("mlflow"),
        f"{HEAD}{BOX}.env.MLFLOW_TRACKING_PASSWORD",
    ),
    ("a claim of another name", "PersistentVolumeClaim/storage", "metadata.name", put("data"),
     "no PersistentVolumeClaim storage"),
    ("a volume that is not there", JOB, f"{WORKER}{POD}.volumes.tmp", drop, f"{WORKER}{BOX}.volumeMounts.tmp"),
    ("a volume that nobody mounts", JOB, f"{WORKER}{BOX}.volumeMounts.storage", drop, f"{WORKER}{POD}.volumes.storage"),
    ("a probe of a port that is not there", "Deployment/mlflow", f"{SERVER}.ports.http.name", put("web"), "httpGet.port"),
    ("a Service that finds no pod", "Service/postgres", "spec.selector", put({"app": "postgres"}),
     "Service/postgres spec.selector"),
    ("a queue of another name", "LocalQueue/vgg-dist", "metadata.name", put("gpu"),
     "metadata.labels.kueue.x-k8s.io/queue-name"),
    ("a tracking URI of no Service", JOB, f"{WORKER}{BOX}.env.MLFLOW_TRACKING_URI.value", put("http://mlflow:80"),
     "MLFLOW_TRACKING_URI"),
    # Pods
    ("a probe that has a second", "StatefulSet/postgres", f"{SERVER}.livenessProbe.timeoutSeconds", drop,
     "livenessProbe.timeoutSeconds"),
    ("a database that is ready while it makes itself", "StatefulSet/postgres", f"{SERVER}.readinessProbe.exec.command.1",
     drop, "readinessProbe: without --host"),
    ("a root user", "StatefulSet/postgres", "spec.template.spec.securityContext.runAsUser", put(0), "StatefulSet/postgres"),
    ("a head that may be root", JOB, f"{HEAD}{POD}.securityContext.runAsNonRoot", drop,
     f"{HEAD}{POD}.securityContext.runAsNonRoot"),
    ("a writable root", JOB, f"{WORKER}{BOX}.securityContext.readOnlyRootFilesystem", drop, "readOnlyRootFilesystem"),
    ("a capability", JOB, f"{WORKER}{BOX}.securityContext.capabilities.add", put(["SYS_PTRACE"]),
     "securityContext.capabilities"),
    ("an autoscaler with a writable root", JOB, "spec.rayClusterSpec.autoscalerOptions.securityContext", drop,
     "autoscalerOptions"),
    ("no seccomp", "Job/mlflow-migrate", "spec.template.spec.securityContext.seccompProfile", drop, "seccompProfile"),
    ("a token nobody needs", JOB, f"{WORKER}{POD}.automountServiceAccountToken", drop,
     f"{WORKER}{POD}.automountServiceAccountToken"),
    ("the host's network", JOB, f"{WORKER}{POD}.hostNetwork", put(True), f"{WORKER}{POD}.hostNetwork"),
    ("no memory limit", "Deployment/mlflow", f"{SERVER}.resources.limits.memory", drop, f"{SERVER}.resources.limits"),
    ("nothing at /tmp", JOB, f"{HEAD}{BOX}.volumeMounts.tmp", drop, f"{HEAD}{BOX}.volumeMounts"),
    ("shared memory without a bound", JOB, f"{WORKER}{POD}.volumes.shared-mem.emptyDir.sizeLimit", drop,
     f"{WORKER}{POD}.volumes.shared-mem"),
    ("shared memory on disk", JOB, f"{WORKER}{POD}.volumes.shared-mem.emptyDir.medium", drop, "/dev/shm must be of memory"),
    ("the latest image", "StatefulSet/postgres", f"{SERVER}.image", put("postgres:latest"), f"{SERVER}.image"),
    ("an image without a tag", JOB, f"{WORKER}{BOX}.image", put("host:5000/vgg-dist"), f"{WORKER}{BOX}.image"),
    ("workers of another image", JOB, f"{WORKER}{BOX}.image", put("vgg-dist:0.2.0"), "image: more than one"),
    (
        "a password in the clear",
        "Deployment/mlflow",
        f"{SERVER}.env.PGPASSWORD",
        put({"name": "PGPASSWORD", "value": "hunter2"}),
        f"{SERVER}.env.PGPASSWORD",
    ),
    ("a password in an URL", "Deployment/mlflow", f"{SERVER}.args.3", text("mlflow@", "mlflow:hunter2@"),
     f"{SERVER}.args: a password"),
    # MLflow
    ("an MLflow without drivers", "Deployment/mlflow", f"{SERVER}.image", text("-full", ""), "take -full"),
    ("an MLflow without passwords", "Deployment/mlflow", f"{SERVER}.args.6", drop, "--app-name"),
    ("artifacts that pods fetch themselves", "Deployment/mlflow", f"{SERVER}.args.4", put("--no-serve-artifacts"),
     "--serve-artifacts"),
    ("a host name without its port", "Deployment/mlflow", f"{SERVER}.args.7",
     text("mlflow.vgg-dist.svc:*", "mlflow.vgg-dist.svc"), "mlflow.vgg-dist.svc:5000"),
    ("any host", "Deployment/mlflow", f"{SERVER}.args.7", put("--allowed-hosts=*"), "allows any host"),
    ("no key for sessions", "Deployment/mlflow", f"{SERVER}.env.MLFLOW_FLASK_SERVER_SECRET_KEY", drop,
     "MLFLOW_FLASK_SERVER_SECRET_KEY"),
    ("a probe that needs a password", "Deployment/mlflow", f"{SERVER}.readinessProbe.httpGet.path", put("/"),
     "readinessProbe"),
    # The network
    ("no default", "NetworkPolicy/deny-all", "spec.podSelector", put({"matchLabels": {"app": "x"}}),
     "NetworkPolicy/deny-all spec.podSelector"),
    ("no DNS over UDP", "NetworkPolicy/dns", "spec.egress.0.ports.0", drop, "53/UDP"),
    ("workers that cannot reach each other", "NetworkPolicy/ray", "spec.egress.0", drop,
     "worker to worker port 6379/TCP is not allowed"),
    ("a submitter shut out", "NetworkPolicy/ray-submitter", "spec.egress.0.ports.0.port", put(8266),
     "submitter to head port 8265/TCP is not allowed"),
    ("a submitter of another label", JOB, "spec.submitterPodTemplate.metadata.labels", put({"app": "submitter"}),
     "egress of RayJob/e-256: submitter to head port 8265/TCP is not allowed"),
    ("an operator shut out", "NetworkPolicy/ray-head", "spec.ingress.0.from.1.podSelector.matchLabels",
     put({"app": "operator"}), "operator to head port 8265/TCP is not allowed"),
    ("an MLflow open to all", "NetworkPolicy/mlflow", "spec.ingress.0.from", drop,
     "stranger to Deployment/mlflow port 5000/TCP is allowed and not needed"),
    ("workers that may call anybody", "NetworkPolicy/ray", "spec.egress.1", put({}),
     "worker to elsewhere port 22/TCP is allowed and not needed"),
    ("a Ray that any pod may call", "NetworkPolicy/ray", "spec.ingress.0.from.0.podSelector", drop,
     "StatefulSet/postgres to head port 22/TCP is allowed and not needed"),
    ("an autoscaler shut in", "NetworkPolicy/ray-autoscaler", "spec.egress.0.ports.0.port", put(8443),
     "head to elsewhere port 443/TCP is not allowed"),
    ("a Prometheus shut out", "NetworkPolicy/prometheus", "spec.ingress.0.ports.0.port", put(9090),
     "Prometheus to head port 8080/TCP is not allowed"),
    # Monitoring and the rest
    ("a metric that nobody exports", "PrometheusRule/vgg-dist", "spec.groups.0.rules.1.expr", text("report_time", "report"),
     "TrainingStalled.expr"),
    ("a runbook that is not written", "PrometheusRule/vgg-dist", "spec.groups.0.rules.1.annotations.runbook",
     text("#", "#the"), "TrainingStalled.annotations.runbook"),
    ("a panel of a metric of an older Ray", "ConfigMap/vgg-dist-dashboard",
     "data", put({"dashboard.json": OLD_DASHBOARD}),
     "ray_gpus"),
    ("a scrape of a port without that name", JOB, f"{HEAD}{BOX}.ports.metrics.name", put("prom"),
     "PodMonitor/ray spec.podMetricsEndpoints.port: RayJob/e-256"),
    ("a budget for no pod", "PodDisruptionBudget/ray-heads", "spec.selector.matchLabels", put({"ray.io/type": "head"}),
     "PodDisruptionBudget/ray-heads spec.selector"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "path", "change", "said"), [m[1:] for m in MUTATIONS], ids=[m[0] for m in MUTATIONS])
def test_mutation_is_caught(
    builds: dict[tuple[Any, ...], list[Object]], target: str, path: str, change: Change, said: str
) -> None:
    kind = target.partition("/")[0]
    queue = {"LocalQueue": "kueue", "ClusterQueue": "kueue", "Queue": "volcano"}.get(kind)
    objects = builds["gpu", "rwx", queue, True]
    broken = hurt(objects, target, path, change)
    assert broken != objects, "the mutation changes nothing"
    lines = problems(broken)  # of the unhurt there are none: test_combination_passes
    assert any(said in line for line in lines), lines
