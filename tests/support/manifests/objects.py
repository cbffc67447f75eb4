"""The manifests as Kubernetes gets them, and the pods that it and KubeRay will make of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from support.paths import ROOT

NAMESPACE = "vgg-dist"

Object = dict[str, Any]


def build(
    scratch: Path,
    flavour: str,
    storage: str,
    queue: str | None = None,
    monitoring: bool = False,
    jobs: tuple[str, ...] = (),
    *,
    gpus: int = 8,
    rdma: bool = False,
) -> list[Object]:
    """All that a user of these components applies, with one `kubectl kustomize` of a copy of k8s/ in `scratch`.

    With `flavour` "gpu" for nodes of so many `gpus`.
    """
    folder = scratch / "k8s"
    shutil.copytree(ROOT / "k8s", folder)
    last = [*([queue] if queue else []), *(["rdma"] if rdma else [])]
    chosen = {"": [storage, *(["monitoring"] if monitoring else []), *last]}
    chosen["/ray"] = [*([f"gpus-per-node/{gpus}"] if flavour == "gpu" else []), "image", storage, *last]
    for part, components in chosen.items():
        file = folder / "overlays" / flavour / part.strip("/") / "kustomization.yaml"
        content = yaml.safe_load(file.read_text())
        up = "../../" + "../" * part.count("/")
        content["components"] = [f"{up}components/{name}" for name in components]
        file.write_text(yaml.safe_dump(content))
    for job in jobs:
        file = folder / "jobs" / job / "kustomization.yaml"
        file.write_text(re.sub("overlays/(cpu|gpu)/ray", f"overlays/{flavour}/ray", file.read_text()))
    everything = {"resources": [f"overlays/{flavour}", *(f"jobs/{job}" for job in jobs)]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(everything))
    return kustomize(folder)


def kustomize(folder: Path) -> list[Object]:
    """What `kubectl kustomize` makes of a folder."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


@dataclass(frozen=True)
class Pod:
    """A pod that Kubernetes or KubeRay will make."""

    owner: str
    path: str
    spec: Object
    labels: dict[str, str]
    kind: str = "plain"  # or head, worker, submitter
    namespace: str = NAMESPACE
    # Where it stands in the manifest: (path, container).
    containers: list[tuple[str, Object]] = field(default_factory=list)


def name_of(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def clusters(item: Object) -> Iterator[tuple[str, Object]]:
    if item["kind"] == "RayJob" and "rayClusterSpec" in item["spec"]:
        yield "spec.rayClusterSpec", item["spec"]["rayClusterSpec"]
    elif item["kind"] == "RayCluster":
        yield "spec", item["spec"]


def pods(objects: list[Object]) -> Iterator[Pod]:
    for item in objects:
        templates: list[tuple[str, Object, str, dict[str, str]]] = []
        if item["kind"] in ("Deployment", "StatefulSet", "Job"):
            templates.append(("spec.template", item["spec"]["template"], "plain", {}))
        if "submitterPodTemplate" in item.get("spec", {}):
            templates.append(("spec.submitterPodTemplate", item["spec"]["submitterPodTemplate"], "submitter", {}))
        for path, cluster in clusters(item):
            # The labels that KubeRay adds.
            ray = {
                "ray.io/is-ray-node": "yes",
                "ray.io/cluster": item["metadata"]["name"],
                "app.kubernetes.io/name": "kuberay",
            }
            head = ray | {"ray.io/node-type": "head", "ray.io/group": "headgroup"}
            templates.append((f"{path}.headGroupSpec.template", cluster["headGroupSpec"]["template"], "head", head))
            for index, group in enumerate(cluster.get("workerGroupSpecs", [])):
                worker = ray | {"ray.io/node-type": "worker", "ray.io/group": group["groupName"]}
                templates.append((f"{path}.workerGroupSpecs.{index}.template", group["template"], "worker", worker))
        for path, template, kind, labels in templates:
            spec = template["spec"]
            labels = labels | template.get("metadata", {}).get("labels", {})
            containers = [
                (f"{path}.spec.{key}.{index}", container)
                for key in ("initContainers", "containers")
                for index, container in enumerate(spec.get(key, []))
            ]
            yield Pod(name_of(item), f"{path}.spec", spec, labels, kind, containers=containers)


def find(objects: list[Object], kind: str) -> list[Object]:
    return [item for item in objects if item["kind"] == kind]


def environment(container: Object) -> dict[str, Object]:
    return {variable["name"]: variable for variable in container.get("env", [])}


def matches(selector: Object, labels: dict[str, str]) -> bool:
    for expression in selector.get("matchExpressions", []):
        inside = labels.get(expression["key"]) in expression.get("values", [])
        if not {"In": inside, "NotIn": not inside, "Exists": expression["key"] in labels}[expression["operator"]]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()
