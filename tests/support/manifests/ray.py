"""What KubeRay and Kueue refuse though the CRDs let it pass; and entrypoints, by the project's own command lines."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shlex
from collections.abc import Iterator
from typing import Any

import tyro
from ray._private import ray_constants

from pipelines import prepare
from pipelines.cli import one_line_errors
from support.manifests.objects import Object, clusters, environment, find, name_of, pods
from support.manifests.pods import container_security, megabytes, resource_faults
from vgg_dist.config import EvalConfig, ReproduceConfig, TrainConfig, TuneConfig

TO_END_S = 10  # Ray gives each of a node's processes a second, and on the head there are about eight
COMMANDS = {"train": TrainConfig, "tune": TuneConfig, "evaluate": EvalConfig, "reproduce": ReproduceConfig}


def check_ray(objects: list[Object]) -> Iterator[str]:
    for item in objects:
        name, spec = name_of(item), item.get("spec", {})
        if item["kind"] == "RayJob":
            yield from (f"{name} {fault}" for fault in job_faults(item))
        longest = {"RayJob": 47, "RayCluster": 53}.get(item["kind"], 253)
        if item["kind"] in ("RayJob", "RayCluster"):
            plain = item["metadata"]["name"]
            if len(plain) > longest or not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", plain):
                yield f"{name} metadata.name: must be a DNS-1035 label of at most {longest} characters"
        for path, cluster in clusters(item):
            yield from (f"{name} {path}.{fault}" for fault in cluster_faults(cluster))
            queue = item["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
            if queue is not None:
                if cluster.get("enableInTreeAutoscaling"):
                    yield f"{name} {path}.enableInTreeAutoscaling: Kueue refuses it"
                if item["kind"] == "RayJob" and not spec.get("shutdownAfterJobFinishes"):
                    yield f"{name} spec.shutdownAfterJobFinishes: Kueue wants it"


def job_faults(job: Object) -> Iterator[str]:
    spec = job["spec"]
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"):
        yield f"spec.submissionMode: KubeRay knows no {mode}"
    if mode in ("SidecarMode", "InteractiveMode") and "submitterPodTemplate" in spec:
        yield f"spec.submitterPodTemplate: not with {mode}"
    if mode == "SidecarMode" and "submitterConfig" in spec:
        yield "spec.submitterConfig: not with SidecarMode"
    if mode == "K8sJobMode" and "submitterPodTemplate" not in spec:
        yield "spec.submitterPodTemplate: missing; KubeRay's own has no security context, so the namespace refuses it"
    elif mode == "K8sJobMode" and "BASH_ENV" not in environment(spec["submitterPodTemplate"]["spec"]["containers"][0]):
        yield "spec.submitterPodTemplate.spec.containers.0.env.BASH_ENV: missing, so a head told to end ends the submission"
    if mode == "InteractiveMode" and spec.get("backoffLimit"):
        yield "spec.backoffLimit: not with InteractiveMode"
    for key, least in (("ttlSecondsAfterFinished", 0), ("backoffLimit", 0), ("activeDeadlineSeconds", 1)):
        if spec.get(key, least) < least:
            yield f"spec.{key}: must be at least {least}"
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        yield "spec.ttlSecondsAfterFinished: needs shutdownAfterJobFinishes"
    rules = spec.get("deletionStrategy", {}).get("deletionRules")
    if rules and spec.get("shutdownAfterJobFinishes"):
        yield "spec.deletionStrategy.deletionRules: not with shutdownAfterJobFinishes"
    if spec.get("clusterSelector") and spec.get("rayClusterSpec"):
        yield "spec.clusterSelector: not with rayClusterSpec"
    if "rayClusterSpec" not in spec:
        yield "spec.rayClusterSpec: missing"
    if not spec.get("backoffLimit"):
        yield "spec.backoffLimit: must be at least 1, or the loss of the head is the end of the job"
    if not spec.get("entrypoint"):
        yield "spec.entrypoint: missing"


def cluster_faults(cluster: Object) -> Iterator[str]:
    autoscaled, options = cluster.get("enableInTreeAutoscaling", False), cluster.get("autoscalerOptions", {})
    groups = [("headGroupSpec", cluster["headGroupSpec"])]
    groups += [(f"workerGroupSpecs.{index}", group) for index, group in enumerate(cluster.get("workerGroupSpecs", []))]
    for path, group in groups:
        started = {"num-cpus", "num-gpus", "memory", "resources"} & set(group.get("rayStartParams", {}))
        if started and group.get("resources"):
            yield f"{path}.resources: not with rayStartParams {', '.join(sorted(started))}"
        if autoscaled and options.get("version") == "v2" and group["template"]["spec"].get("restartPolicy") != "Never":
            yield f"{path}.template.spec.restartPolicy: must be Never with autoscaler v2"
        yield from (f"{path}.template.spec.{fault}" for fault in drain_faults(group["template"]["spec"]))
        yield from (f"{path}.{fault}" for fault in store_faults(group))
    if len(groups) == 1:
        yield "workerGroupSpecs: no workers"
    if cluster["headGroupSpec"].get("rayStartParams", {}).get("num-cpus") != "0":
        yield "headGroupSpec.rayStartParams.num-cpus: must be 0, for no worker to start on the head"
    if autoscaled and options.get("version") != "v2":
        yield "autoscalerOptions.version: must be v2"
    for path, group in groups[1:]:
        limits = group["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {})
        tolerated = [toleration.get("key") for toleration in group["template"]["spec"].get("tolerations", [])]
        if "nvidia.com/gpu" in limits and "nvidia.com/gpu" not in tolerated:
            yield f"{path}.template.spec.tolerations: none of nvidia.com/gpu"
        least, most = group.get("minReplicas", 0), group.get("maxReplicas")
        if not autoscaled and ("minReplicas" not in group or most is None):
            yield f"{path}.minReplicas: and maxReplicas must be given without an autoscaler"
        if not 1 <= least <= group.get("replicas", 0) <= (least if most is None else most):
            yield f"{path}.replicas: must be from minReplicas to maxReplicas, and none of them 0: no GPU, no training on it"
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode: must be token"
    elif tuple(map(int, re.findall("[0-9]+", cluster.get("rayVersion", "0.0"))[:2])) < (2, 52):
        yield f"rayVersion: token authentication needs 2.52, not {cluster.get('rayVersion')}"
    if "networkPolicy" in cluster or "tlsOptions" in cluster or "historyServerOptions" in cluster:
        yield "networkPolicy, tlsOptions, historyServerOptions: behind feature gates that are off"
    if autoscaled:
        security = options.get("securityContext") or {}
        yield from (f"autoscalerOptions.{fault}" for fault in container_security(security))
        yield from (f"autoscalerOptions.{fault}" for fault in resource_faults(options))
        if "/tmp" not in {mount["mountPath"] for mount in options.get("volumeMounts", [])}:
            yield "autoscalerOptions.volumeMounts: nothing at /tmp, and the root is read-only"


def store_faults(group: Object) -> Iterator[str]:
    """Ray takes 30 % of the memory for objects, and where /dev/shm is smaller puts them all on the disk."""
    store = int(group.get("rayStartParams", {}).get("object-store-memory", 0))
    shared = [volume["emptyDir"] for volume in group["template"]["spec"]["volumes"] if volume["name"] == "shared-mem"]
    if not store:
        yield "rayStartParams.object-store-memory: missing, and 30 % of the memory need not fit into /dev/shm"
    elif any("sizeLimit" in memory and megabytes(memory["sizeLimit"]) * 2**20 < store for memory in shared):
        yield f"rayStartParams.object-store-memory: {store} do not fit into /dev/shm"


def drain_faults(spec: Object) -> Iterator[str]:
    """Ray goes on for a while after SIGTERM: most of the pod's grace period, and not so long that Kubernetes kills it."""
    name = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"  # Ray's name: AttributeError in a Ray that has another
    grace = spec.get("terminationGracePeriodSeconds", 30)
    drain = float(environment(spec["containers"][0]).get(name, {}).get("value", getattr(ray_constants, name)))
    if not 0.5 * grace <= drain <= grace - TO_END_S:
        bounds = f"from {0.5 * grace:.0f} to {grace - TO_END_S}"
        yield f"containers.0.env.{name}: {drain:.0f} s of a grace period of {grace} s; must be {bounds}"


