"""The progress lines of a search, and its stop after a signal: Ray Tune's callback, in the search's own process."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from ray.tune import Callback
from ray.tune.schedulers import TrialScheduler

from pipelines import signals
from vgg_dist.config import TrainSettings, TuneConfig
from vgg_dist.launch.follow import CLOSING_S, stop_signal
from vgg_dist.launch.run_record import open_training
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.tracking import TrackedRun, finish_run, read_runs
from vgg_dist.tuning.trial import leg_training, stopped_key

QUIET_S = 60.0  # without a line for so long, one tells which trials are training


class SearchProgress(Callback):
    """Prints a line for each validation, for the end of each leg, and every QUIET_S seconds between them.

    When a search is resumed, it replays the earlier results of all trials to the scheduler, as Ray Tune does not: the
    remaining trials would be compared only with each other.
    """

    config: ClassVar[TuneConfig]
    run: ClassVar[TrackedRun]
    """Both on the class, set at each start: Ray Tune saves the object's attributes, and their URLs may hold passwords."""
    said_at: ClassVar[float] = 0.0
    ending = False
    """Whether Ray Tune was told to end, after a signal."""

    def __init__(self, scheduler: TrialScheduler) -> None:
        self.scheduler = scheduler
        self.best = math.inf
        self.heard: set[tuple[int, float]] = set()
        """Trial and epoch of each validation so far."""
        self.results: list[tuple[str, dict[str, Any]]] = []
        self.untold: list[tuple[str, dict[str, Any]]] = []

    def get_state(self) -> dict[str, Any]:
        """Called by Ray Tune to save the state."""
        return {"best": self.best, "heard": self.heard, "results": self.results}

    def set_state(self, state: dict[str, Any]) -> None:
        """Called by Ray Tune on resuming, before it has restored the trials."""
        self.best, self.heard, self.results = state["best"], state["heard"], state["results"]
        self.ending = False
        self.untold = list(self.results)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Looks for a signal, replays earlier results to the scheduler after a resumption, and prints what is running."""
        self._look_for_signal(trials)
        known = {trial.trial_id: trial for trial in trials}
        for trial_id, result in self.untold:
            if trial_id in known:
                self.scheduler.on_trial_result(None, known[trial_id], result)
        self.untold = []
        if time.monotonic() > self.said_at + QUIET_S:
            self._say_running(trials)

    def _say_running(self, trials: list[Any]) -> None:
        """A line that tells how far the running trials are."""
        names = {str(self._training(trial).name) for trial in trials if trial.status == "RUNNING"}
        if names and self.said_at:
            known = {}
            with contextlib.suppress(ValueError):  # the tracking server does not answer
                known = {run.name: run.metrics for run in read_runs(self.run.tracking_uri, self.config.experiment, self.run)}
            print(f"search {self.config.name}: {describe_running(names, known, self.config.epochs)}", flush=True)
        type(self).said_at = time.monotonic()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Called for a validation, and for the result that a leg returns at its end."""
        error = result[self.config.metric]
        self.results.append((trial.trial_id, {"epoch": result["epoch"], self.config.metric: error}))
        validation = trial.config["number"], result["epoch"]
        if not result["ended"] and validation not in self.heard:  # a leg first reports the last one's again
            self.heard.add(validation)
            self.best = min(self.best, error)
            epoch = f"epoch {result['epoch']:g}/{self.config.epochs}"
            self._say(trial, f"{epoch}  {self.config.metric} {error:.4g}  (best so far {self.best:.4g})")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called when a leg has ended, or the scheduler has stopped it."""
        result = trial.last_result
        ended = result.get("ended") or f"stopped early at epoch {result.get('epoch', 0):g}"
        if ended.startswith("stopped"):
            finish_run(open_training(self._training(trial), self.run), "KILLED", ended)
        if ended == "waits":
            ended = f"paused at epoch {result['epoch']:g}"
        tried = {other.config["number"] for other in trials if other is trial or other.is_finished()}
        self._say(trial, f"{ended}; {len(tried)} of {self.config.num_trials()} trials tried")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called for a trial whose process was lost too often."""
        finish_run(open_training(self._training(trial), self.run), "FAILED", "its process was lost")
        self._say(trial, "failed: its process was lost")

    def _look_for_signal(self, trials: list[Any]) -> None:
        """Passes a signal on to the trials. Once they have stopped, or are out of time, ends Ray Tune."""
        if self.ending or signals.caught() is None:
            return
        messages = JobMessages()
        stop_signal(messages)
        running = [self._training(trial) for trial in trials if trial.status == "RUNNING"]
        left = [training for training in running if messages.get(stopped_key(str(training.name))) is None]
        if not left or signals.left_s() < CLOSING_S:
            self.ending = True
            for training in left:
                finish_run(open_training(training, self.run), "KILLED", "its search was stopped", quick=True)
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
            signal.raise_signal(signal.SIGUSR1)  # Ray Tune saves its state and ends

    def _training(self, trial: Any) -> TrainSettings:
        return leg_training(trial.config, self.config, self.run)

    def _say(self, trial: Any, what: str) -> None:
        print(f"trial {self._training(trial).name}: {what}", flush=True)
        type(self).said_at = time.monotonic()


def describe_running(names: Iterable[str], metrics: Mapping[str, Mapping[str, float]], epochs: int) -> str:
    """Such as "1 training: lr0.1_00000 (epoch 1.26/74, 12.3 images/s)". `metrics`: the last ones of each trial."""
    words = []
    for name in sorted(names):
        last = metrics.get(name, {})
        at = f"epoch {last['epoch']:.2f}/{epochs}" if "epoch" in last else "starting"
        rate = f", {last['images_per_second']:.1f} images/s" if "images_per_second" in last else ""
        words.append(f"{name} ({at}{rate})")
    return f"{len(words)} training: {'; '.join(words)}"
