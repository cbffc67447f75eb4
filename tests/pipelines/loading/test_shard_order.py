"""--shuffle blocks: every image once an epoch for any workers, and each node reads few shards at a time, each once."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from pipelines.loading.epoch_plan import Augmentation, EpochPlan
from pipelines.loading.shard_order import RUNS, WINDOW, check_shuffle
from pipelines.stores.open import open_store

PLAIN = Augmentation()
PINNED = [2346, 6604, 7798, 16473, 4979, 8972, 328, 1361]


def layout(shards: int, samples: int, seed: int = 0) -> np.ndarray:
    """The shard of each sample: about `samples` in each of so many shards, in order; the last one has few."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(samples * 9 // 10, samples * 11 // 10 + 1, shards)
    counts[-1] = max(1, samples // 5)
    return np.repeat(np.arange(shards), counts)


def blocks(shards: np.ndarray, seed: int = 0, epoch: int = 0) -> EpochPlan:
    return EpochPlan(len(shards), seed, epoch, PLAIN, shards)


def indices(plan: EpochPlan, start: int, batch: int, world: int) -> list[list[int]]:
    """The images of each remaining step, over all workers."""
    shares = [list(plan.steps(start, batch, rank, world, 7)) for rank in range(world)]
    used = [[micro.index for share in step for micro in share.micro_batches] for step in zip(*shares, strict=True)]
    return [[index for index in np.concatenate(step).tolist() if index >= 0] for step in used]


@pytest.mark.parametrize(("shards", "samples"), [(1, 50), (2, 30), (3, 1), (9, 40), (300, 7), (1000, 3)])
def test_every_image_is_used_once(shards: int, samples: int) -> None:
    of = layout(shards, samples)
    steps = indices(blocks(of), 0, 16, 3)
    assert sorted(chain.from_iterable(steps)) == list(range(len(of)))


@pytest.mark.parametrize("world", [2, 3, 8, 31])
def test_any_number_of_workers_trains_on_the_same_batches(world: int) -> None:
    plan = blocks(layout(40, 25))
    assert indices(plan, 0, 64, world) == indices(plan, 0, 64, 1)


@pytest.mark.parametrize("start", [1, 63, 500, 777])
def test_another_number_of_workers_and_batch_takes_the_remaining_images_once(start: int) -> None:
    plan = blocks(layout(40, 25))
    # The first part of the epoch is trained by 5 workers with batches of 64, as far as a step ends.
    ends = plan.step_ends(64)
    start = int(ends[np.searchsorted(ends, start)])
    before = list(chain.from_iterable(indices(plan, 0, 64, 5)[: int(np.searchsorted(ends, start)) + 1]))
    after = list(chain.from_iterable(indices(plan, start, 48, 3)))
    assert len(before) == start
    assert sorted(before + after) == list(range(len(plan)))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    of = layout(60, 20)
    order = blocks(of, 3, 5).samples.index
    assert np.array_equal(order, blocks(of, 3, 5).samples.index)
    assert not np.array_equal(order, blocks(of, 3, 6).samples.index)
    assert not np.array_equal(order, blocks(of, 4, 5).samples.index)


def test_the_order_is_the_one_that_runs_were_begun_with() -> None:
    """If these numbers changed, no interrupted run could be resumed correctly."""
    assert blocks(np.repeat(np.arange(1200), 15), 7, 1).samples.index[:8].tolist() == PINNED


def test_draws_other_than_the_order_are_those_of_a_full_shuffle() -> None:
    of = layout(60, 20)
    ours, full = blocks(of).samples, EpochPlan(len(of), 0, 0, PLAIN).samples
    for name in ("scale", "position", "flip", "shift"):
        assert np.array_equal(getattr(ours, name), getattr(full, name))


def shards_by_node(of: np.ndarray, epoch: int, nodes: int, batch: int, workers: int = 8) -> list[tuple[np.ndarray, int]]:
    """For each node: how many samples it reads of each shard, and the most shards between first and last use at a time."""
    plan, found = blocks(of, 0, epoch), []
    for node in range(nodes):
        samples, ends = plan.node_samples(0, batch, range(node * workers, (node + 1) * workers), nodes * workers)
        counts = np.bincount(of[samples], minlength=of[-1] + 1)
        most = np.flatnonzero(counts * 2 >= np.bincount(of))  # those that are copied
        rows = [np.flatnonzero(of[samples] == shard) for shard in most]
        open_at = np.zeros(len(of) + 2, np.int64)
        for row in rows:
            open_at[ends[row[0]]] += 1
            open_at[ends[row[-1]] + 1] -= 1
        found.append((counts, int(np.cumsum(open_at).max())))
    return found


@pytest.mark.parametrize("nodes", [1, 2, 3, 8, 13, 64])
def test_each_node_reads_its_own_shards_few_at_a_time(nodes: int) -> None:
    of = layout(2048, 40)
    by_node = shards_by_node(of, 0, nodes, 2048)
    counts = np.stack([counts for counts, _ in by_node])
    assert np.array_equal(counts.sum(axis=0), np.bincount(of))
    # Almost all images are in shards that this node reads most of; the others belong to two nodes.
    own = counts * 2 >= np.bincount(of)
    assert counts[own].sum() >= 0.9 * len(of)
    # A window of 2 shards in each of the node's runs, and the next one where a batch begins it.
    assert max(most for _, most in by_node) <= 2 * (RUNS * WINDOW / nodes + 2 * WINDOW)


def test_the_next_epoch_needs_the_same_shards_in_another_order() -> None:
    of = layout(1024, 40)
    first, second = (shards_by_node(of, epoch, 16, 2048) for epoch in (0, 1))
    for (one, _), (other, _) in zip(first, second, strict=True):
        full = np.bincount(of)
        both = ((one * 2 >= full) & (other * 2 >= full)).sum()
        assert both >= 0.95 * (one * 2 >= full).sum()


def test_batches_are_mixed() -> None:
    of = layout(1024, 40)
    index = blocks(of).samples.index
    for start in range(0, len(of) - 256, 5000):
        assert len(set(of[index[start : start + 256]].tolist())) > 150  # of 256 random ones, 226 would be
    # The images of a shard come in random order.
    places = np.flatnonzero(of[index] == 17)
    assert abs(np.corrcoef(places, index[places])[0, 1]) < 0.5


def test_the_samples_of_a_node_are_those_of_its_workers() -> None:
    for plan in (blocks(layout(40, 25)), EpochPlan(999, 0, 0, PLAIN)):
        samples, ends = plan.node_samples(100, 64, range(2, 5), 7)
        expected = [
            (int(index), step.end)
            for step in zip(*(plan.steps(100, 64, rank, 7, 1000) for rank in range(2, 5)), strict=True)
            for step in step
            for index in step.micro_batches[0].index
            if index >= 0
        ]
        assert list(zip(samples.tolist(), ends.tolist(), strict=True)) == expected


def test_data_without_shards_are_refused() -> None:
    store = open_store("synthetic", "train")
    check_shuffle("full", store, "synthetic")
    with pytest.raises(ValueError, match=r"^--shuffle blocks: --data synthetic has no shards: use [^\n]*$"):
        check_shuffle("blocks", store, "synthetic")
