"""A search: Ray Tune over trainings, each of which is a run of its own (`driver.run_training`) of one or several workers.

What Ray Tune calls a trial is here a leg, a trial's way from one rung to the next (see `halving`). Its process on the
cluster only waits for Ray Train, so it reserves no CPU: drivers cannot keep workers from starting. As many run at once as
there is room for their workers. All of a search is in its folder: the trials' runs, and what Ray Tune needs to go on after
an interruption.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

# Ray Tune's own output (a box at the start), its files for TensorBoard and others, and its handler of Ctrl-C.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")

from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, Tuner
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import FIFOScheduler, MedianStoppingRule, TrialScheduler

from pipelines import signals
from vgg_dist.config import TrainConfig, TrainingError, TuneConfig
from vgg_dist.driver import DRIVER_MEMORY
from vgg_dist.fitting import CLOSING_S, resumes, told_by
from vgg_dist.halving import SuccessiveHalving
from vgg_dist.job_messages import JobMessages
from vgg_dist.lost_cluster import watched_cluster
from vgg_dist.nodes import describe_workers, groups_at_once, worker_resources
from vgg_dist.preflight import check_search
from vgg_dist.ray_start import start_ray
from vgg_dist.run_record import open_training
from vgg_dist.settings_file import SEARCH, keep_settings
from vgg_dist.stopping import Interrupted
from vgg_dist.storage import beside
from vgg_dist.tracking import TrackedRun, finish_run, open_run, read_runs, resolve_tracking_uri
from vgg_dist.trial import leg_training, run_leg, stopped_key

QUIET_S = 60.0  # after so long without a validation, a line says what is running


@dataclass(frozen=True)
class Trial:
    """How a trial ended."""

    config: TrainConfig
    error: float
    """The least of the metric over its epochs; infinite where there is none."""
    epochs: float
    ended: str
    """finished, stopped early, or failed: why."""


@dataclass(frozen=True)
class SearchResult:
    """All trials, the best first, and the run that they are nested in."""

    run: TrackedRun
    trials: list[Trial]


def run_search(config: TuneConfig) -> SearchResult:
    """Runs a search, `config` being resolved, to its end, or on from where it was.

    ValueError for settings, data or a cluster that cannot be; TrainingError where no trial came to a result; Interrupted
    once all trials have stopped, as they were told.
    """
    check_search(config)
    uri = resolve_tracking_uri(config.tracking_uri, config.storage_path)
    print("vgg_dist.tune: starting Ray", flush=True)
    start_ray()
    logging.getLogger("ray.tune").setLevel(logging.WARNING)
    workers = config.num_workers or 1
    at_once = min(config.trials_at_once or groups_at_once(workers), config.num_trials())
    resources = worker_resources(workers * at_once)[:workers]
    keep_settings(config.folder, config, SEARCH)
    several = "s" * (at_once > 1)
    print(f"vgg_dist.tune: {at_once} trial{several} at once, on {describe_workers(resources)} each", flush=True)
    tags = {"mlflow.source.name": "vgg_dist.tune", "arch": config.arch}
    status = "FAILED"
    with signals.holding():
        run = open_run(uri, config.experiment, config.storage_path, config.name or "", config.to_dict(), tags)
        try:
            with (
                signals.at_last(partial(finish_run, run, "KILLED", quick=True)),
                watched_cluster("vgg_dist.tune", partial(finish_run, run, "FAILED")),
            ):
                found = _tuner(config, run, resources, at_once).fit()
            if signum := signals.caught():
                status = "KILLED"
                raise Interrupted(signals.name_of(signum), f"; {resumes(config.name)}, each trial from its last checkpoint")
            trials = sorted(_trials(config, found), key=lambda trial: trial.error)
            if math.isinf(trials[0].error):
                raise TrainingError(f"no trial came to a result: {'; '.join(sorted({trial.ended for trial in trials}))}")
            status = "FINISHED"
        finally:
            finish_run(run, status, quick=True)
    return SearchResult(run, trials)


def _tuner(config: TuneConfig, run: TrackedRun, resources: list[dict[str, float]], at_once: int) -> Tuner:
    trainable = tune.with_resources(
        tune.with_parameters(run_leg, search=config, parent=run, resources=resources), {"memory": DRIVER_MEMORY}
    )
    SuccessiveHalving.at_once = at_once
    SearchProgress.config, SearchProgress.run = config, run
    state = beside(config.folder, "tune")
    if Tuner.can_restore(state):
        return Tuner.restore(state, trainable, resume_unfinished=True, restart_errored=True)
    scheduler = _scheduler(config)
    run_config = RunConfig(
        name="tune",
        storage_path=config.folder,
        # A trial is started again where its driver was lost with a node; what it finds wrong itself it reports.
        failure_config=FailureConfig(max_failures=config.max_failures),
        callbacks=[SearchProgress(scheduler), JsonLoggerCallback()],
        verbose=0,
    )
    legs = SuccessiveHalving(TuneConfig.from_dict(config.to_dict()))  # Ray Tune keeps it: without the secrets of URLs
    tune_config = tune.TuneConfig(
        metric=config.metric,
        mode="min",
        search_alg=legs,
        scheduler=scheduler,
        num_samples=config.num_trials() * len(legs.rungs),  # at most
    )
    return Tuner(trainable, tune_config=tune_config, run_config=run_config)


def _scheduler(config: TuneConfig) -> TrialScheduler:
    if config.early_stopping != "median":
        return FIFOScheduler()
    # Where there are too few to compare with, a trial goes on; of itself the rule would let the waiting ones in before it.
    return MedianStoppingRule(time_attr="epoch", grace_period=config.grace_epochs, min_time_slice=math.inf)


class SearchProgress(Callback):
    """In the search's own process: a line for each validation and for each trial's end, and now and then between them.

    After an interruption it tells the scheduler again what every trial has reported, which Ray Tune does not: the trials
    that are left would be compared with each other only.
    """

    config: ClassVar[TuneConfig]
    run: ClassVar[TrackedRun]
    """The class's, set at each start: Ray Tune writes down what an object has, and their URLs may hold passwords."""
    said_at: ClassVar[float] = 0.0

    def __init__(self, scheduler: TrialScheduler) -> None:
        self.scheduler = scheduler
        self.ending = False
        self.best = math.inf
        self.heard: set[tuple[int, float]] = set()
        """Trials and epochs of the validations so far."""
        self.results: list[tuple[str, dict[str, Any]]] = []
        self.untold: list[tuple[str, dict[str, Any]]] = []

    def get_state(self) -> dict[str, Any]:
        """What Ray Tune keeps with its own state."""
        return {"best": self.best, "heard": self.heard, "results": self.results}

    def set_state(self, state: dict[str, Any]) -> None:
        """Called before the trials are there."""
        self.best, self.heard, self.results = state["best"], state["heard"], state["results"]
        self.untold = list(self.results)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """The first time after an interruption: the scheduler's memory. And a look for a signal to the command."""
        self._look_for_signal(trials)
        known = {trial.trial_id: trial for trial in trials}
        for trial_id, result in self.untold:
            if trial_id in known:
                self.scheduler.on_trial_result(None, known[trial_id], result)
        self.untold = []
        if time.monotonic() > self.said_at + QUIET_S:
            self._say_running(trials)

    def _say_running(self, trials: list[Any]) -> None:
        """How far the trials are, where validations are far apart."""
        names = {str(self._training(trial).name) for trial in trials if trial.status == "RUNNING"}
        if names and self.said_at:
            known = {}
            with contextlib.suppress(ValueError):  # a tracking server that is away
                known = {run.name: run.metrics for run in read_runs(self.run.tracking_uri, self.config.experiment, self.run)}
            print(f"search {self.config.name}: {describe_running(names, known, self.config.epochs)}", flush=True)
        type(self).said_at = time.monotonic()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A validation, or what a leg returned at its end."""
        error = result[self.config.metric]
        self.results.append((trial.trial_id, {"epoch": result["epoch"], self.config.metric: error}))
        validation = trial.config["number"], result["epoch"]
        if not result["ended"] and validation not in self.heard:  # the next leg begins with the last one's
            self.heard.add(validation)
            self.best = min(self.best, error)
            epoch = f"epoch {result['epoch']:g}/{self.config.epochs}"
            self._say(trial, f"{epoch}  {self.config.metric} {error:.4g}  (best so far {self.best:.4g})")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A leg came to its end, or the scheduler stopped it."""
        result = trial.last_result
        ended = result.get("ended") or f"stopped early at epoch {result.get('epoch', 0):g}"
        if ended.startswith("stopped"):
            finish_run(open_training(self._training(trial), self.run), "KILLED", ended)
        if ended == "waits":
            ended += f" at epoch {result['epoch']:g}"
        tried = {other.config["number"] for other in trials if other is trial or other.is_finished()}
        self._say(trial, f"{ended}; {len(tried)} of {self.config.num_trials()} trials tried")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial whose process was lost too often."""
        finish_run(open_training(self._training(trial), self.run), "FAILED", "its process was lost")
        self._say(trial, "failed: its process was lost")

    def _look_for_signal(self, trials: list[Any]) -> None:
        """Passes it on to the trials; when they have stopped, or there is no more time for them, Ray Tune ends."""
        if self.ending or signals.caught() is None:
            return
        messages = JobMessages()
        told_by(messages)
        running = [self._training(trial) for trial in trials if trial.status == "RUNNING"]
        left = [training for training in running if messages.get(stopped_key(str(training.name))) is None]
        if not left or signals.left_s() < CLOSING_S:
            self.ending = True
            for training in left:
                finish_run(open_training(training, self.run), "KILLED", "its search was stopped", quick=True)
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
            signal.raise_signal(signal.SIGUSR1)  # Ray Tune saves its state and ends

    def _training(self, trial: Any) -> TrainConfig:
        return leg_training(trial.config, self.config, self.run)

    def _say(self, trial: Any, what: str) -> None:
        print(f"trial {self._training(trial).name}: {what}", flush=True)
        type(self).said_at = time.monotonic()


def describe_running(names: Iterable[str], metrics: Mapping[str, Mapping[str, float]], epochs: int) -> str:
    """How far trials are, by the last metrics of each, for people."""
    words = []
    for name in sorted(names):
        last = metrics.get(name, {})
        at = f"epoch {last['epoch']:.2f}/{epochs}" if "epoch" in last else "starting"
        rate = f", {last['images_per_second']:.1f} images/s" if "images_per_second" in last else ""
        words.append(f"{name} ({at}{rate})")
    return f"{len(words)} training: {'; '.join(words)}"


def _trials(config: TuneConfig, legs: Iterable[Any]) -> list[Trial]:
    """How the trials ended, each of one or several legs."""
    found: dict[int, Trial] = {}
    for leg in sorted(legs, key=lambda leg: leg.config["until"]):
        number, last, rows = leg.config["number"], leg.metrics or {}, leg.metrics_dataframe
        ended = last.get("ended") or (f"failed: {leg.error}" if leg.error else "stopped early")
        trial = found.get(number) or Trial(config.trial(leg.config["values"], number), math.inf, 0.0, "")
        error, epochs = trial.error, trial.epochs
        if rows is not None and config.metric in rows:
            validations = rows[rows["ended"].fillna("") == ""]
            if validations.empty and ended in ("waits", "finished"):  # there was nothing left to train
                validations = rows
            error, epochs = min([error, *validations[config.metric]]), max([epochs, *validations["epoch"]])
        if ended.startswith("failed"):
            error = math.inf
        found[number] = Trial(trial.config, error, epochs, "stopped early" if ended == "waits" else ended)
    return list(found.values())
