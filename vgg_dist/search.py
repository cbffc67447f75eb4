"""A search: Ray Tune over trainings, each of which is a run of its own (`driver.run_training`) of one or several workers.

A trial's process on the cluster only waits for Ray Train, so it reserves no CPU: drivers cannot keep workers from starting.
As many trials run at once as there is room for their workers. All of a search is in its folder: the trials' runs, and what
Ray Tune needs to go on after an interruption.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
from dataclasses import dataclass, replace
from typing import Any

# Ray Tune's own output (a box at the start) and its files for TensorBoard and others; read when it is imported.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")

from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, Tuner
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, Searcher
from ray.tune.search.optuna import OptunaSearch

from vgg_dist.config import Choices, Range, TrainConfig, TrainingError, TuneConfig
from vgg_dist.driver import DRIVER_MEMORY, open_training
from vgg_dist.nodes import check_storage, groups_at_once, start_ray, worker_resources
from vgg_dist.storage import beside, read_file, replace_file
from vgg_dist.tracking import TrackedRun, check_store, finish_run, open_run, resolve_tracking_uri
from vgg_dist.trial import run_trial

SETTINGS = "search.json"


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

    ValueError for settings, data or a cluster that cannot be; TrainingError where no trial came to a result.
    """
    check_storage(config.storage_path)
    uri = resolve_tracking_uri(config.tracking_uri, config.storage_path)
    check_store(uri)
    _keep_settings(config)
    print("vgg_dist.tune: starting Ray", flush=True)
    start_ray()
    logging.getLogger("ray.tune").setLevel(logging.WARNING)
    workers = config.num_workers or 1
    at_once = min(config.trials_at_once or groups_at_once(workers), config.num_trials())
    resources = worker_resources(workers * at_once)[:workers]
    tags = {"mlflow.source.name": "vgg_dist.tune", "arch": config.arch}
    run = open_run(uri, config.experiment, config.storage_path, config.name or "", config.to_dict(), tags)
    status = "FAILED"
    try:
        found = _tuner(config, run, resources, at_once).fit()
        if found.num_terminated + found.num_errors < config.num_trials():  # Ray Tune ends so at Ctrl-C
            raise TrainingError(f"interrupted; --name {config.name} goes on with it")
        trials = sorted((_trial(config, result) for result in found), key=lambda trial: trial.error)
        if math.isinf(trials[0].error):
            raise TrainingError(f"no trial came to a result: {'; '.join(sorted({trial.ended for trial in trials}))}")
        status = "FINISHED"
    finally:
        finish_run(run, status)
    return SearchResult(run, trials)


def _keep_settings(config: TuneConfig) -> None:
    """ValueError where the folder holds another search."""
    file = beside(config.folder, SETTINGS)
    settings = json.loads(json.dumps(config.to_dict()))
    content = read_file(file)
    earlier = settings if content is None else json.loads(content)
    fixed = settings.keys() - {"storage_path", "tracking_uri", "experiment", "trials_at_once", "num_workers", "max_failures"}
    if changed := sorted(name for name in fixed if earlier.get(name) != settings[name]):
        name = changed[0]
        raise ValueError(
            f"--name {config.name}: is a search with {name} {earlier.get(name)}, not {settings[name]};"
            " give the same settings, or another --name"
        )
    replace_file(file, json.dumps(settings, indent=1).encode())


def _tuner(config: TuneConfig, run: TrackedRun, resources: list[dict[str, float]], at_once: int) -> Tuner:
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, search=config, parent=run, resources=resources), {"memory": DRIVER_MEMORY}
    )
    space = {name: _domain(values) for name, values in config.space().items()}
    scheduler = _scheduler(config)
    run_config = RunConfig(
        name="tune",
        storage_path=config.folder,
        # A trial is started again where its driver was lost with a node; what it finds wrong itself it reports.
        failure_config=FailureConfig(max_failures=config.max_failures),
        callbacks=[SearchProgress(config, run, scheduler), JsonLoggerCallback()],
        verbose=0,
    )
    state = beside(config.folder, "tune")
    if Tuner.can_restore(state):
        return Tuner.restore(state, trainable, resume_unfinished=True, restart_errored=True, param_space=space)
    points = grid_points(config) if config.search == "grid" else None
    algorithm: Searcher | BasicVariantGenerator = BasicVariantGenerator(
        points_to_evaluate=points, max_concurrent=at_once, random_state=config.seed
    )
    if config.search == "bayesian":
        optuna = OptunaSearch(metric=config.metric, mode="min", seed=config.seed)
        algorithm = ConcurrencyLimiter(optuna, max_concurrent=at_once)
    tune_config = tune.TuneConfig(
        metric=config.metric,
        mode="min",
        search_alg=algorithm,
        scheduler=scheduler,
        num_samples=config.num_trials(),
    )
    return Tuner(trainable, param_space=space, tune_config=tune_config, run_config=run_config)


