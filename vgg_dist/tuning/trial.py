"""One leg of a trial (a segment between two rungs): in its own process, a training that reports validations to Ray Tune."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray.train
from ray.tune.integration.ray_train import TuneReportCallback

from vgg_dist.config import TrainSettings, TuneConfig
from vgg_dist.errors import Interrupted, TrainingError
from vgg_dist.launch.driver import LaunchOptions, run_training
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.tracking import TrackedRun

WORST = {"top1_error": 100.0, "top5_error": 100.0, "loss": math.inf}


def leg_training(leg: dict[str, Any], search: TuneConfig, parent: TrackedRun) -> TrainSettings:
    """The settings of the trial that a leg belongs to, to its last epoch, with the MLflow server of the search."""
    return replace(search.trial(leg["values"], leg["number"]), tracking_uri=parent.tracking_uri)


def stopped_key(name: str) -> str:
    """The key of the message by which a trial says that it has stopped after a signal to its search."""
    return f"stopped/{name}"


def run_leg(
    leg: dict[str, Any], search: TuneConfig, parent: TrackedRun, resources: list[dict[str, float]]
) -> dict[str, Any]:
    """Trains to the leg's rung, and returns the result that `asha.SuccessiveHalving` expects."""
    trial = leg_training(leg, search, parent)
    options = LaunchOptions(parent, resources, is_trial=True, pause_at_epoch=leg["until"], callbacks=(TrialReport(),))
    try:
        metrics = run_training(trial, options)
    except Interrupted:  # by a signal to the search, which ends this process once all its trials have stopped
        JobMessages().put(stopped_key(str(trial.name)), "")
        threading.Event().wait()
        raise
    except (ValueError, TrainingError) as error:  # the settings are at fault: another start would fail too
        return {**WORST, "epoch": search.epochs, "ended": f"failed: {error}"}
    ended = "waits" if options.is_paused(trial, metrics) else "finished"
    return errors_of(metrics) | {"epoch": metrics["epoch"], "ended": ended}


def errors_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """The validation metrics by the names in WORST; for five classes or fewer, top-1 error in place of top-5."""
    return {name: metrics.get(f"val/{name}", metrics["val/top1_error"]) for name in WORST}


class TrialReport(ray.train.UserCallback):
    """On Ray Train's controller: reports each validation to Ray Tune."""

    def __init__(self) -> None:
        self.to_tune = TuneReportCallback()
        self.epoch = 0.0

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Reports the validations among rank 0's records; each has the epoch of the record before it.

        Records kept in the checkpoint that this leg resumed from are reported too, as the leg before may not have come to
        it. Validations that are reported twice are harmless.
        """
        for record in [*metrics[0].get("earlier", []), *metrics[0]["records"]]:
            values = record["metrics"]
            self.epoch = values.get("epoch", self.epoch)
            if "val/loss" in values:
                result = errors_of(values) | {"epoch": self.epoch, "ended": ""}
                self.to_tune.after_report(run_context, [result], None)
