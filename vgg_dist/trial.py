"""One trial of a search, in a process of its own: a training whose validations go to Ray Tune."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import ray.train
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from vgg_dist.config import TrainingError, TuneConfig
from vgg_dist.driver import Part, run_training
from vgg_dist.tracking import TrackedRun

WORST = {"top1_error": 100.0, "top5_error": 100.0, "loss": math.inf}


def run_trial(
    values: dict[str, Any], search: TuneConfig, parent: TrackedRun, resources: list[dict[str, float]]
) -> dict[str, Any]:
    """Trains with these values of what is searched. Returns the last result."""
    trial = search.trial(values, tune.get_context().get_trial_id())
    trial = replace(trial, tracking_uri=parent.tracking_uri)
    part = Part(parent, resources, is_trial=True, callbacks=(TrialReport(),))
    try:
        metrics = run_training(trial, part)
    except (ValueError, TrainingError) as error:  # the settings' own fault: the next start would end so too
        return {**WORST, "epoch": search.epochs, "ended": f"failed: {error}"}
    return {name: metrics[f"val/{name}"] for name in WORST} | {"epoch": search.epochs, "ended": "finished"}


class TrialReport(ray.train.UserCallback):
    """On Ray Train's controller: passes each validation on to Ray Tune."""

    def __init__(self) -> None:
        self.to_tune = TuneReportCallback()
        self.epoch = 0.0

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Takes rank 0's records; a validation has the epoch of the record before it.

        What a checkpoint kept Ray Tune may not have heard of. If it has, it hears it twice: no other error, no other rung.
        """
        for record in [*metrics[0].get("earlier", []), *metrics[0]["records"]]:
            values = record["metrics"]
            self.epoch = values.get("epoch", self.epoch)
            if "val/loss" in values:
                result = {name: values[f"val/{name}"] for name in WORST} | {"epoch": self.epoch, "ended": ""}
                self.to_tune.after_report(run_context, [result], None)
