"""SGD and the paper's learning-rate schedule (section 3.1), with an optional warm-up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vgg_dist.config import TrainSettings


def build_optimizer(model: nn.Module, config: TrainSettings) -> torch.optim.SGD:
    """SGD with momentum and weight decay on all parameters; on a GPU as one fused kernel."""
    fused = next(model.parameters()).device.type == "cuda" or None
    return torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=fused
    )


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads a saved state, except what is not the run's: implementation flags, as the hardware may differ, and momentum and
    weight decay, which a resume may change.
    """
    kept = "fused", "foreach", "capturable", "differentiable", "momentum", "weight_decay"
    groups = state["param_groups"]
    for own, saved in zip(optimizer.param_groups, groups, strict=True):
        saved |= {name: own[name] for name in kept if name in own}
    optimizer.load_state_dict(state)


@dataclass
class PlateauSchedule:
    """Divides the learning rate by 10 when the validation error stops improving, up to `max_drops` times.

    "Stops improving" is `patience` epochs in a row without an error below the best so far; the same rule after the last
    drop says that training is over.
    """

    lr: float
    patience: int
    max_drops: int
    warmup_epochs: float = 0.0
    drops: int = 0
    best: float = math.inf
    stalled_epochs: int = 0
    finished: bool = False

    def rate(self, epochs_done: float) -> float:
        """The learning rate when `epochs_done` epochs (a fraction counts) have been trained."""
        warm = min(1.0, epochs_done / self.warmup_epochs) if self.warmup_epochs else 1.0
        return self.lr * 10.0**-self.drops * warm

    def epoch_ended(self, error: float) -> bool:
        """Advances the schedule by an epoch's validation error; returns whether it is the best so far."""
        if error < self.best:
            self.best, self.stalled_epochs = error, 0
            return True
        self.stalled_epochs += 1
        self._stalled()
        return False

    def _stalled(self) -> None:
        """Drops the rate, or finishes, once the error has not improved for `patience` epochs."""
        if self.stalled_epochs < self.patience:
            return
        if self.drops >= self.max_drops:
            self.finished = True  # stalled_epochs is kept, as a resume may have more patience
        else:
            self.drops, self.stalled_epochs = self.drops + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The values that change during a run, as a checkpoint stores them."""
        return {key: getattr(self, key) for key in ("drops", "best", "stalled_epochs", "finished")}

    def load_state_dict(self, state: dict[str, Any], patience: int | None = None) -> None:
        """Loads a `state_dict`. A schedule that had finished continues if it now has more drops or more patience.

        `patience`: that of the saved schedule, by default this one's; for old checkpoints, which reset `stalled_epochs` when
        they finished.
        """
        for key, value in state.items():
            setattr(self, key, value)
        if self.finished:
            self.stalled_epochs = self.stalled_epochs or (self.patience if patience is None else patience)
            self.finished = False
            self._stalled()
