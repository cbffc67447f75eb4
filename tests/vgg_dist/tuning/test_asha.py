"""Asynchronous successive halving without Ray: what is suggested, against the rule written out; and its searchers."""

from __future__ import annotations

import math
import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vgg_dist.config import TuneConfig
from vgg_dist.tuning.asha import SuccessiveHalving, grid_points

Curve = Callable[[int], float]
"""A trial's error after an epoch."""


def sixteen(**settings: Any) -> TuneConfig:
    """A grid of 16."""
    grid = {"search": "grid", "search_lr": (1.0, 2.0, 3.0, 4.0), "search_train_scale": ("256", "300", "384", "256-512")}
    return TuneConfig(**{**grid, "epochs": 9, **settings}).resolved()


class Cluster:
    """Trains what is suggested, in simulated time; each epoch takes about 1."""

    def __init__(
        self, config: TuneConfig, at_once: int, curve: Callable[[int, dict[str, Any]], Curve], seed: int = 0
    ) -> None:
        self.legs = SuccessiveHalving(config)
        SuccessiveHalving.at_once = at_once
        self.curve = curve
        self.random = random.Random(seed)
        self.trained: Counter[int] = Counter()
        """Epochs of each trial so far."""
        self.running: dict[str, tuple[float, dict[str, Any]]] = {}
        self.now = 0.0
        self.begun = 0

    def steps(self) -> Iterator[tuple[dict[str, Any], str | dict[str, Any] | None]]:
        """Yields what is suggested, each time with the errors so far by rung and trial; ends where the search does."""
        came: dict[int, dict[int, float]] = {}
        while True:
            suggestion = self.legs.suggest(f"leg{self.begun}")
            yield {epoch: dict(errors) for epoch, errors in came.items()}, suggestion
            if isinstance(suggestion, dict):
                epochs = suggestion["until"] - self.trained[suggestion["number"]]
                self.running[f"leg{self.begun}"] = self.now + epochs * self.random.uniform(0.8, 1.2), suggestion
                self.begun += 1
            elif suggestion is None:
                name = min(self.running, key=lambda name: self.running[name][0])
                self.now, leg = self.running.pop(name)
                error = self.curve(leg["number"], leg["values"])(leg["until"])
                self.trained[leg["number"]] = leg["until"]
                if math.isfinite(error):
                    ended = "finished" if leg["until"] == self.legs.config.epochs else "waits"
                    result = {self.legs.config.metric: error, "ended": ended}
                else:
                    result = {self.legs.config.metric: 100.0, "ended": "failed: the loss is not finite"}
                came.setdefault(leg["until"], {})[leg["number"]] = error
                self.legs.on_trial_complete(name, result)
            else:
                assert suggestion == "FINISHED"
                assert not self.running
                return


def noisy_curves(seed: int) -> Callable[[int, dict[str, Any]], Curve]:
    """Trials that differ, learn, and overtake each other; one in ten fails on the way."""

    def curve(number: int, values: dict[str, Any]) -> Curve:
        draws = random.Random(1000 * seed + number)
        final, start, fails = draws.uniform(10, 50), draws.uniform(60, 90), draws.random() < 0.1
        fails_at = draws.choice([1, 4])
        errors = [final + (start - final) / (1 + epoch) + draws.uniform(-3, 3) for epoch in range(100)]
        return lambda epoch: math.inf if fails and epoch >= fails_at else errors[epoch]

    return curve


