"""What a search makes of the results of its legs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd

from vgg_dist.config import TuneConfig
from vgg_dist.tuning.search import _trials


def leg(number: int, until: int, errors: list[float], ended: str) -> Any:
    """The result of a leg, as Ray Tune gives it: its settings, its last report, and all of them."""
    rows = [{"top1_error": error, "epoch": epoch, "ended": ""} for epoch, error in enumerate(errors, start=1)]
    rows += [{"top1_error": errors[-1], "epoch": until, "ended": ended}]
    settings = {"number": number, "until": until, "values": {"lr": 0.01 * (number + 1)}}
    return SimpleNamespace(config=settings, metrics=rows[-1], metrics_dataframe=pd.DataFrame(rows), error=None)


def test_legs_are_put_together_and_one_without_a_result_is_passed_over() -> None:
    config = TuneConfig(arch="lenet5", epochs=4, trials=2, metric="top1_error", name="search").resolved()
    lost = SimpleNamespace(config=None, metrics=None, metrics_dataframe=None, error=RuntimeError("its node is gone"))
    legs = [leg(0, 4, [50.0, 40.0, 45.0], "finished"), lost, leg(1, 1, [70.0], "waits"), leg(0, 1, [60.0], "waits")]
    trials = {trial.config.lr: trial for trial in _trials(config, legs)}
    assert {lr: (trial.error, trial.epochs, trial.ended) for lr, trial in trials.items()} == {
        0.01: (40.0, 3, "finished"),
        0.02: (70.0, 1, "stopped early"),
    }
    assert _trials(config, [lost]) == []
