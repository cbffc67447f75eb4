"""Runs a search with Ray Tune. Each trial is a training run (`launch.driver.run_training`) of one or several workers.

Each segment between rungs is one Ray Tune trial, called a leg (see `asha`). The driver process of a leg only waits for Ray
Train, so it reserves no CPU, and cannot keep workers from starting. As many legs run at once as the cluster has room for.
The search's folder holds the trials' runs, and the state from which Ray Tune resumes.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

# Ray Tune's own output (a box at the start), its files for TensorBoard and others, and its handler of Ctrl-C.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")

from ray import tune
from ray.tune import FailureConfig, RunConfig, Tuner
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import FIFOScheduler, MedianStoppingRule, TrialScheduler

from pipelines import signals
from pipelines.paths import join
from vgg_dist.config import TrainSettings, TuneConfig
from vgg_dist.config.worker_range import fixed_workers
from vgg_dist.errors import Interrupted, TrainingError
from vgg_dist.launch.driver import DRIVER_MEMORY
from vgg_dist.launch.follow import FROM_LAST, resumes
from vgg_dist.launch.terminal import shown_lines
from vgg_dist.preflight import check_search
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.ray_cluster.lost_ray import watched_cluster
from vgg_dist.ray_cluster.nodes import describe_workers, max_concurrent_groups, worker_resources
from vgg_dist.ray_cluster.start import start_ray
from vgg_dist.run_folder.settings import SEARCH, keep_settings
from vgg_dist.tracking import TrackedRun, finish_run, open_run, recorded, resolve_tracking_uri
from vgg_dist.tuning.asha import SuccessiveHalving
from vgg_dist.tuning.earlier_versions import find_moved_modules
from vgg_dist.tuning.progress import SearchProgress
from vgg_dist.tuning.trial import run_leg


@dataclass(frozen=True)
class Trial:
    """A trial after the search."""

    config: TrainSettings
    error: float
    """The smallest value of the metric over its epochs; infinite without a validation."""
    epochs: float
    ended: str
    """finished, stopped early, or failed: REASON."""


@dataclass(frozen=True)
class SearchResult:
    """All trials, the best first, and the MLflow run that they are nested in."""

    run: TrackedRun
    trials: list[Trial]


def run_search(config: TuneConfig) -> SearchResult:
    """Runs or resumes a search to its end; `config` is resolved.

    ValueError for settings, data or a cluster that cannot be used; TrainingError where no trial has a result; Interrupted,
    by a signal, once all trials have stopped.
    """
    check_search(config)
    uri = resolve_tracking_uri(config.tracking_uri, config.storage_path)
    print("vgg_dist.tune: starting Ray", flush=True)
    start_ray()
    logging.getLogger("ray.tune").setLevel(logging.WARNING)
    workers = fixed_workers(config.num_workers) or 1
    at_once = min(config.max_concurrent_trials or max_concurrent_groups(workers), config.num_trials())
    resources = worker_resources(workers * at_once)[:workers]
    keep_settings(config.folder, config, SEARCH)
    several = "s" * (at_once > 1)
    print(f"vgg_dist.tune: {at_once} trial{several} at once, on {describe_workers(resources)} each", flush=True)
    tags = {"mlflow.source.name": "vgg_dist.tune", "arch": config.arch}
    with signals.holding():
        run = open_run(uri, config.experiment, config.storage_path, str(config.name), config.to_dict(), tags)
        with recorded(run):
            with watched_cluster("vgg_dist.tune", partial(finish_run, run, "FAILED")), shown_lines(JobMessages()):
                found = _tuner(config, run, resources, at_once).fit()
            if signum := signals.caught():
                raise Interrupted(signals.name_of(signum), f"; {resumes(config.name)}, each trial{FROM_LAST}")
            trials = sorted(_trials(config, found), key=lambda trial: trial.error)
            if not trials or math.isinf(trials[0].error):
                ended = {trial.ended for trial in trials} or {f"failed: {leg.error}" for leg in found}
                raise TrainingError(f"no trial has a result: {'; '.join(sorted(ended))}")
    return SearchResult(run, trials)


def _tuner(config: TuneConfig, run: TrackedRun, resources: list[dict[str, float]], at_once: int) -> Tuner:
    trainable = tune.with_resources(
        tune.with_parameters(run_leg, search=config, parent=run, resources=resources), {"memory": DRIVER_MEMORY}
    )
    SuccessiveHalving.at_once = at_once
    SearchProgress.config, SearchProgress.run = config, run
    state = join(config.folder, "tune")
    if Tuner.can_restore(state):
        find_moved_modules()
        return Tuner.restore(state, trainable, resume_unfinished=True, restart_errored=True)
    scheduler = _scheduler(config)
    run_config = RunConfig(
        name="tune",
        storage_path=config.folder,
        # Retries of a leg whose driver was lost with its node. Failures of the training itself are in the leg's result.
        failure_config=FailureConfig(max_failures=config.max_failures),
        callbacks=[SearchProgress(scheduler), JsonLoggerCallback()],
        verbose=0,
    )
    legs = SuccessiveHalving(TuneConfig.from_dict(config.to_dict()))  # Ray Tune saves it: without the secrets of URLs
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
    # While there are too few trials to compare with, a trial trains on; by default the rule would pause it for others.
    return MedianStoppingRule(time_attr="epoch", grace_period=config.grace_epochs, min_time_slice=math.inf)


def _trials(config: TuneConfig, legs: Iterable[Any]) -> list[Trial]:
    """The trials, each put together from its legs, without those that were lost before their first result."""
    found: dict[int, Trial] = {}
    for leg in sorted((leg for leg in legs if leg.config), key=lambda leg: leg.config["until"]):
        number, last, rows = leg.config["number"], leg.metrics or {}, leg.metrics_dataframe
        ended = last.get("ended") or (f"failed: {leg.error}" if leg.error else "stopped early")
        trial = found.get(number) or Trial(config.trial(leg.config["values"], number), math.inf, 0.0, "")
        error, epochs = trial.error, trial.epochs
        if rows is not None and config.metric in rows:
            validations = rows[rows["ended"].fillna("") == ""]
            if validations.empty and ended in ("waits", "finished"):  # nothing was left to train
                validations = rows
            error, epochs = min([error, *validations[config.metric]]), max([epochs, *validations["epoch"]])
        if ended.startswith("failed"):
            error = math.inf
        found[number] = Trial(trial.config, error, epochs, "stopped early" if ended == "waits" else ended)
    return list(found.values())
