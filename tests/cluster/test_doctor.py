"""The verdicts of `doctor` on the reports of nodes; test_doctor_on_hosts.py runs the command itself."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster import probes, verdicts
from cluster.allreduce_verdicts import judge_rdma
from cluster.doctor import lost_nodes
from cluster.verdicts import GIB, Verdict
from pipelines.preparation.shard_writer import write_shards
from pipelines.stores.open import open_splits, open_store

COUNTED = dict.fromkeys("abc", 2)
GPU = {"name": "NVIDIA H100", "driver": "580.1", "total": 80 * GIB, "used": GIB}
FACT: dict[str, Any] = {
    "versions": {"torch": "2.14.1", "ray": "2.60.0", "vgg_dist code": "1f00d1f00d"},
    "gpus": [GPU, GPU],
    "rdma": {"devices": 8, "memlock": None},
    "shm": {"total": 8 * GIB, "free": 8 * GIB},
    "disks": {"/runs": {"total": 100 * GIB, "free": 50 * GIB}},
}
READ = {
    "train": 1000,
    "val": 100,
    "names": "abc",
    "images_per_second": 2000.0,
    "bytes_per_second": 2e8,
    "to_fetch": 0,
    "shards": 0,
    "capacity": 0,
    "limit": "",
}
AFAR = READ | {"images_per_second": 3.0, "to_fetch": 10**11, "shards": 10**11, "capacity": 2 * 10**11}


def nodes(**changes: Any) -> dict[str, Any]:
    """The reports of three nodes, of which c differs."""
    facts = {name: copy.deepcopy(FACT) | {"host": f"host-{name}", "machine": f"boot-{name}"} for name in "abc"}
    facts["c"] |= changes
    return facts


def bad(found: list[Verdict]) -> list[str]:
    return [f"{verdict.level}: {verdict.message}" for verdict in found if verdict.level != "ok"]


def test_nothing_is_wrong_with_nodes_that_are_alike() -> None:
    found = [
        *verdicts.judge_versions(nodes()),
        *verdicts.judge_gpus(nodes(), COUNTED),
        *verdicts.judge_memory_and_disks(nodes()),
    ]
    found += judge_rdma(nodes())
    found += verdicts.judge_nodes(["a", "b", "c"], [], {})
    found += verdicts.judge_clocks({"a": 0.0, "b": 0.1, "c": -0.2})
    found += verdicts.judge_storage("/runs", dict.fromkeys("ab"), {node: {"a": None, "b": None} for node in "ab"})
    found += verdicts.judge_data("/data", dict.fromkeys("abc", READ), dict.fromkeys("abc", 2))
    found += verdicts.judge_tracking("http://mlflow", dict.fromkeys("abc"))
    assert bad(found) == []
    assert all(verdict.fix == "" for verdict in found)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (verdicts.judge_nodes(["a"], [], {"b": "timed out"}), "bad: b does not answer: timed out"),
        (verdicts.judge_nodes(["a"], ["b"], {}), "warn: b has left the cluster"),
        (
            verdicts.judge_versions(nodes(versions=FACT["versions"] | {"ray": "2.59.0"})),
            "bad: c has ray 2.59.0, others 2.60.0",
        ),
        (verdicts.judge_versions(nodes(versions=FACT["versions"] | {"torch": "missing"})), "bad: c has no torch"),
        (
            verdicts.judge_gpus(nodes(gpus=[GPU, GPU | {"driver": "570.2"}]), COUNTED),
            "bad: c has driver 570.2, others 580.1",
        ),
        (
            verdicts.judge_gpus(nodes(gpus=[GPU, GPU | {"name": "NVIDIA T4"}]), COUNTED),
            "warn: c has name NVIDIA T4, others NVIDIA H100",
        ),
        (
            verdicts.judge_gpus(nodes(gpus=[GPU, GPU | {"used": 40 * GIB}]), COUNTED),
            "warn: c: 40 of 80 GiB are already in use",
        ),
        (verdicts.judge_gpus(nodes(gpus=[]), COUNTED), "bad: c: Ray counts 2 GPUs there, the driver shows none"),
        (verdicts.judge_gpus(nodes(gpus=[GPU]), COUNTED), "bad: c: Ray counts 2 GPUs there, the driver shows 1"),
        (verdicts.judge_gpus(nodes(), COUNTED | {"c": 0}), "warn: c: the driver shows 2 GPUs, Ray counts 0"),
        (
            verdicts.judge_gpus(nodes(machine="boot-b"), COUNTED),
            "warn: b, c are containers of one machine: NCCL uses sockets between their GPUs",
        ),
        (
            judge_rdma(nodes(rdma={"devices": 8, "memlock": 8 * 2**20})),
            "bad: c: 8 devices, but processes may lock only 8192 KiB of memory",
        ),
        (
            verdicts.judge_memory_and_disks(nodes(shm={"total": 64e6, "free": 64e6})),
            "bad: c: 64 MB shared memory; at least 1 GiB is needed",
        ),
        (verdicts.judge_memory_and_disks(nodes(shm=None)), "bad: c: no shared memory; at least 1 GiB is needed"),
        (
            verdicts.judge_memory_and_disks(nodes(disks={"/runs": {"total": 100 * GIB, "free": 2 * GIB}})),
            "bad: c: 2.0 of 100.0 GiB free at /runs",
        ),
        (verdicts.judge_clocks({"a": 0.0, "b": 0.1, "c": -7.0}), "bad: c is -7.0 s off"),
        (
            verdicts.judge_storage("/runs", {"a": None, "b": "Permission denied"}, {"a": {"a": None}, "b": {"a": None}}),
            "bad: b cannot write there: Permission denied",
        ),
        (
            verdicts.judge_storage(
                "/runs", {"a": None, "b": None}, {"a": {"a": None, "b": None}, "b": {"a": "does not exist there", "b": None}}
            ),
            "bad: b does not see what a wrote: does not exist there",
        ),
        (
            verdicts.judge_storage(
                "/runs",
                dict.fromkeys("abc"),
                {
                    node: {other: None if (node == "c") == (other == "c") else "does not exist there" for other in "abc"}
                    for node in "abc"
                },
            ),
            "bad: c does not see what a, b wrote: does not exist there",
        ),
        (
            verdicts.judge_storage("/runs", dict.fromkeys("a"), {"a": {"a": "Access denied"}}),
            "bad: a does not see what a wrote: Access denied",
        ),
        (verdicts.judge_data("/data", {"a": READ, "b": {"error": "no such folder"}}, {}), "bad: b: no such folder"),
        (
            verdicts.judge_data("/data", {"a": READ, "b": READ, "c": READ | {"train": 999}}, {}),
            "bad: c has 999 + 100 images, others 1000 + 100",
        ),
        (
            verdicts.judge_data("/data", {"a": READ | {"train": 999}, "b": READ}, {}),
            "bad: a has 999 + 100 images, others 1000 + 100",
        ),
        (
            verdicts.judge_data("/data", {"a": READ, "b": READ, "c": READ | {"names": "xyz"}}, {}),
            "bad: c has images with other names than the others",
        ),
        (
            verdicts.judge_data("/data", {"a": READ, "b": READ | {"images_per_second": 700.0}}, {"a": 2, "b": 2}),
            "warn: b reads 700 images/s; its GPUs need about 1000",
        ),
        (
            verdicts.judge_data("s3://data", {"a": AFAR, "b": AFAR | {"capacity": 10**10, "limit": "L"}}, {"a": 8, "b": 8}),
            "warn: b: 10.0 GB of 100.0 GB of shards fit (L); other images are read one by one",
        ),
        (verdicts.judge_tracking("http://mlflow", {"a": None, "b": "403"}), "bad: b: 403"),
    ],
)
def test_what_is_wrong_is_named_with_its_fix(found: list[Verdict], expected: str) -> None:
    assert bad(found) == [expected]
    assert all(verdict.fix for verdict in found if verdict.level != "ok")
    assert "fix: " in verdicts.to_line(next(verdict for verdict in found if verdict.level != "ok"))


def test_gpus_that_only_ray_counts_are_no_clean_bill() -> None:
    """It is bad, because Ray would place workers there that find no GPU; not "none; training runs on CPUs"."""
    facts = {name: fact | {"gpus": []} for name, fact in nodes().items()}
    assert bad(verdicts.judge_gpus(facts, dict.fromkeys("abc", 0))) == []
    found = verdicts.judge_gpus(facts, {"a": 0, "b": 4, "c": 0})
    assert bad(found) == ["bad: b: Ray counts 4 GPUs there, the driver shows none"]
    assert "runtimeClassName: nvidia" in found[0].fix


def test_nodes_that_an_autoscaler_took_away_are_not_lost() -> None:
    """Ray's death reasons: 0 unknown, 1 stopped, 2 failed, 3 preempted or stopped by SIGTERM, 4 idle."""
    gone = [{"Alive": False, "NodeID": str(reason), "DeathReason": reason} for reason in range(5)]
    up = [{"Alive": True, "NodeID": "up", "DeathReason": 0}]
    assert [node["NodeID"] for node in lost_nodes([*up, *gone])] == ["0", "1", "2", "3"]


