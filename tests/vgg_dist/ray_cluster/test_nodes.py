"""The workers of a cluster whose nodes come one after the other, by a clock and an inventory of the test's own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from vgg_dist.ray_cluster import nodes

HEAD = {"CPU": 0.0, "memory": 1e9}
GPU_NODE = {"CPU": 16.0, "GPU": 2.0, "memory": 1e9}
CPU_NODE = {"CPU": 4.0, "memory": 1e9}


class Cluster:
    """Nodes, each there from a second on, and the seconds that have gone by."""

    def __init__(self, joining: Sequence[tuple[float, dict[str, float]]]) -> None:
        self.joining, self.now, self.asked = joining, 0.0, [("", -1)]
        self.most: dict[str, int] | None = None

    def nodes(self) -> list[dict[str, object]]:
        return [{"Alive": self.now >= at, "Resources": node if self.now >= at else {}} for at, node in self.joining]

    def monotonic(self) -> float:
        return 1e6 + self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.fixture
def joins(monkeypatch: pytest.MonkeyPatch) -> type[Cluster]:
    """A cluster at an address, in place of Ray's."""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    for name in ("VGG_DIST_GPUS", "VGG_DIST_WAIT_S"):
        monkeypatch.delenv(name, raising=False)

    class Patched(Cluster):
        def __init__(self, *joining: tuple[float, dict[str, float]]) -> None:
            super().__init__(joining)
            monkeypatch.setattr(nodes, "time", self)
            monkeypatch.setattr(nodes.ray, "nodes", self.nodes)
            monkeypatch.setattr(nodes, "_grows_to", lambda: self.most)
            monkeypatch.setattr(nodes, "_ask_autoscaler", lambda kind, workers: self.asked.append((kind, workers)))

    return Patched


def test_waits_for_nodes_that_come_later(
    joins: type[Cluster], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the loss of the head: one of four workers' nodes is back when the command looks, the others come."""
    monkeypatch.setenv("VGG_DIST_GPUS", "8")
    cluster = joins((0, HEAD), (20, GPU_NODE), (50, GPU_NODE), (70, GPU_NODE), (130, GPU_NODE))
    assert nodes.worker_resources(None) == [{"CPU": 8.0, "GPU": 1.0}] * 8
    assert 130 <= cluster.now < 140
    assert cluster.asked[1:] == [("GPU", 8), ("CPU", 0)], "an autoscaler is asked for them once, and then no more"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "waiting for 8 workers, for 600 s at most (VGG_DIST_WAIT_S): "
        "the cluster has room for 0 workers (0 GPUs on 1 nodes, 8 expected)"
    )
    assert [line.partition(": ")[2].split(" ")[5] for line in lines] == ["0", "2", "4", "6", "6"]


