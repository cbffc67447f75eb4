"""A trial of a search on its way to a rung, in a process of its own: a training whose validations go to Ray Tune."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray.train
from ray.tune.integration.ray_train import TuneReportCallback

from vgg_dist.config import TrainConfig, TuneConfig
from vgg_dist.errors import Interrupted, TrainingError
from vgg_dist.launch.driver import LaunchOptions, run_training
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.tracking import TrackedRun

WORST = {"top1_error": 100.0, "top5_error": 100.0, "loss": math.inf}


def leg_training(leg: dict[str, Any], search: TuneConfig, parent: TrackedRun) -> TrainConfig:
    """The whole training that a leg is a part of; its record is in MLflow where the search's is."""
    return replace(search.trial(leg["values"], leg["number"]), tracking_uri=parent.tracking_uri)


def stopped_key(name: str) -> str:
    """The key of the message that a trial has stopped, as its search was told to."""
    return f"stopped/{name}"


def run_leg(
    leg: dict[str, Any], search: TuneConfig, parent: TrackedRun, resources: list[dict[str, float]]
) -> dict[str, Any]:
    """Trains as far as `halving.SuccessiveHalving` says, which gets what this returns."""
    trial = leg_training(leg, search, parent)
    options = LaunchOptions(parent, resources, is_trial=True, pause_at_epoch=leg["until"], callbacks=(TrialReport(),))
    try:
        metrics = run_training(trial, options)
    except Interrupted:  # the search is told to stop, and ends this process once all its trials have stopped
        JobMessages().put(stopped_key(str(trial.name)), "")
        threading.Event().wait()
        raise
    except (ValueError, TrainingError) as error:  # the settings' own fault: the next start would end so too
        return {**WORST, "epoch": search.epochs, "ended": f"failed: {error}"}
    ended = "waits" if options.is_paused(trial, metrics) else "finished"
    return errors_of(metrics) | {"epoch": metrics["epoch"], "ended": ended}


def errors_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """The validation metrics by the names of WORST; for five classes or fewer, top-1 in the place of top-5."""
    return {name: metrics.get(f"val/{name}", metrics["val/top1_error"]) for name in WORST}


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
                result = errors_of(values) | {"epoch": self.epoch, "ended": ""}
                self.to_tune.after_report(run_context, [result], None)
