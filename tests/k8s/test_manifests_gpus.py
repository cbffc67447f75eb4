"""k8s/ for nodes of 1, 2, 4 and 8 GPUs, and with RDMA."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from support.hurt_manifests import BOX, JOB, JOBS, WORKER, drop, hurt
from support.manifests import Object, amount, build, expected_gpus, find, problems
from support.paths import ROOT

from vgg_dist.ray_cluster import nodes

if shutil.which("kubectl") is None:
    pytest.skip("no kubectl", allow_module_level=True)

pytestmark = pytest.mark.slow
GIB = 2**30
SIZES = [
    (gpus, queue, rdma)
    for gpus in (1, 2, 4, 8)
    for queue, rdma in ((None, True), ("kueue", gpus > 2), ("volcano", gpus < 4))
]


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Any, ...], list[Object]]:
    """Builds for nodes of other numbers of GPUs: the one word of the overlay is another."""

    def one(size: tuple[int, str | None, bool]) -> list[Object]:
        gpus, queue, rdma = size
        scratch = tmp_path_factory.mktemp("sizes")
        return build(scratch, "gpu", "rwx" if gpus % 2 else "s3", queue, True, JOBS["gpu"], gpus=gpus, rdma=rdma)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(SIZES, pool.map(one, SIZES), strict=True))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "-".join(str(part) for part in size))
def test_the_number_of_gpus_a_node_is_one_parameter(
    sizes: dict[tuple[Any, ...], list[Object]], size: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pod has them all, with CPUs, memory and shared memory for so many; the workers of the jobs fit onto them."""
    gpus, _, rdma = size
    objects = sizes[size]
    assert problems(objects) == []
    for job in find(objects, "RayJob"):
        [group] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        spec = group["template"]["spec"]
        resources = spec["containers"][0]["resources"]
        shared = amount(spec["volumes"][0]["emptyDir"]["sizeLimit"])
        assert resources["requests"] == resources["limits"]
        assert resources["limits"]["nvidia.com/gpu"] == gpus
        assert amount(resources["limits"]["cpu"]) == 8 * gpus
        assert shared == (4 + gpus) * GIB
        assert amount(resources["limits"]["memory"]) == 32 * gpus * GIB + shared
        assert int(group["rayStartParams"]["object-store-memory"]) == 4 * GIB
        assert (group["replicas"] * gpus, group["minReplicas"] * gpus, group["maxReplicas"] * gpus) == (8, 8, 16)
        assert ("rdma/rdma_shared_device_a" in resources["limits"]) == rdma
        # As KubeRay tells Ray of the pods; by the rule of the driver, which takes every GPU, and waits for them all.
        pod = {"CPU": 8.0 * gpus, "GPU": float(gpus), "memory": 1e9}
        there = [{"CPU": 0.0, "memory": 1e9}, *[pod] * group["replicas"]]
        monkeypatch.setattr(nodes, "_grows_to", lambda: None)  # KubeRay's autoscaler says nothing of that
        monkeypatch.setenv("VGG_DIST_GPUS", str(expected_gpus(job["spec"]["rayClusterSpec"])))
        monkeypatch.setenv("VGG_DIST_WAIT_S", "0")
        monkeypatch.setattr(nodes.ray, "nodes", lambda there=there: [{"Alive": True, "Resources": each} for each in there])
        assert nodes.worker_resources(None) == [{"CPU": 8.0, "GPU": 1.0}] * 8
        there.pop()
        with pytest.raises(ValueError, match=f"^VGG_DIST_GPUS 8: the cluster has room for {8 - gpus} workers"):
            nodes.worker_resources(None)


def test_the_parameter_is_one_word_of_the_overlay() -> None:
    """Nothing else under k8s/ says how many GPUs a node has, or chooses among the folders of components/gpus-per-node."""
    chosen = {
        str(file.relative_to(ROOT / "k8s")): file.read_text().count("components/gpus-per-node/")
        for file in (ROOT / "k8s").rglob("*.yaml")
        if "components/gpus-per-node/" in file.read_text()
    }
    assert chosen == {"overlays/gpu/ray/kustomization.yaml": 1}
    asking = [file for file in (ROOT / "k8s").rglob("*.yaml") if "nvidia.com/gpu: " in file.read_text()]
    assert {file.relative_to(ROOT / "k8s" / "components").parts[0] for file in asking} == {"gpus-per-node", "volcano"}


def test_rdma_asks_for_no_right_that_the_namespace_refuses(sizes: dict[tuple[Any, ...], list[Object]]) -> None:
    """And for devices where there are GPUs only: the head and the submitter do without."""
    objects = sizes[8, "kueue", True]
    assert "IPC_LOCK" not in yaml.safe_dump(objects)
    text = yaml.safe_dump(find(objects, "RayJob")[0]["spec"])
    assert text.count("rdma/rdma_shared_device_a") == 2
    [queue] = find(objects, "ClusterQueue")
    assert "rdma/rdma_shared_device_a" in queue["spec"]["resourceGroups"][0]["coveredResources"]
    quiet = hurt(objects, JOB, f"{WORKER}{BOX}.env.NCCL_NET", drop)
    assert problems(quiet) == [f"{JOB} {WORKER}{BOX}.env.NCCL_NET: must be IB, or RDMA that fails is TCP without a word"]
    uncovered = hurt(objects, "ClusterQueue/vgg-dist", "spec.resourceGroups.0.flavors.0.resources.3", drop)
    assert (
        f"{JOB} metadata.labels: the queue covers no rdma/rdma_shared_device_a, so Kueue never admits the job"
        in problems(uncovered)
    )