def test_takes_every_gpu_where_more_are_there_than_expected(joins: type[Cluster], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGG_DIST_GPUS", "4")
    cluster = joins((0, HEAD), *[(0, GPU_NODE)] * 3)
    assert len(nodes.worker_resources(None)) == 6
    assert (cluster.now, cluster.asked[1:]) == (0, [])


@pytest.mark.parametrize("num_workers", [None, 2, 8])
def test_gives_up_with_one_line_and_never_falls_back_to_cpus(
    joins: type[Cluster], monkeypatch: pytest.MonkeyPatch, num_workers: int | None
) -> None:
    """CPUs for all the workers are there throughout, and so is a GPU."""
    monkeypatch.setenv("VGG_DIST_GPUS", "8")
    monkeypatch.setenv("VGG_DIST_WAIT_S", "100")
    cluster = joins(*[(0, CPU_NODE)] * 4, (0, {"CPU": 16.0, "GPU": 1.0}))
    what = f"--num-workers {num_workers}" if num_workers else "VGG_DIST_GPUS 8"
    with pytest.raises(ValueError, match="room") as error:
        nodes.worker_resources(num_workers)
    assert str(error.value) == (
        f"{what}: the cluster has room for 1 workers (1 GPUs on 5 nodes, 8 expected) after 100 s (VGG_DIST_WAIT_S)"
    )
    assert cluster.now == 100
    assert cluster.asked[-1] == ("CPU", 0)


def test_never_trains_on_less_than_asked(joins: type[Cluster]) -> None:
    """Nothing says that there are GPUs: CPUs it is, but as many workers as the flag says."""
    cluster = joins((0, HEAD), (10, {"CPU": 2.0}), (40, {"CPU": 2.0}))
    assert nodes.worker_resources(3) == [{"CPU": 1.0}] * 3
    assert cluster.now == 40


def test_a_cluster_of_a_head_alone_is_waited_for(joins: type[Cluster]) -> None:
    """Without a flag and without VGG_DIST_GPUS: for a first node."""
    cluster = joins((0, HEAD), (15, GPU_NODE))
    assert nodes.worker_resources(None) == [{"CPU": 8.0, "GPU": 1.0}] * 2
    assert cluster.now == 15


@pytest.mark.parametrize("address", [None, "local", "127.0.0.1:6379"])
def test_nobody_joins_a_cluster_of_this_machine(
    joins: type[Cluster], monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    if address is None:
        monkeypatch.delenv("RAY_ADDRESS")
    else:
        monkeypatch.setenv("RAY_ADDRESS", address)
    cluster = joins((0, CPU_NODE), (5, CPU_NODE))
    with pytest.raises(ValueError, match=r"^--num-workers 5: the cluster has room for 4 workers [(]4 CPUs on 1 nodes[)]$"):
        nodes.worker_resources(5)
    assert (cluster.now, cluster.asked[1:]) == (0, [])


def test_does_not_wait_for_what_the_autoscaler_cannot_bring(joins: type[Cluster]) -> None:
    cluster = joins((0, HEAD), (0, CPU_NODE), (60, GPU_NODE))
    cluster.most = {"CPU": 36, "GPU": 2}
    with pytest.raises(ValueError, match=r"--num-workers 3: .* at most 2[)]$"):
        nodes.worker_resources(3)
    assert cluster.now == 0
    assert nodes.worker_resources(1) == [{"CPU": 16.0, "GPU": 1.0}], "of a GPU that the autoscaler may bring, not of CPUs"
    assert cluster.now == 60


def test_groups_are_counted_by_the_gpus_that_are_expected(joins: type[Cluster], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGG_DIST_GPUS", "8")
    joins((0, HEAD), (0, GPU_NODE), (90, GPU_NODE))
    assert nodes.max_concurrent_groups(2) == 4
    assert nodes.max_concurrent_groups(16) == 1
    monkeypatch.delenv("VGG_DIST_GPUS")
    assert nodes.max_concurrent_groups(1) == 2


@pytest.mark.parametrize("value", ["-1", "soon", "inf", "nan"])
def test_what_is_no_time_to_wait_is_refused(joins: type[Cluster], monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("VGG_DIST_WAIT_S", value)
    joins((0, CPU_NODE))
    with pytest.raises(ValueError, match=f"^VGG_DIST_WAIT_S {value}: must be a number, 0 or more$"):
        nodes.worker_resources(1)


def test_a_range_waits_for_the_least_and_takes_what_is_there(joins: type[Cluster]) -> None:
    cluster = joins((0, HEAD), (20, GPU_NODE), (50, GPU_NODE), (300, GPU_NODE))
    assert nodes.worker_resources(3, 8) == [{"CPU": 8.0, "GPU": 1.0}] * 4
    assert 50 <= cluster.now < 60
    assert nodes.worker_resources(1, 2) == [{"CPU": 16.0, "GPU": 1.0}] * 2


def test_a_range_above_the_cluster_is_one_line(joins: type[Cluster], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    joins((0, CPU_NODE))
    with pytest.raises(ValueError, match=r"^--num-workers 5:9: the cluster has room for 4 workers [(]4 CPUs on 1 nodes[)]$"):
        nodes.worker_resources(5, 9)
