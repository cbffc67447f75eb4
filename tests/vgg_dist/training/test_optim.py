"""The schedule against torch's ReduceLROnPlateau, and what it adds to that; the optimizer after a restore."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from vgg_dist.training.optim import PlateauSchedule, restore_optimizer


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


@pytest.mark.parametrize(("patience", "max_drops"), [(2, 3), (3, 1), (4, 3), (2, 1), (1, 0)])
@pytest.mark.parametrize("old_state", [False, True])
def test_a_schedule_resumed_with_more_drops_or_patience_goes_on(patience: int, max_drops: int, old_state: bool) -> None:
    """As one that had them when the error stalled last; with less of them it stays ended."""
    first = PlateauSchedule(1.0, patience=2, max_drops=1)
    while not first.finished:
        first.epoch_ended(10.0)
    state = first.state_dict()
    if old_state:  # once, the epochs that ended it were not in it
        state["stalled_epochs"] = 0
    resumed = PlateauSchedule(1.0, patience, max_drops)
    resumed.load_state_dict(state, patience=2)
    whole = PlateauSchedule(1.0, patience, max_drops, drops=1, best=10.0, stalled_epochs=1)
    whole.epoch_ended(10.0)
    assert resumed == whole
    assert resumed.finished == (patience <= 2 and max_drops <= 1)


def test_fewer_drops_than_there_were_never_raise_the_rate() -> None:
    schedule = PlateauSchedule(1.0, patience=1, max_drops=1)
    schedule.load_state_dict({"drops": 2, "best": 1.0, "stalled_epochs": 0, "finished": False})
    schedule.epoch_ended(2.0)
    assert (schedule.finished, schedule.rate(9.0)) == (True, pytest.approx(0.01))


def test_warm_up_is_linear_and_ends() -> None:
    schedule = PlateauSchedule(0.4, patience=2, max_drops=3, warmup_epochs=2.0)
    assert [schedule.rate(epochs) for epochs in (0.0, 0.5, 1.0, 2.0, 3.0)] == pytest.approx([0, 0.1, 0.2, 0.4, 0.4])


def test_a_restored_optimizer_keeps_its_own_way_to_compute() -> None:
    """A run begun on a CPU goes on with the fused kernel on a GPU; CPUs have one too."""
    plain, fused = nn.Linear(3, 2), nn.Linear(3, 2)
    fused.load_state_dict(plain.state_dict())
    began = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    images = torch.randn(5, 3)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(images).square().sum().backward()
        optimizer.step()

    step(plain, began)
    goes_on = torch.optim.SGD(fused.parameters(), lr=0.5, momentum=0.9, fused=True)
    fused.load_state_dict(plain.state_dict())
    restore_optimizer(goes_on, copy.deepcopy(began.state_dict()))
    assert goes_on.param_groups[0]["fused"] is True
    assert goes_on.param_groups[0]["lr"] == 0.1
    step(plain, began)
    step(fused, goes_on)
    torch.testing.assert_close(fused.weight, plain.weight)