def _domain(values: Range | Choices) -> Any:
    if isinstance(values, Range):
        return (tune.loguniform if values.log else tune.uniform)(values.low, values.high)
    return tune.choice(list(values.values))


def grid_points(config: TuneConfig) -> list[dict[str, Any]]:
    """Every combination, in an order drawn from the seed.

    Of a grid in its own order the first are neighbours, all good or all bad: early stopping would compare them with each
    other only, and end the best trials but one before anything else was tried.
    """
    points = config.combinations()
    random.Random(config.seed).shuffle(points)
    return points


def _scheduler(config: TuneConfig) -> TrialScheduler:
    if config.early_stopping == "asha":
        # One more than there are: what comes to its end by itself is not to be killed there.
        return ASHAScheduler(time_attr="epoch", max_t=config.epochs + 1, grace_period=config.grace_epochs)
    if config.early_stopping == "median":
        return MedianStoppingRule(time_attr="epoch", grace_period=config.grace_epochs)
    return FIFOScheduler()


class SearchProgress(Callback):
    """In the search's own process: a line for each validation and for each trial's end.

    After an interruption it tells the scheduler again what every trial has reported, which Ray Tune does not: the trials
    that are left would be compared with each other only.
    """

    def __init__(self, config: TuneConfig, run: TrackedRun, scheduler: TrialScheduler) -> None:
        self.config = config
        self.run = run
        self.scheduler = scheduler
        self.best = math.inf
        self.results: list[tuple[str, dict[str, Any]]] = []
        self.untold: list[tuple[str, dict[str, Any]]] = []

    def get_state(self) -> dict[str, Any]:
        """What Ray Tune keeps with its own state."""
        return {"best": self.best, "results": self.results}

    def set_state(self, state: dict[str, Any]) -> None:
        """Called before the trials are there."""
        self.best = state["best"]
        self.results = state["results"]
        self.untold = list(self.results)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """The first time after an interruption: the scheduler's memory."""
        known = {trial.trial_id: trial for trial in trials}
        for trial_id, result in self.untold:
            if trial_id in known:
                self.scheduler.on_trial_result(None, known[trial_id], result)
        self.untold = []

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A validation, or what a trial returned at its end."""
        self.results.append((trial.trial_id, {name: result[name] for name in ("epoch", self.config.metric)}))
        if not result["ended"]:
            self.best = min(self.best, result[self.config.metric])
            self._say(
                trial,
                f"epoch {result['epoch']:g}/{self.config.epochs}  {self.config.metric} {result[self.config.metric]:.4g}"
                f"  (best so far {self.best:.4g})",
            )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial came to its end, or the scheduler stopped it."""
        result = trial.last_result
        ended = result.get("ended") or f"stopped early at epoch {result.get('epoch', 0):g}"
        if ended != "finished" and not ended.startswith("failed"):
            finish_run(open_training(self._training(trial), self.run), "KILLED", ended)
        done = sum(other is trial or other.is_finished() for other in trials)
        self._say(trial, f"{ended}; {done} of {self.config.num_trials()} trials done")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial whose process was lost too often."""
        finish_run(open_training(self._training(trial), self.run), "FAILED", "its process was lost")
        self._say(trial, "failed: its process was lost")

    def _training(self, trial: Any) -> TrainConfig:
        return replace(self.config.trial(trial.config, trial.trial_id), tracking_uri=self.run.tracking_uri)

    def _say(self, trial: Any, what: str) -> None:
        print(f"trial {self._training(trial).name}: {what}", flush=True)


def _trial(config: TuneConfig, result: Any) -> Trial:
    """How a trial ended."""
    last = result.metrics or {}
    history = result.metrics_dataframe
    error = math.inf
    epochs = 0.0
    if history is not None and config.metric in history:
        validations = history[history["ended"].fillna("") == ""]
        error = float(validations[config.metric].min()) if len(validations) else last[config.metric]
        epochs = float(validations["epoch"].max()) if len(validations) else 0.0
    ended = last.get("ended") or (f"failed: {result.error}" if result.error else "stopped early")
    if ended.startswith("failed"):
        error = math.inf
    return Trial(config.trial(result.config, last.get("trial_id", "")), error, epochs, ended)