@pytest.mark.parametrize("at_once", [1, 2, 16])
@pytest.mark.parametrize("seed", range(10))
def test_a_trial_goes_on_if_and_only_if_it_is_in_the_best_quarter_at_its_rung(at_once: int, seed: int) -> None:
    cluster = Cluster(sixteen(), at_once, noisy_curves(seed), seed)
    suggested: list[tuple[int, int]] = []
    came: dict[int, dict[int, float]] = {}
    for came, suggestion in cluster.steps():
        # The rule, written out: of the n errors at a rung a trial's is one of the n // 4 least, and it has not gone on.
        ready = [
            (number, following)
            for rung, following in ((4, 9), (1, 4))
            for place, number in enumerate(sorted(came.get(rung, {}), key=came.get(rung, {}).__getitem__))
            if place < len(came[rung]) // 4 and math.isfinite(came[rung][number]) and (number, following) not in suggested
        ]
        if isinstance(suggestion, dict):
            leg = suggestion["number"], suggestion["until"]
            new = len({number for number, _ in suggested}), 1
            last_resort = not cluster.running and not ready and not came.get(9)
            assert leg == new if new[0] < 16 else leg == ready[0] if ready else last_resort
            assert leg not in suggested
            suggested.append(leg)
        elif suggestion is None:
            assert len(cluster.running) == at_once or not ready
        assert len(cluster.running) <= at_once
    assert sorted(number for number, epoch in suggested if epoch == 1) == list(range(16))
    assert any(map(math.isfinite, came[9].values()))


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_what_is_best_all_along_comes_to_the_end_in_every_order_with_a_third_of_the_epochs(at_once: int) -> None:
    for seed in range(100):
        config = sixteen(seed=seed)

        def curve(number: int, values: dict[str, Any]) -> Curve:
            place = config.combinations().index(values)  # noqa: B023  used within the iteration
            return lambda epoch: (60.0 + place) / (1 + epoch)

        cluster = Cluster(config, at_once, curve, seed)
        list(cluster.steps())
        best = grid_points(config).index(config.combinations()[0])
        assert cluster.trained[best] == 9
        # 16 to the first rung, 4 to the second and 1 to the end are 33; more where some went on and were overtaken then.
        assert 33 <= sum(cluster.trained.values()) <= (33 if at_once == 1 else 16 * 9 / 3)


def test_the_first_to_come_do_not_go_on_before_the_others_were_there() -> None:
    errors = {0: 50.0, 1: 40.0, 2: 41.0, 3: 60.0, 4: 70.0, 5: 30.0, 6: 70.0, 7: 70.0}
    cluster = Cluster(
        TuneConfig(trials=8, epochs=5, search_lr=(0.1, 1.0)).resolved(),
        1,
        lambda number, values: lambda epoch: errors[number] - epoch,
    )
    legs = [(leg["number"], leg["until"]) for _, leg in cluster.steps() if isinstance(leg, dict)]
    # At epoch 4 there are two, too few for a quarter: the best goes on.
    assert legs == [*((number, 1) for number in range(8)), (5, 4), (1, 4), (5, 5)]


@pytest.mark.parametrize("trials", [1, 2, 3, 5])
def test_of_few_trials_the_best_that_does_not_fail_comes_to_the_end(trials: int) -> None:
    config = TuneConfig(trials=trials, epochs=9).resolved()

    def falling(number: int, values: dict[str, Any]) -> Curve:
        return lambda epoch: math.inf if number == trials - 1 and epoch > 1 and trials > 1 else 50.0 - number

    cluster = Cluster(config, 2, falling)
    list(cluster.steps())
    assert cluster.trained[max(trials - 2, 0)] == 9

    failing = Cluster(config, 2, lambda number, values: lambda epoch: math.inf)
    list(failing.steps())
    assert failing.trained == dict.fromkeys(range(trials), 1)


@pytest.mark.parametrize(
    ("settings", "rungs"),
    [
        ({"epochs": 74}, [1, 4, 16, 64, 74]),
        ({"epochs": 16}, [1, 4, 16]),
        ({"epochs": 9, "grace_epochs": 3}, [3, 9]),
        ({"epochs": 1}, [1]),
        ({"epochs": 4, "grace_epochs": 5}, [4]),
        ({"epochs": 9, "early_stopping": "median"}, [9]),
        ({"epochs": 9, "early_stopping": "none"}, [9]),
    ],
)
def test_the_rungs_are_four_times_as_far_each_and_the_last_epoch(settings: dict[str, Any], rungs: list[int]) -> None:
    cluster = Cluster(sixteen(**settings), 3, noisy_curves(0))
    legs = [leg["until"] for _, leg in cluster.steps() if isinstance(leg, dict)]
    assert sorted(set(legs)) == rungs
    assert legs.count(rungs[0]) == 16


def test_a_trial_whose_schedule_ended_is_compared_at_later_rungs_and_trains_no_more() -> None:
    SuccessiveHalving.at_once = 8
    legs = SuccessiveHalving(TuneConfig(trials=8, epochs=9).resolved())
    for number in range(8):
        assert isinstance(legs.suggest(f"leg{number}"), dict)
    for number in range(8):
        ended = "finished" if number < 2 else "waits"
        legs.on_trial_complete(f"leg{number}", {"top1_error": 10.0 + number, "ended": ended})
    assert legs.suggest("more") == "FINISHED"
    assert [sorted(errors) for errors in legs.errors] == [list(range(8)), [0, 1], [0, 1]]


