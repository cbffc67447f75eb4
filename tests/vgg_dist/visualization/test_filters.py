"""The faults of first-layer filters, on filters whose spectra are known."""

from __future__ import annotations

import numpy as np
import pytest

from vgg_dist.visualization.filters import filter_faults


def grating(cycles_a_pixel: float, side: int, axis: int = 0) -> np.ndarray:
    """A windowed wave, so that its energy is around one frequency."""
    place = np.arange(side) - (side - 1) / 2
    window = np.exp(-(place**2) / (2 * (side / 6) ** 2))
    wave = np.cos(2 * np.pi * cycles_a_pixel * place) * window
    across = np.outer(wave, window)
    return np.stack([across if axis == 0 else across.T] * 3)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_wave_above_half_the_sampling_rate_aliases(axis: int) -> None:
    slow, fast = grating(0.05, 31, axis), grating(0.2, 31, axis)
    at_four, at_two = (filter_faults(np.stack([slow, fast]), stride).aliased for stride in (4, 2))
    assert at_four[0] < 0.01
    assert at_four[1] > 0.99
    assert (at_two < 0.03).all()


def test_nothing_aliases_at_stride_one() -> None:
    noise = np.random.default_rng(0).normal(size=(5, 3, 7, 7))
    assert (filter_faults(noise, 1).aliased == 0).all()


def test_the_share_is_that_of_the_discrete_spectrum() -> None:
    """By the transform's definition, one frequency after another."""
    noise = np.random.default_rng(1).normal(size=(1, 3, 5, 5))
    place = np.arange(5)
    high = total = 0.0
    for u in range(64):
        for v in range(64):
            wave = np.exp(-2j * np.pi * (np.add.outer(u * place, v * place)) / 64)
            energy = float((np.abs((noise[0] * wave).sum(axis=(1, 2))) ** 2).sum())
            total += energy
            high += energy * (max(min(u, 64 - u), min(v, 64 - v)) / 64 > 1 / 8)
    np.testing.assert_allclose(filter_faults(noise, 4).aliased, high / total)


def test_a_filter_with_a_tenth_of_the_largest_norm_is_not_dead_yet() -> None:
    one = np.random.default_rng(2).normal(size=(3, 7, 7))
    faults = filter_faults(np.stack([one, 0.11 * one, 0.09 * one, 0 * one]), 2)
    assert faults.dead.tolist() == [False, False, True, True]
    np.testing.assert_allclose(faults.norms[0], np.linalg.norm(one))
    assert faults.aliased[3] == 0