@functools.cache
def settings_of(command: Any) -> Any:
    """A function with the same flags, which only returns them."""
    return functools.wraps(command)(lambda **settings: settings)


@functools.lru_cache(1000)  # one is read in 15 ms, and again for every combination and mutation
def parsed(command: Any, words: tuple[str, ...]) -> Any:
    """What the command line makes of the words; ValueError with the line that a user would read."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), one_line_errors("command"):
            return tyro.cli(command, args=words)
    except SystemExit:
        raise ValueError(said.getvalue().strip()) from None


def check_entrypoints(objects: list[Object]) -> Iterator[str]:
    location = next(
        (item["data"].get("location", "") for item in find(objects, "ConfigMap") if item["metadata"]["name"] == "storage"),
        "",
    )
    for job in find(objects, "RayJob"):
        where = f"{name_of(job)} spec.entrypoint"
        # It is the submitter's shell that fills in variables: `ray job submit` quotes what it passes on.
        submitters = [c for pod in pods([job]) if pod.kind == "submitter" for _, c in pod.containers]
        known = {name for container in submitters for name in environment(container)}
        for variable in sorted(set(re.findall(r"\$(\w+)", job["spec"].get("entrypoint", ""))) - known):
            yield f"{where}: the submitter has no ${variable}"
        words = shlex.split(job["spec"].get("entrypoint", "").replace("$STORAGE", location), posix=True)
        if {"&&", "||", ";", "|"} & set(words) or any(word.endswith(";") for word in words):
            yield f"{where}: its second half would run in the submitter; wrap it in sh -c"
            continue
        module = words[2].removeprefix("vgg_dist.") if len(words) > 2 else ""
        if words[:2] != ["python", "-m"] or module not in COMMANDS:
            yield f"{where}: must be python -m vgg_dist.{'|'.join(COMMANDS)}"
            continue
        try:
            config: Any = parsed(COMMANDS[module], tuple(words[3:])).resolved()
        except ValueError as error:
            yield f"{where}: vgg_dist.{module} refuses it: {error}"
            continue
        if config.name != job["metadata"]["name"]:
            yield f"{where}: --name {config.name} must be the job's, and fixed, for a retry to resume"
        read = [*getattr(config, "nets", ()), *([] if config.data in (None, "") else [config.data]), config.storage_path]
        for path in read:
            if not path.startswith((f"{location}/", "synthetic")) or not location:
                yield f"{where}: {path} is not on the storage, {location or 'of which there is none'}"
        if "--storage-path" not in words:
            yield f"{where}: no --storage-path, so a retry would not find the run"
    for job in find(objects, "Job"):
        for path, container in (pair for pod in pods([job]) for pair in pod.containers):
            words = container.get("command", []) + container.get("args", [])
            if words[:3] == ["python", "-m", "pipelines.prepare"]:
                try:
                    parsed(settings_of(getattr(prepare, words[3])), tuple(words[4:]))
                except ValueError as error:
                    yield f"{name_of(job)} {path}.args: pipelines.prepare refuses them: {error}"
                mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
                for word in words:
                    if word.startswith("/") and not any(word.startswith(f"{mount}/") for mount in mounts):
                        yield f"{name_of(job)} {path}.args: {word} is on no volume"
