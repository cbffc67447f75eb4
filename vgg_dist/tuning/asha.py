"""Asynchronous successive halving (ASHA: Li et al. 2020): which trial of a search trains next, and how far.

Every trial trains to the first rung, epoch 1 say, and waits there; it goes on to the next, epoch 4, once its error is among
the least quarter of those there, and so on to the last epoch. Nobody waits for a rung to fill. Ray Tune's own ASHA only
stops trials: one that comes to a rung before the others goes on, however good those turn out, and one that it stopped never
does.

To Ray Tune each way from rung to rung is a trial of its own, here a leg; its training goes on from its last checkpoint.
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

FACTOR = 4  # of so many at a rung one goes on, for so many times as many epochs


@dataclass(frozen=True)
class Leg:
    """A trial's way to a rung."""

    number: int
    """The trial's."""
    rung: int


class SuccessiveHalving(Searcher):
    """Suggests legs to Ray Tune: {"number": the trial's, "values": of what is searched, "until": the rung's epoch}.

    Expects of a leg's result: `ended` is "waits" for a trial that has come to its rung, "finished" for one that has nothing
    left to train, "failed: ..." for one that cannot go on, and else the trial was stopped on its way.
    """

    at_once: ClassVar[int] = 1
    """How many legs may run beside each other. The class's, so that it is not kept with the state: an interrupted search may
    go on where there is another number of GPUs, and Ray Tune makes the object itself then."""

    def __init__(self, config: TuneConfig) -> None:
        super().__init__(metric=config.metric, mode="min")
        self.config = config
        self.rungs = rungs(config)
        self.values: list[dict[str, Any]] = []
        """What each trial that was begun tries, by its number."""
        self.errors: list[dict[int, float]] = [{} for _ in self.rungs]
        """For each rung, of the trials that came there; infinite for those that failed on the way."""
        self.legs: dict[str, Leg] = {}
        """All so far, by Ray Tune's names for them."""
        self.running: set[str] = set()
        self.grid = grid_points(config) if config.search == "grid" else []
        self.domains = {name: _domain(values) for name, values in config.space().items()}
        self.optuna: OptunaSearch | None = None
        if config.search == "bayesian":
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            space = OptunaSearch.convert_search_space(self.domains)
            self.optuna = OptunaSearch(space, metric=config.metric, mode="min", seed=config.seed)
        self.told: set[int] = set()
        """Trials whose errors Optuna knows."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A leg; None while none can be begun; FINISHED."""
        if len(self.running) >= self.at_once:
            return None
        # The paper draws trials without end, so there those of a rung come first. Here their number is given: the more have
        # been tried, the better is known which are to go on. Optuna, though, learns from what the good ones come to.
        first, then = (self._promotion, self._new_trial) if self.optuna else (self._new_trial, self._promotion)
        leg = first() or then() or (None if self.running else self._last_promotion())
        if leg is None:
            return None if self.running else Searcher.FINISHED
        self.legs[trial_id] = leg
        self.running.add(trial_id)
        return {"number": leg.number, "values": self.values[leg.number], "until": self.rungs[leg.rung]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A leg has come to its end; the result is None where its process was lost too often."""
        self.running.discard(trial_id)
        leg = self.legs[trial_id]
        ended = "failed" if result is None or error else result.get("ended", "")
        value = math.inf
        if result is not None and not ended.startswith("failed") and not math.isnan(result[self.config.metric]):
            value = result[self.config.metric]
        # One that has nothing left to train would come to all the rungs with that error.
        for rung in range(leg.rung, len(self.rungs) if ended == "finished" else leg.rung + 1):
            self.errors[rung][leg.number] = value
        goes_on = ended == "waits" and leg.number in self._best_quarter(leg.rung)
        if self.optuna is not None and not goes_on and leg.number not in self.told:
            self.told.add(leg.number)
            self.optuna.on_trial_complete(str(leg.number), result, error)

    def save(self, checkpoint_path: str) -> None:
        """What Ray Tune keeps with its own state."""
        Path(checkpoint_path).write_bytes(pickle.dumps(self.__dict__))

    def restore(self, checkpoint_path: str) -> None:
        """The inverse of `save`."""
        self.__dict__.update(pickle.loads(Path(checkpoint_path).read_bytes()))

    def _promotion(self) -> Leg | None:
        """The way on for a trial of the best quarter at its rung."""
        return self._way_on(self._best_quarter)

    def _last_promotion(self) -> Leg | None:
        """The best of all goes on to the last epoch, if nothing else is left to do and none came so far."""
        return None if any(map(math.isfinite, self.errors[-1].values())) else self._way_on(self._by_error)

    def _way_on(self, candidates: Callable[[int], list[int]]) -> Leg | None:
        """For the first that waits of a rung's candidates, the highest rung first."""
        for rung in reversed(range(len(self.rungs) - 1)):
            for number in candidates(rung):
                if self._waits(number, rung):
                    return Leg(number, rung + 1)
        return None

    def _best_quarter(self, rung: int) -> list[int]:
        """Of the trials that came to this rung, the best first."""
        return self._by_error(rung)[: len(self.errors[rung]) // FACTOR]

    def _by_error(self, rung: int) -> list[int]:
        return sorted(self.errors[rung], key=self.errors[rung].__getitem__)

    def _waits(self, number: int, rung: int) -> bool:
        """Whether the trial can go on from this rung and has not."""
        came = math.isfinite(self.errors[rung][number])
        return came and number not in self.errors[rung + 1] and Leg(number, rung + 1) not in self.legs.values()

    def _new_trial(self) -> Leg | None:
        """The next trial's way to the first rung."""
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
    """The epochs at which trials wait, and the last."""
    found = [config.grace_epochs] if config.early_stopping == "asha" else []
    while found and found[-1] * FACTOR < config.epochs:
        found.append(found[-1] * FACTOR)
    return [*(epoch for epoch in found if epoch < config.epochs), config.epochs]


def grid_points(config: TuneConfig) -> list[dict[str, Any]]:
    """Every combination, in an order drawn from the seed.

    Of a grid in its own order the first are neighbours, all good or all bad, and would be compared with each other only.
    """
    points = config.combinations()
    random.Random(config.seed).shuffle(points)
    return points


def _domain(values: Range | Choices) -> Any:
    if isinstance(values, Range):
        return (tune.loguniform if values.log else tune.uniform)(values.low, values.high)
    return tune.choice(list(values.values))