def test_it_goes_on_from_what_it_saved_as_if_nothing_had_been(tmp_path: Path) -> None:
    curves = noisy_curves(1)
    whole = [suggestion for _, suggestion in Cluster(sixteen(), 2, curves).steps()]
    broken = []
    cluster = Cluster(sixteen(), 2, curves)
    for _, suggestion in cluster.steps():
        broken.append(suggestion)
        cluster.legs.save(str(tmp_path / "state"))
        cluster.legs = SuccessiveHalving(sixteen(seed=5))
        cluster.legs.restore(str(tmp_path / "state"))
    assert broken == whole


def test_where_there_is_more_or_less_room_it_goes_on_with_more_or_fewer_at_once(tmp_path: Path) -> None:
    SuccessiveHalving.at_once = 2
    legs = SuccessiveHalving(sixteen())
    assert [isinstance(legs.suggest(name), dict) for name in "abc"] == [True, True, False]
    legs.save(str(tmp_path / "state"))
    for at_once in (1, 4):
        SuccessiveHalving.at_once = at_once
        again = pickle.loads(pickle.dumps(legs))  # as Ray Tune has it
        again.restore(str(tmp_path / "state"))
        assert sum(isinstance(again.suggest(name), dict) for name in "cdefg") == max(at_once - 2, 0)


def test_a_grid_is_tried_whole_and_not_in_its_own_order() -> None:
    orders = []
    for seed in (0, 0, 1):
        config = sixteen(seed=seed)
        points = [tuple(point.items()) for point in grid_points(config)]
        assert sorted(points) == sorted(tuple(point.items()) for point in config.combinations())
        orders.append(points)
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) != orders[0]


def drawn(config: TuneConfig) -> list[dict[str, Any]]:
    """What the trials try."""
    cluster = Cluster(config, 1, lambda number, values: lambda epoch: 50.0)
    return [leg["values"] for _, leg in cluster.steps() if isinstance(leg, dict) and leg["until"] == 1]


def test_random_values_are_of_the_space_uniform_in_the_logarithm_and_follow_from_the_seed() -> None:
    config = TuneConfig(trials=400, epochs=9, search_lr=(1e-4, 1.0), search_train_scale=("256", "384"), search_init=("he",))
    values = drawn(config.resolved())
    rates = sorted(value["lr"] for value in values)
    assert all(type(rate) is float for rate in rates)
    # In each decade a quarter of 400: within four standard deviations of 100.
    decades = Counter(math.floor(math.log10(rate)) for rate in rates)
    assert decades.keys() == {-4, -3, -2, -1}
    assert all(abs(count - 100) < 35 for count in decades.values())
    assert abs(sum(value["train_scale"] == "256" for value in values) - 200) < 40
    assert {value["init"] for value in values} == {"he"}
    again = TuneConfig(trials=3, epochs=9, search_lr=(1e-4, 1.0), search_train_scale=("256", "384"), search_init=("he",))
    assert drawn(again.resolved()) == values[:3]


def test_optuna_learns_from_what_the_trials_came_to(tmp_path: Path) -> None:
    config = TuneConfig(search="bayesian", trials=60, epochs=5, search_lr=(1e-4, 1.0), search_train_scale=("256", "384"))

    def curve(number: int, values: dict[str, Any]) -> Curve:
        return lambda epoch: (10 + 10 * abs(math.log10(values["lr"]) + 2) + (values["train_scale"] == "384")) / epoch

    cluster = Cluster(config.resolved(), 2, curve)
    rates = []
    for _, leg in cluster.steps():
        if isinstance(leg, dict) and leg["until"] == 1:
            rates.append(abs(math.log10(leg["values"]["lr"]) + 2))
        if len(rates) == 20:  # an interruption
            cluster.legs.save(str(tmp_path / "state"))
            cluster.legs = SuccessiveHalving(config.resolved())
            cluster.legs.restore(str(tmp_path / "state"))
    # At random 1 on average, by chance 0.3 more or less.
    assert sum(rates[20:]) / 40 < 0.6
