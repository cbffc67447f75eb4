"""The epoch plan: every image once, and the same random choices for any number of workers."""

from __future__ import annotations

import itertools
from itertools import chain

import numpy as np
import pytest

from pipelines.loading.epoch_plan import RGB_EIGENVALUES, RGB_EIGENVECTORS, Augmentation, EpochPlan, Samples, pad_samples

JITTER = Augmentation(scale=(256, 512))
PINNED_INDEX = [263, 328, 538, 900, 254]
PINNED_SCALE = [436, 364, 410, 494, 481]


def indices(plan: EpochPlan, start: int, batch: int, world: int, micro: int = 7) -> list[list[int]]:
    """The images of each remaining step, over all workers."""
    shares = [list(plan.steps(start, batch, rank, world, micro)) for rank in range(world)]
    used = [[micro.index for share in step for micro in share.micro_batches] for step in zip(*shares, strict=True)]
    return [[index for index in np.concatenate(step).tolist() if index >= 0] for step in used]


@pytest.mark.parametrize(("images", "batch"), [(1000, 256), (1000, 1000), (7, 256), (256, 256), (257, 256), (999, 10)])
def test_an_epoch_uses_each_image_once_in_the_least_number_of_equal_steps(images: int, batch: int) -> None:
    steps = indices(EpochPlan(images, 0, 0, JITTER), 0, batch, 1)
    assert sorted(chain.from_iterable(steps)) == list(range(images))
    assert len(steps) == -(-images // batch)
    sizes = {len(step) for step in steps}
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("world", [2, 3, 8])
def test_workers_share_the_very_steps_of_one_worker(world: int) -> None:
    plan = EpochPlan(1000, 3, 5, JITTER)
    assert indices(plan, 0, 64, world) == indices(plan, 0, 64, 1)


@pytest.mark.parametrize("start", [1, 63, 500, 999])
def test_another_number_of_workers_and_batch_takes_the_remaining_images_once(start: int) -> None:
    plan = EpochPlan(1000, 3, 5, JITTER)
    remaining = list(chain.from_iterable(indices(plan, start, 48, 3)))
    assert remaining == plan.samples.index[start:].tolist()


def test_a_worker_without_images_gets_a_filler() -> None:
    plan = EpochPlan(100, 0, 0, JITTER)
    last = [list(plan.steps(99, 10, rank, 4, 8)) for rank in range(4)]
    assert [len(steps) for steps in last] == [1] * 4
    assert sorted(int(steps[0].micro_batches[0].index[0]) for steps in last)[:3] == [-1, -1, -1]


def test_micro_batches_are_small_enough_and_in_order() -> None:
    plan = EpochPlan(1000, 0, 0, JITTER)
    for step in plan.steps(0, 256, 1, 2, 48):
        sizes = [len(micro) for micro in step.micro_batches]
        assert max(sizes) <= 48
        assert max(sizes) - min(sizes) <= 1


def equal(a: Samples, b: Samples) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("index", "scale", "position", "flip", "shift")
    )


def test_draws_depend_on_seed_and_epoch_only() -> None:
    plan = EpochPlan(500, 1, 2, JITTER)
    assert equal(plan.samples, EpochPlan(500, 1, 2, JITTER).samples)
    assert not equal(plan.samples, EpochPlan(500, 1, 3, JITTER).samples)
    assert not equal(plan.samples, EpochPlan(500, 2, 2, JITTER).samples)


def test_the_stream_is_the_one_that_runs_were_begun_with() -> None:
    """If these numbers changed, no interrupted run could be resumed correctly."""
    samples = EpochPlan(1000, 7, 1, JITTER).samples
    assert samples.index[:5].tolist() == PINNED_INDEX
    assert samples.scale[:5].tolist() == PINNED_SCALE


def test_distributions() -> None:
    samples = EpochPlan(200_000, 0, 0, JITTER).samples
    assert (samples.scale.min(), samples.scale.max()) == (256, 512)
    counts = np.bincount(samples.scale - 256)
    assert abs(counts / len(samples) * 257 - 1).max() < 0.2  # uniform: each of 257 within 6 sigma
    assert abs(samples.position.mean() - 0.5) < 0.005
    assert samples.position.max() < 1
    assert abs(samples.flip.mean() - 0.5) < 0.01
    # Krizhevsky: the shift's covariance is 0.1^2 P diag(l^2) P^T, here on the 0-255 scale.
    expected = (25.5**2) * (RGB_EIGENVECTORS * RGB_EIGENVALUES**2) @ RGB_EIGENVECTORS.T
    np.testing.assert_allclose(np.cov(samples.shift.T), expected, rtol=0.05, atol=0.05)
    assert abs(samples.shift.mean(axis=0)).max() < 0.1


def test_what_is_switched_off_stays_off() -> None:
    samples = EpochPlan(1000, 0, 0, Augmentation((256, 256), flip=False, color_shift=0.0)).samples
    assert set(samples.scale.tolist()) == {256}
    assert not samples.flip.any()
    assert not samples.shift.any()


@pytest.mark.parametrize("num_samples", [7, 40, 999, 1001])
def test_the_largest_micro_batch_is_the_largest_of_all_workers_steps(num_samples: int) -> None:
    plan = EpochPlan(num_samples, 0, 0, Augmentation())
    for global_batch, world_size, micro_batch in itertools.product((7, 16, 64), (1, 2, 3, 7), (1, 5, 8, 9, 64)):
        sizes = [
            len(micro)
            for rank in range(world_size)
            for step in plan.steps(0, global_batch, rank, world_size, micro_batch)
            for micro in step.micro_batches
        ]
        assert plan.largest_micro_batch(global_batch, world_size, micro_batch) == max(sizes)


def test_filling_adds_fillers_behind() -> None:
    samples = EpochPlan(10, 0, 0, Augmentation()).samples[2:7]
    longer = pad_samples(samples, 8)
    assert longer.index.tolist() == [*samples.index.tolist(), -1, -1, -1]
    assert np.array_equal(longer[:5].shift, samples.shift)
    assert len(pad_samples(samples, 5)) == len(pad_samples(samples, 3)) == 5


@pytest.mark.parametrize("shards", [None, np.arange(1000) // 10])
def test_a_worker_knows_what_the_others_have_in_each_micro_batch(shards: np.ndarray | None) -> None:
    plan = EpochPlan(1000, 3, 5, JITTER, shards)
    for start, batch, world, micro in itertools.product((0, 990, 37), (64, 9, 5), (4, 7), (3, 100)):
        of_all = [list(plan.steps(start, batch, rank, world, micro)) for rank in range(world)]
        for steps in zip(*of_all, strict=True):
            assert len({len(step.micro_batches) for step in steps}) == 1
            known = plan.micro_batch_images(steps[0], range(1, 4), world, micro)
            for step, images in zip(steps[1:4], known, strict=True):
                for of_step, of_known in zip(step.micro_batches, images, strict=True):
                    np.testing.assert_array_equal(of_step.index, of_known)
