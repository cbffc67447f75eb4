"""What docs/kubernetes.md says of k8s/, by the manifests themselves."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from support.manifests import amount, build, find, kustomize, pods, problems, schema_faults
from support.paths import ROOT

if shutil.which("kubectl") is None:
    pytest.skip("no kubectl", allow_module_level=True)
pytestmark = pytest.mark.slow

TEXT = (ROOT / "docs" / "kubernetes.md").read_text()


def test_what_a_laptop_must_have(tmp_path: Path) -> None:
    """The scheduler wants room for the requests of all pods at once."""
    objects = build(tmp_path, "cpu", "rwx", jobs=("first",))
    (job,) = find(objects, "RayJob")
    count = {"worker": job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"]}
    needed = {"cpu": 0.0, "memory": 0.0}
    for pod in pods(objects):
        for kind in needed:
            asked = {path: amount(container["resources"]["requests"][kind]) for path, container in pod.containers}
            before = max((value for path, value in asked.items() if ".initContainers." in path), default=0)
            together = sum(value for path, value in asked.items() if ".containers." in path)
            needed[kind] += count.get(pod.kind, 1) * max(before, together)
    said = re.search(r"request ([0-9.]+) CPUs and ([0-9.]+) GiB", TEXT)
    assert said is not None
    assert (float(said[1]), float(said[2])) == (round(needed["cpu"], 2), needed["memory"] / 2**30)
    assert needed["cpu"] <= 2 - 0.95 - 0.1, "beside Kubernetes' own pods on kind and KubeRay's operator, on two CPUs"


def test_kueue_is_new_enough_for_the_queues(tmp_path: Path) -> None:
    """The API v1beta2 came with Kueue 0.15."""
    objects = build(tmp_path, "gpu", "rwx", "kueue")
    kinds = ("ClusterQueue", "LocalQueue", "ResourceFlavor")
    assert {item["apiVersion"] for kind in kinds for item in find(objects, kind)} == {"kueue.x-k8s.io/v1beta2"}
    said = re.search(r"Kueue 0[.]([0-9]+) or later", TEXT)
    assert said is not None
    assert int(said[1]) >= 15


@pytest.mark.parametrize(
    ("number", "peer", "port"),
    [(0, {"ipBlock": {"cidr": "169.254.20.10/32"}}, 53), (1, "openshift-dns", 5353)],
    ids=["NodeLocal DNSCache", "OpenShift"],
)
def test_documented_patches_of_policies(tmp_path: Path, number: int, peer: object, port: int) -> None:
    """They can be applied, and then the pods may ask that DNS server, by UDP and TCP."""
    blocks = re.findall("  ```yaml\n(.*?)  ```", TEXT, re.DOTALL)
    patches = [patch for block in blocks for patch in yaml.safe_load(block)]
    base = os.path.relpath(ROOT / "k8s" / "overlays" / "gpu", tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [base], "patches": [patches[number]]}))
    (policy,) = (item for item in find(kustomize(tmp_path), "NetworkPolicy") if item["metadata"]["name"] == "dns")
    assert schema_faults(json.dumps(policy)) == ()
    (rule,) = policy["spec"]["egress"]
    assert sorted((each["port"], each["protocol"]) for each in rule["ports"]) == [(port, "TCP"), (port, "UDP")]
    if isinstance(peer, str):
        peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": peer}}}
    assert peer in rule["to"]


def test_another_port_of_the_bucket_is_one_number(tmp_path: Path) -> None:
    """Where the endpoint has another, the policy that is shipped shuts it out; with the number changed all is well."""
    objects = build(tmp_path, "gpu", "s3", jobs=("train",))
    (storage,) = (item for item in find(objects, "ConfigMap") if item["metadata"]["name"] == "storage")
    (policy,) = (item for item in find(objects, "NetworkPolicy") if item["metadata"]["name"] == "s3")
    storage["data"]["endpoint"] = "http://minio.example.org:9000"
    assert any("worker to elsewhere port 9000/TCP is not allowed" in line for line in problems(objects))
    assert policy["spec"]["egress"][0]["ports"] == [{"port": 443}]
    policy["spec"]["egress"][0]["ports"] = [{"port": 9000}]
    assert problems(objects) == []
