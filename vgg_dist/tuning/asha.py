"""Asynchronous successive halving (ASHA: Li et al. 2020): which trial of a search trains next, and for how many epochs.

Every trial trains to the first rung, such as epoch 1, and pauses. It is promoted, that is trained on to the next rung, such
as epoch 4, once its error is in the best quarter of those that have reached its rung; and so on to the last epoch. A
promotion does not wait for all trials to reach the rung. Ray Tune's own ASHA cannot pause trials: the first to reach a rung
always train on, however good the later ones turn out, and a trial that was stopped is never resumed.

Each segment between rungs is one Ray Tune trial, called a leg here; it resumes the training from its last checkpoint.
Without early stopping there is one rung, the last epoch.
"""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from vgg_dist.config import Choices, Range, TuneConfig

FACTOR = 4  # reduction factor: the best quarter is promoted, to four times the epochs


@dataclass(frozen=True)
class Leg:
    """The segment of a trial's training that ends at a rung."""

    number: int
    """The trial's number."""
    rung: int
    """The index of the rung in `rungs`."""


class SuccessiveHalving(Searcher):
    """Suggests legs to Ray Tune: {"number": the trial's number, "values": its settings, "until": the rung's epoch}.

    The result of a leg has `ended`: "waits" where the trial has paused at its rung, "finished" where nothing is left to
    train, "failed: ..." where it cannot be trained on. Otherwise the trial was stopped before the rung.
    """

    at_once: ClassVar[int] = 1
    """How many legs may run at the same time. On the class, and so not saved with the state: a resumed search may have
    another number of GPUs, and Ray Tune then creates the object itself."""

    def __init__(self, config: TuneConfig) -> None:
        super().__init__(metric=config.metric, mode="min")
        self.config = config
        self.rungs = rungs(config)
        self.values: list[dict[str, Any]] = []
        """The settings of each trial so far, by its number."""
        self.errors: list[dict[int, float]] = [{} for _ in self.rungs]
        """For each rung, the errors of the trials that have reached it, by number; infinite for those that failed."""
        self.legs: dict[str, Leg] = {}
        """All legs so far, by Ray Tune's trial id."""
        self.running: set[str] = set()
        self.grid = grid_points(config) if config.search == "grid" else []
        self.domains = {name: _domain(values) for name, values in config.space().items()}
        self.optuna: OptunaSearch | None = None
        if config.search == "bayesian":
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            space = OptunaSearch.convert_search_space(self.domains)
            self.optuna = OptunaSearch(space, metric=config.metric, mode="min", seed=config.seed)
        self.told: set[int] = set()
        """Numbers of the trials whose errors Optuna has been given."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next leg; None while no leg can start; FINISHED at the end of the search."""
        if len(self.running) >= self.at_once:
            return None
        # The ASHA paper samples trials without end, so it promotes first. Here their number is fixed, and the more of them
        # have reached a rung, the better the best quarter is known: so new trials come first. Not with Optuna, which learns
        # from the errors that promoted trials reach.
        first, then = (self._promotion, self._new_trial) if self.optuna else (self._new_trial, self._promotion)
        leg = first() or then() or (None if self.running else self._last_promotion())
        if leg is None:
            return None if self.running else Searcher.FINISHED
        self.legs[trial_id] = leg
        self.running.add(trial_id)
        return {"number": leg.number, "values": self.values[leg.number], "until": self.rungs[leg.rung]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Records the end of a leg; the result is None where its process was lost too often."""
        self.running.discard(trial_id)
        leg = self.legs[trial_id]
        ended = "failed" if result is None or error else result.get("ended", "")
        value = math.inf
        if result is not None and not ended.startswith("failed") and not math.isnan(result[self.config.metric]):
            value = result[self.config.metric]
        # A trial that has nothing left to train would reach all later rungs with the same error.
        for rung in range(leg.rung, len(self.rungs) if ended == "finished" else leg.rung + 1):
            self.errors[rung][leg.number] = value
        promoted = ended == "waits" and leg.number in self._best_quarter(leg.rung)
        if self.optuna is not None and not promoted and leg.number not in self.told:
            self.told.add(leg.number)
            self.optuna.on_trial_complete(str(leg.number), result, error)

    def save(self, checkpoint_path: str) -> None:
        """Called by Ray Tune to save the state of the search."""
        Path(checkpoint_path).write_bytes(pickle.dumps(self.__dict__))

    def restore(self, checkpoint_path: str) -> None:
        """The inverse of `save`."""
        self.__dict__.update(pickle.loads(Path(checkpoint_path).read_bytes()))

    def _promotion(self) -> Leg | None:
        """The next leg of a paused trial in the best quarter of its rung."""
        return self._next_leg(self._best_quarter)

    def _last_promotion(self) -> Leg | None:
        """When nothing else is left to do: the next leg of the best trial, if none has reached the last epoch."""
        return None if any(map(math.isfinite, self.errors[-1].values())) else self._next_leg(self._by_error)

    def _next_leg(self, candidates: Callable[[int], list[int]]) -> Leg | None:
        """The next leg of the first paused trial among a rung's `candidates`, the highest rung first."""
        for rung in reversed(range(len(self.rungs) - 1)):
            for number in candidates(rung):
                if self._is_paused(number, rung):
                    return Leg(number, rung + 1)
        return None

    def _best_quarter(self, rung: int) -> list[int]:
        """Numbers of the best quarter of the trials that have reached this rung, the best first."""
        return self._by_error(rung)[: len(self.errors[rung]) // FACTOR]

    def _by_error(self, rung: int) -> list[int]:
        return sorted(self.errors[rung], key=self.errors[rung].__getitem__)

    def _is_paused(self, number: int, rung: int) -> bool:
        """Whether the trial has reached this rung, and its next leg has not started."""
        reached = math.isfinite(self.errors[rung][number])
        return reached and number not in self.errors[rung + 1] and Leg(number, rung + 1) not in self.legs.values()

    def _new_trial(self) -> Leg | None:
        """The first leg of the next trial; None where all have started."""
        number = len(self.values)
        if number == self.config.num_trials():
            return None
        self.values.append(self._choose(number))
        return Leg(number, 0)

    def _choose(self, number: int) -> dict[str, Any]:
        if self.optuna is not None:
            return self.optuna.suggest(str(number))
        if self.grid:
            return self.grid[number]
        generator = np.random.RandomState([self.config.seed, number])
        return {name: domain.sample(random_state=generator) for name, domain in self.domains.items()}


def rungs(config: TuneConfig) -> list[int]:
    """The epochs at which trials pause, and the last epoch."""
    found = [config.grace_epochs] if config.early_stopping == "asha" else []
    while found and found[-1] * FACTOR < config.epochs:
        found.append(found[-1] * FACTOR)
    return [*(epoch for epoch in found if epoch < config.epochs), config.epochs]


def grid_points(config: TuneConfig) -> list[dict[str, Any]]:
    """Every combination, shuffled by the seed.

    The first points of a grid in order are neighbours, all good or all bad, and would be compared only with each other.
    """
    points = config.combinations()
    random.Random(config.seed).shuffle(points)
    return points


def _domain(values: Range | Choices) -> Any:
    if isinstance(values, Range):
        return (tune.loguniform if values.log else tune.uniform)(values.low, values.high)
    return tune.choice(list(values.values))
