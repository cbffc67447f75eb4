"""GPU workers: room for NCCL within a node, queues with room for a job, jobs of no more workers than there are GPUs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

from support.manifests.objects import Object, clusters, environment, find, name_of
from support.manifests.ray import COMMANDS, parsed

GIB = 2**30
FORBIDDEN = ("NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "NCCL_HOSTID")


def amount(quantity: str | int) -> float:
    """Of a quantity of Kubernetes, in CPUs, bytes or pieces."""
    number, unit = re.fullmatch("([0-9.]+)(m|[kMGT]|[KMGT]i)?", str(quantity)).groups()  # type: ignore[union-attr]
    powers = {letter: power for power, letter in enumerate("KMGT", 1)}
    factor = 1e-3 if unit == "m" else 1.0
    if unit and unit != "m":
        factor = float((1024 if unit.endswith("i") else 1000) ** powers[unit[0].upper()])
    return float(number) * factor


def worker_gpus(cluster: Object) -> int:
    """GPUs of a worker's pod."""
    limits = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]
    return int(limits.get("nvidia.com/gpu", 0))


def check_gpus(objects: list[Object]) -> Iterator[str]:
    for item in objects:
        for path, cluster in clusters(item):
            for index, group in enumerate(cluster["workerGroupSpecs"]):
                yield from (f"{name_of(item)} {path}.workerGroupSpecs.{index}.{fault}" for fault in group_faults(group))
            yield from (f"{name_of(item)} {fault}" for fault in queue_faults(objects, item, cluster))
    for job in find(objects, "RayJob"):
        cluster = job["spec"]["rayClusterSpec"]
        there = cluster["workerGroupSpecs"][0]["replicas"] * worker_gpus(cluster)
        if (expected := expected_gpus(cluster)) != there:
            where = "spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.env.VGG_DIST_GPUS"
            yield f"{name_of(job)} {where}: commands wait for {expected} GPUs, and the replicas have {there}"
        yield from (f"{name_of(job)} spec.entrypoint: {fault}" for fault in worker_faults(job))


def expected_gpus(cluster: Object) -> int:
    """How many GPUs commands wait for, as the head's environment says."""
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    return int(environment(head).get("VGG_DIST_GPUS", {}).get("value", 0))


def group_faults(group: Object) -> Iterator[str]:
    """Of a group of worker pods."""
    spec = group["template"]["spec"]
    container = spec["containers"][0]
    resources = container["resources"]
    for kind in sorted({kind for each in resources.values() for kind in each if "/" in kind}):
        if resources["requests"].get(kind) != resources["limits"].get(kind):
            yield f"template.spec.containers.0.resources: requests and limits of {kind} must be alike"
    gpus = int(resources["limits"].get("nvidia.com/gpu", 0))
    if not gpus:
        return
    variables = environment(container)
    for name in FORBIDDEN:
        if name in variables:
            yield f"template.spec.containers.0.env.{name}: keeps NCCL from the way between the node's GPUs"
    for name in ("NCCL_SOCKET_IFNAME", "NCCL_DEBUG"):
        if name not in variables:
            yield f"template.spec.containers.0.env.{name}: missing"
    if "rdma/rdma_shared_device_a" in resources["limits"] and variables.get("NCCL_NET", {}).get("value") != "IB":
        yield "template.spec.containers.0.env.NCCL_NET: must be IB, or RDMA that fails is TCP without a word"
    store = group["rayStartParams"].get("object-store-memory")
    if store is None:
        yield "rayStartParams.object-store-memory: missing; Ray's objects may take 95 % of /dev/shm, which NCCL needs too"
        return
    memory = next(volume["emptyDir"] for volume in spec["volumes"] if volume["name"] == "shared-mem")
    if amount(memory["sizeLimit"]) < int(store) + gpus * GIB:
        needed = f"{store} bytes of Ray's and 1 GiB for each of {gpus} GPUs"
        yield f"template.spec.volumes.shared-mem: {memory['sizeLimit']}; must be {needed}"


def job_amount(job: Object, cluster: Object, kind: str) -> float:
    """How much of a resource a job's pods may ask for: with an autoscaler, at their most."""
    group = cluster["workerGroupSpecs"][0]
    pods = group["maxReplicas"] if cluster.get("enableInTreeAutoscaling") else group["replicas"]
    asked = [(1, cluster["headGroupSpec"]["template"]), (pods, group["template"])]
    if "submitterPodTemplate" in job["spec"]:
        asked.append((1, job["spec"]["submitterPodTemplate"]))
    total = sum(
        count * amount(container["resources"]["requests"].get(kind, 0))
        for count, template in asked
        for container in template["spec"]["containers"]
    )
    if cluster.get("enableInTreeAutoscaling"):
        total += amount(cluster["autoscalerOptions"]["resources"]["requests"].get(kind, 0))
    return total


def queue_faults(objects: list[Object], item: Object, cluster: Object) -> Iterator[str]:
    """A queue that does not cover what a job asks for, or has never room for it, keeps it waiting for ever."""
    labels = item["metadata"].get("labels", {})
    quotas: dict[str, Any] = {}
    if "kueue.x-k8s.io/queue-name" in labels:
        for group in (group for queue in find(objects, "ClusterQueue") for group in queue["spec"]["resourceGroups"]):
            quotas |= {each["name"]: each["nominalQuota"] for each in group["flavors"][0]["resources"]}
    elif "volcano.sh/queue-name" in labels:
        quotas = next((dict(queue["spec"].get("capability", {})) for queue in find(objects, "Queue")), {})
    else:
        return
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    asked = [container["resources"]["requests"] for group in groups for container in group["template"]["spec"]["containers"]]
    for kind in sorted({kind for requests in asked for kind in requests}):
        if kind not in quotas:
            if "kueue.x-k8s.io/queue-name" in labels:
                yield f"metadata.labels: the queue covers no {kind}, so Kueue never admits the job"
        elif (wanted := job_amount(item, cluster, kind)) > amount(quotas[kind]):
            yield f"metadata.labels: {wanted:.0f} of {kind} in all, and the queue has {quotas[kind]}"


def worker_faults(job: Object) -> Iterator[str]:
    """Workers that the cluster never has room for: a GPU each, or where there are none a CPU."""
    cluster = job["spec"]["rayClusterSpec"]
    group = cluster["workerGroupSpecs"][0]
    pods = group["maxReplicas"] if cluster.get("enableInTreeAutoscaling") else group["replicas"]
    cpus = int(amount(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]))
    room = pods * (worker_gpus(cluster) or cpus)
    words = shlex.split(job["spec"]["entrypoint"])
    config: Any = parsed(COMMANDS[words[2].removeprefix("vgg_dist.")], tuple(words[3:]))
    workers = getattr(config.num_workers, "least", config.num_workers)
    wanted = (workers or 1) * (getattr(config, "max_concurrent_trials", None) or 1)
    if wanted > room:
        yield f"{wanted} workers at once; at most {pods} pods have room for {room}"