def test_nodes_of_one_host_may_share_its_gpus_out() -> None:
    """As with `python -m cluster up --gpus 1 --nodes 3`: NVML shows all GPUs to each node, and NCCL sees one host."""
    facts = {name: fact | {"gpus": [GPU] * 3, "host": "here", "machine": "boot"} for name, fact in nodes().items()}
    assert bad(verdicts.judge_gpus(facts, dict.fromkeys("abc", 1))) == []


def test_a_probe_tells_what_the_verdicts_ask_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    fact = probes.inspect_node([str(tmp_path)])
    assert fact["nccl"]["NCCL_P2P_DISABLE"] == "1"
    assert fact["rdma"]["devices"] == len(list(Path("/dev").glob("infiniband/uverbs*")))
    assert fact["machine"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    facts = {"here": fact}
    counted = {"here": len(fact["gpus"])}
    assert verdicts.judge_gpus(facts, counted)
    assert [verdict.level for verdict in verdicts.judge_versions(facts)] == ["ok"]


@pytest.mark.parametrize("user", [0, 65534])
@pytest.mark.skipif(os.geteuid() != 0, reason="not root")
def test_locked_memory_is_told_as_the_kernel_allows_it(user: int) -> None:
    """Root with CAP_IPC_LOCK may lock any amount of memory, whatever the limit; others may not."""
    script = (
        "import mmap, os, resource, ctypes; from cluster import probes;"
        f"resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536)); os.setuid({user});"
        "area = mmap.mmap(-1, 2**20); address = ctypes.addressof(ctypes.c_char.from_buffer(area));"
        "locked = ctypes.CDLL(None).mlock(ctypes.c_void_p(address), ctypes.c_size_t(2**20)) == 0;"
        "print(probes._memlock(), locked)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    told, locked = done.stdout.split()
    assert (told, locked) in (("None", "True"), ("65536", "False"))  # root in a container may lack the capability
    assert user == 0 or locked == "False"


def test_data_from_afar_are_told_in_minutes() -> None:
    [found] = verdicts.judge_data("s3://data", {"a": AFAR, "b": AFAR | {"bytes_per_second": 1e8}}, {"a": 8, "b": 8})
    assert found.level == "ok"
    assert found.message == "1000 + 100 images; 100.0 GB are first copied to each node, at 100 MB/s in 17 min"


def test_data_behind_a_url_are_read_without_copying_them(
    small_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG_DIST_CACHE", str(tmp_path / "cache"))
    sizes = {}
    for split in ("train", "val"):
        write_shards(open_store(str(small_tree), split), split, tmp_path / "shards", shard_bytes=40_000, seed=0)
        sizes |= {tar.name: tar.stat().st_size for tar in (tmp_path / "shards").glob(f"{split}-*.tar")}
    url = f"local://{tmp_path}/shards"
    found = probes.read_data(url)
    assert found["to_fetch"] == sum(sizes.values())
    assert found["shards"] == found["to_fetch"]
    assert 0 < found["capacity"] <= shutil.disk_usage(tmp_path).total
    assert str(tmp_path / "cache") in found["limit"]
    assert found["bytes_per_second"] > 0
    assert not (tmp_path / "cache").exists()
    for store in open_splits(url):
        store.prefetch()
    here = probes.read_data(url)
    assert here["to_fetch"] == 0
    assert (here["train"], here["val"], here["names"]) == (found["train"], found["val"], found["names"])
    assert here["images_per_second"] > 0
