"""Names: everything that is referred to is there."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator

from support.manifests.objects import ROOT, Object, find, matches, name_of, pods
from support.manifests.schemas import CLUSTER_WIDE


@functools.cache
def documented_secrets() -> dict[str, set[str]]:
    """Name and keys of each Secret that docs/kubernetes.md has made by hand."""
    text = (ROOT / "docs" / "kubernetes.md").read_text().replace("\\\n", " ")
    return {
        name: set(re.findall(r"--from-literal=([\w.-]+)=", rest))
        for name, rest in re.findall(r"create secret generic ([\w-]+)(.*)", text)
    }


def check_references(objects: list[Object]) -> Iterator[str]:
    maps = {item["metadata"]["name"]: set(item.get("data", {})) for item in find(objects, "ConfigMap")}
    claims = {item["metadata"]["name"] for item in find(objects, "PersistentVolumeClaim")}
    for pod in pods(objects):
        templates = next(item for item in objects if name_of(item) == pod.owner)["spec"].get("volumeClaimTemplates", [])
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        known = set(volumes) | {template["metadata"]["name"] for template in templates}
        for volume in volumes.values():
            where = f"{pod.owner} {pod.path}.volumes.{volume['name']}"
            if (claim := volume.get("persistentVolumeClaim", {}).get("claimName")) is not None and claim not in claims:
                yield f"{where}: there is no PersistentVolumeClaim {claim}"
            if (config := volume.get("configMap", {}).get("name")) is not None and config not in maps:
                yield f"{where}: there is no ConfigMap {config}"
            if (secret := volume.get("secret", {}).get("secretName")) is not None and secret not in documented_secrets():
                yield f"{where}: docs/kubernetes.md makes no Secret {secret}"
        mounted = {mount["name"] for _, container in pod.containers for mount in container.get("volumeMounts", [])}
        yield from (f"{pod.owner} {pod.path}.volumes.{name}: is mounted nowhere" for name in sorted(set(volumes) - mounted))
        for path, container in pod.containers:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in known:
                    yield f"{pod.owner} {path}.volumeMounts.{mount['name']}: there is no such volume"
            for variable in container.get("env", []):
                source = variable.get("valueFrom", {})
                where = f"{pod.owner} {path}.env.{variable['name']}"
                for kind, have in (("configMapKeyRef", maps), ("secretKeyRef", documented_secrets())):
                    if (reference := source.get(kind)) and reference["key"] not in have.get(reference["name"], set()):
                        yield f"{where}: there is no {reference['name']} with key {reference['key']}"
                if variable["name"] == "BASH_ENV":
                    folder, _, key = variable["value"].rpartition("/")
                    names = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
                    config = volumes.get(names.get(folder), {}).get("configMap", {}).get("name")
                    if key not in maps.get(config, set()):
                        yield f"{where}: there is no {variable['value']}"
            for source in container.get("envFrom", []):
                for kind, have in (("configMapRef", maps), ("secretRef", documented_secrets())):
                    if kind in source and source[kind]["name"] not in have:
                        yield f"{pod.owner} {path}.envFrom: there is no {source[kind]['name']}"
            ports = {port["name"] for port in container.get("ports", []) if "name" in port}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                if isinstance(port, str) and port not in ports:
                    yield f"{pod.owner} {path}.{probe}.httpGet.port: the container has no port {port}"
    yield from check_queues(objects)
    yield from check_selectors(objects)


def check_queues(objects: list[Object]) -> Iterator[str]:
    names = {kind: {item["metadata"]["name"] for item in find(objects, kind)} for kind in (*CLUSTER_WIDE, "LocalQueue")}
    for item in objects:
        labels = item["metadata"].get("labels", {})
        for label, kind in (("kueue.x-k8s.io/queue-name", "LocalQueue"), ("volcano.sh/queue-name", "Queue")):
            if label in labels and labels[label] not in names[kind]:
                yield f"{name_of(item)} metadata.labels.{label}: there is no {kind} {labels[label]}"
    for item in find(objects, "LocalQueue"):
        if item["spec"]["clusterQueue"] not in names["ClusterQueue"]:
            yield f"{name_of(item)} spec.clusterQueue: there is no {item['spec']['clusterQueue']}"
    for item in find(objects, "ClusterQueue"):
        for group in item["spec"]["resourceGroups"]:
            for flavor in group["flavors"]:
                if flavor["name"] not in names["ResourceFlavor"]:
                    yield f"{name_of(item)} spec.resourceGroups.flavors: there is no ResourceFlavor {flavor['name']}"
                if [resource["name"] for resource in flavor["resources"]] != group["coveredResources"]:
                    yield f"{name_of(item)} spec.resourceGroups.coveredResources: must be those of its flavors, in order"


def check_selectors(objects: list[Object]) -> Iterator[str]:
    everything = list(pods(objects))
    for item in objects:
        if item["kind"] in ("Service", "Deployment", "StatefulSet", "PodDisruptionBudget", "PodMonitor"):
            selector = item["spec"].get("selector", {})
            if not selector.get("matchLabels", {} if item["kind"] != "Service" else selector):
                yield f"{name_of(item)} spec.selector: selects everything"
        if item["kind"] == "PodDisruptionBudget" and "minAvailable" not in item["spec"]:
            yield f"{name_of(item)} spec.minAvailable: missing; of pods of a custom resource Kubernetes takes no other"
        claims = [item] if item["kind"] == "PersistentVolumeClaim" else item.get("spec", {}).get("volumeClaimTemplates", [])
        for claim in claims:
            size = claim["spec"].get("resources", {}).get("requests", {}).get("storage")
            if not claim["spec"].get("accessModes") or not size:
                yield f"{name_of(item)} {claim['metadata']['name']}.spec: accessModes and resources.requests.storage"
    for item in find(objects, "Service"):
        found = [pod for pod in everything if item["spec"]["selector"].items() <= pod.labels.items()]
        ports = {
            port["containerPort"] for pod in found for _, container in pod.containers for port in container.get("ports", [])
        }
        if not found:
            yield f"{name_of(item)} spec.selector: selects no pod"
        for port in item["spec"]["ports"]:
            if found and port.get("targetPort", port["port"]) not in ports:
                yield f"{name_of(item)} spec.ports: no pod listens on {port['port']}"
    ray_jobs = any(pod.kind == "head" for pod in everything)
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        for item in find(objects, kind):
            found = [pod for pod in everything if matches(item["spec"]["selector"], pod.labels)]
            if ray_jobs and not found:
                yield f"{name_of(item)} spec.selector: selects no pod"
            for endpoint, pod in itertools.product(item["spec"].get("podMetricsEndpoints", []), found):
                if endpoint["port"] not in {port.get("name") for _, c in pod.containers for port in c.get("ports", [])}:
                    yield f"{name_of(item)} spec.podMetricsEndpoints.port: {pod.owner} has no port {endpoint['port']}"
    for item in objects:
        if item["kind"] in ("Deployment", "StatefulSet"):
            labels = item["spec"]["template"]["metadata"]["labels"]
            if not matches(item["spec"]["selector"], labels):
                yield f"{name_of(item)} spec.selector: does not select its own pods"
        if item["kind"] == "StatefulSet" and item["spec"]["serviceName"] not in {
            service["metadata"]["name"] for service in find(objects, "Service")
        }:
            yield f"{name_of(item)} spec.serviceName: there is no such Service"
