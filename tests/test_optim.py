"""The schedule against torch's ReduceLROnPlateau, and what it adds to that: an end, and a warm-up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vgg_dist.optim import PlateauSchedule


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("patience", [1, 2, 5])
def test_drops_are_those_of_torchs_plateau_scheduler(seed: int, patience: int) -> None:
    rng = np.random.default_rng(seed)
    errors = 50 * np.exp(-np.arange(80) / 15) + rng.normal(0, 3, 80)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.1, patience=patience - 1, threshold=0.0, threshold_mode="abs", min_lr=0.99e-4, eps=0.0
    )
    ours = PlateauSchedule(0.1, patience, max_drops=3)
    for error in errors:
        if ours.finished:
            break
        ours.epoch_ended(float(error))
        oracle.step(float(error))
        assert ours.rate(1.0) == pytest.approx(optimizer.param_groups[0]["lr"], rel=0.02)


def test_it_ends_when_the_error_stalls_after_the_last_drop() -> None:
    schedule = PlateauSchedule(1.0, patience=2, max_drops=3)
    schedule.epoch_ended(10.0)
    rates = []
    while not schedule.finished:
        schedule.epoch_ended(10.0)
        rates.append(schedule.rate(1.0))
    assert rates == pytest.approx([1.0, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.001])


def test_state_goes_over() -> None:
    schedule = PlateauSchedule(1.0, patience=2, max_drops=3)
    for error in (5.0, 6.0, 6.0, 4.0, 6.0):
        schedule.epoch_ended(error)
    other = PlateauSchedule(1.0, patience=2, max_drops=3)
    other.load_state_dict(schedule.state_dict())
    assert other == schedule
    assert (other.drops, other.best, other.stalled_epochs) == (1, 4.0, 1)


def test_warm_up_is_linear_and_ends() -> None:
    schedule = PlateauSchedule(0.4, patience=2, max_drops=3, warmup_epochs=2.0)
    assert [schedule.rate(epochs) for epochs in (0.0, 0.5, 1.0, 2.0, 3.0)] == pytest.approx([0, 0.1, 0.2, 0.4, 0.4])
