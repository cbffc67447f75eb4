"""The simulated cache: what must be fetched at least, and never more than the cache holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from vgg_dist.benchmark.__main__ import main, run
from vgg_dist.benchmark.cache import DataSet, EpochResult, Node, SimulatedCache, simulate
from vgg_dist.benchmark.options import CacheBenchmark

SMALL = CacheBenchmark(data_tb=0.2, shard_mb=64, nodes=8, global_batch=4096, caches=("0", "5GB", "20GB", "60GB", "all"))
SHARE = 0.2e12 / 8


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str, int], EpochResult]:
    return {(result.shuffle, result.cache, result.epoch): result for result in simulate(SMALL)}


def test_without_a_cache_each_image_is_fetched_by_itself(found: dict[tuple[str, str, int], EpochResult]) -> None:
    for shuffle in ("full", "blocks"):
        for epoch in (1, 2):
            result = found[shuffle, "0", epoch]
            assert result.bytes_fetched == pytest.approx(SHARE, rel=0.03)
            assert (result.from_cache, result.single) == (0, 1)
            requests = SHARE / 110e3
            assert result.seconds >= requests / (SMALL.requests_per_second / SMALL.nodes) * 0.97


def test_a_full_shuffle_finds_what_share_of_the_data_the_cache_holds(
    found: dict[tuple[str, str, int], EpochResult],
) -> None:
    for cache, size in (("20GB", 20e9), ("60GB", 60e9), ("all", 0.2e12)):
        assert found["full", cache, 0].bytes_fetched == pytest.approx(size, rel=0.01)
        for epoch in (1, 2):
            assert found["full", cache, epoch].from_cache == pytest.approx(size / 0.2e12, abs=0.02)


def test_blocks_fetch_the_nodes_share_once_and_nothing_again_if_it_fits(
    found: dict[tuple[str, str, int], EpochResult],
) -> None:
    for cache in ("60GB", "all"):
        first, second = (found["blocks", cache, epoch] for epoch in (1, 2))
        assert first.bytes_fetched == pytest.approx(SHARE, rel=0.1)
        assert second.bytes_fetched < 0.1 * SHARE
        assert first.single < 0.1
    # A cache smaller than the share saves some of the second epoch's traffic, and never costs more than it holds.
    first, second = (found["blocks", "20GB", epoch] for epoch in (1, 2))
    assert second.bytes_fetched < 0.8 * first.bytes_fetched
    assert first.bytes_fetched == pytest.approx(SHARE, rel=0.1)


def test_the_simulated_cache_holds_no_more_than_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    most, add = [0], SimulatedCache.add

    def checked(self: SimulatedCache, *arguments: object) -> bool:
        added = add(self, *arguments)  # type: ignore[arg-type]
        assert sum(copy.size for copy in self.copies.values()) == self.taken <= self.capacity
        most[0] = max(most[0], self.taken)
        return added

    monkeypatch.setattr(SimulatedCache, "add", checked)
    simulate(CacheBenchmark(data_tb=0.05, shard_mb=64, nodes=2, global_batch=4096, caches=("1GB", "9GB")))
    assert most[0] > 8e9


def test_training_waits_for_a_slow_link_only() -> None:
    data = DataSet.of(SMALL)
    node = Node(SMALL, data, int(1e12))
    node.fill()
    assert node.link.now == pytest.approx(0.2e12 / (SMALL.bandwidth * 1e9))
    assert node.link.bytes_fetched == data.shard_bytes.sum()


def test_the_command_prints_and_saves_every_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cache.json"
    run(CacheBenchmark(data_tb=0.02, nodes=2, caches=("0", "all"), json=file))
    lines = capsys.readouterr().out.splitlines()
    epochs = json.loads(file.read_text())["epochs"]
    assert len(epochs) == len(lines) - 6 == 9
    assert [line.split()[0] for line in lines[6:]] == [epoch["shuffle"] for epoch in epochs]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--nodes", "0"], "--nodes 0: must be at least 1"),
        (["--data-tb", "0.01"], "--data-tb 0.01: must be at least 0.016384, a shard for each node"),
        (["--bandwidth", "0"], "--bandwidth 0: must be more than 0"),
        (["--caches", "much"], "--caches much: must be a size such as 500GB or 2TB"),
        (["--shard-mb", "0.05"], "--shard-mb 0.05: must be at least 0.11, the size of an image"),
    ],
)
def test_mistakes_are_one_line(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "cache", *flags])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
