"""Fields: KubeRay's CRDs and Kubernetes' own schemas, both strictly; small schemas of the other kinds."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from support.manifests.objects import NAMESPACE, ROOT, Object, name_of

# A machine that only runs the tests of GPUs may lack it: then the tests of manifests are skipped, the others collected.
kubernetes_validate = pytest.importorskip("kubernetes_validate")

KUBERNETES = "1.33"  # matchLabelKeys in affinity is on by default from here


def crds_folder() -> Path:
    return Path(os.environ.get("VGG_DIST_TEST_DATA", ROOT.parent / "shared" / "data")) / "kuberay-crds"


def strict(schema: Object) -> Object:
    """A CRD's structural schema as JSON Schema: unknown fields are errors, and a field with a default is never missing."""
    out = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-") and key != "format"}
    if "properties" in schema:
        out["properties"] = {key: strict(value) for key, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            out["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        out["items"] = strict(schema["items"])
    if "required" in schema:
        out["required"] = [key for key in schema["required"] if "default" not in schema["properties"][key]]
    if schema.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
    if schema.get("nullable"):
        out = {"anyOf": [{"type": "null"}, out]}
    return out


def closed(required: dict[str, Any], optional: dict[str, Any] | None = None) -> Object:
    """An object of these fields and no others."""
    properties = required | (optional or {})
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def array(items: Object) -> Object:
    return {"type": "array", "items": items, "minItems": 1}


TEXT: Object = {"type": "string", "minLength": 1}
LABELS: Object = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITY: Object = {"type": ["string", "integer"], "pattern": "^[0-9]+([.][0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"}
DURATION: Object = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$"}
METADATA = closed({"name": TEXT}, {"namespace": TEXT, "labels": LABELS, "annotations": LABELS})
SELECTOR = closed({"matchLabels": LABELS})
# Kinds whose CRDs are not at hand: the fields that are used here, from their projects' API references.
RELABELING = closed({"sourceLabels": array(TEXT), "targetLabel": TEXT})
SCRAPE = closed({"port": TEXT}, {"interval": DURATION, "relabelings": array(RELABELING)})
SEVERITY, ANNOTATIONS = closed({"severity": {"enum": ["warning", "critical"]}}), closed({"summary": TEXT, "runbook": TEXT})
ALERT = closed({"alert": TEXT, "expr": TEXT, "labels": SEVERITY, "annotations": ANNOTATIONS}, {"for": DURATION})
RULES = closed({"name": TEXT, "rules": array({"oneOf": [closed({"record": TEXT, "expr": TEXT}), ALERT]})})
FLAVOR = closed({"name": TEXT, "resources": array(closed({"name": TEXT, "nominalQuota": QUANTITY}))})
QUOTA = closed({"coveredResources": array(TEXT), "flavors": array(FLAVOR)})
CAPABILITY = {"type": "object", "additionalProperties": QUANTITY}
SMALL_SCHEMAS: dict[tuple[str, str], Object] = {
    ("monitoring.coreos.com/v1", "PodMonitor"): closed({"selector": SELECTOR, "podMetricsEndpoints": array(SCRAPE)}),
    ("monitoring.coreos.com/v1", "PrometheusRule"): closed({"groups": array(RULES)}),
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"): closed({}, {"nodeLabels": LABELS}),
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"): closed({"namespaceSelector": SELECTOR, "resourceGroups": array(QUOTA)}),
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): closed({"clusterQueue": TEXT}),
    ("scheduling.volcano.sh/v1beta1", "Queue"): closed(
        {"weight": {"type": "integer", "minimum": 1}}, {"capability": CAPABILITY}
    ),
}
CLUSTER_WIDE = {"Namespace", "ResourceFlavor", "ClusterQueue", "Queue"}


@functools.cache
def validator(api: str, kind: str) -> Any:
    """The JSON Schema of a kind that is not Kubernetes' own; None for the others."""
    spec = SMALL_SCHEMAS.get((api, kind))
    if spec is None and api == "ray.io/v1":
        text = (crds_folder() / f"ray.io_{kind.lower()}s.yaml").read_text()
        versions = yaml.load(text, yaml.CSafeLoader)["spec"]["versions"]
        spec = strict(next(v for v in versions if v["name"] == "v1")["schema"]["openAPIV3Schema"]["properties"]["spec"])
    if spec is None:
        return None
    top = closed({"apiVersion": {"const": api}, "kind": {"const": kind}, "metadata": METADATA})
    top["properties"]["spec"] = spec
    if spec["properties"] and kind != "ResourceFlavor":
        top["required"].append("spec")
    return jsonschema.Draft202012Validator(top)


@functools.cache
def schema_faults(text: str) -> tuple[str, ...]:
    """Of an object as JSON: remembered, as most are the same from one combination and one mutation to the next."""
    item = json.loads(text)
    own = validator(item["apiVersion"], item["kind"])
    if own is not None:
        return tuple(f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in own.iter_errors(item))
    try:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return (f"kind: no schema of {item['apiVersion']} {item['kind']}",)
    except kubernetes_validate.ValidationError as error:
        return (f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}",)
    return ()


def check_schema(objects: list[Object]) -> Iterator[str]:
    seen = set()
    for item in objects:
        name = name_of(item)
        for fault in schema_faults(json.dumps(item, sort_keys=True)):
            yield f"{name} {fault}"
        if name in seen:
            yield f"{name} metadata.name: there are two"
        seen.add(name)
        expected = None if item["kind"] in CLUSTER_WIDE else NAMESPACE
        enforced = item["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce")
        if item["kind"] == "Namespace" and enforced != "restricted":
            yield f"{name} metadata.labels.pod-security.kubernetes.io/enforce: must be restricted"
        if item["metadata"].get("namespace") != expected:
            yield f"{name} metadata.namespace: must be {expected}, not {item['metadata'].get('namespace')}"
