"""Trainings read back from MLflow, to be compared: their settings and validations, and the curves of some of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipelines.secrets import masked
from vgg_dist.metric_names import (
    DATA_WAIT_SHARE,
    EPOCH,
    IMAGES_PER_SECOND,
    LR,
    TRAIN_LOSS,
    VAL_LOSS,
    VAL_TOP1_ERROR,
    VAL_TOP5_ERROR,
)
from vgg_dist.tracking.connection import connect, database, tracking_errors
from vgg_dist.tracking.run import NOTE_TAG, RESUMED, TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

VALIDATION = VAL_TOP1_ERROR, VAL_TOP5_ERROR, VAL_LOSS
TRAINING = TRAIN_LOSS, LR, IMAGES_PER_SECOND, DATA_WAIT_SHARE
STEPPED = {LR}  # constant between changes
POINTS = 250  # of a curve at most, from however many were logged

Histories = dict[str, list[tuple[float, float]]]
"""(epoch, value) of each metric, in order."""


@dataclass(frozen=True)
class RunRecord:
    """A training as recorded in MLflow."""

    run_id: str
    name: str
    status: str
    """RUNNING, FINISHED, FAILED or KILLED."""
    note: str
    """Why it ended, if it did not finish; else empty."""
    seconds: float | None
    """From start to end; None while it runs."""
    settings: dict[str, str]
    """Its params, the tags arch, train_scale and init replacing theirs; one that a resume changed reads "0.1, then 0.01"."""
    metrics: dict[str, float]
    """The last value of each metric."""
    validations: Histories = field(default_factory=dict)
    """For each metric in VALIDATION that was logged."""


def read_runs(tracking_uri: str, experiment: str, parent: TrackedRun | None = None) -> list[RunRecord]:
    """The trainings of an experiment, or those nested in `parent`, in the order they were started.

    TrackingError if the store does not answer; ValueError, one line, for an unknown experiment.
    """
    file = database(tracking_uri)
    if file is not None and not file.exists():
        raise ValueError(f"--tracking-uri {masked(tracking_uri)}: there is no such database")
    with tracking_errors(tracking_uri):
        client = connect(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        names = [] if found else [other.name for other in client.search_experiments(max_results=20)]
    if found is None:
        raise ValueError(f"--experiment {experiment}: there is none of that name; there are {', '.join(sorted(names))}")
    with tracking_errors(tracking_uri):
        wanted = "tags.`mlflow.source.name` = 'vgg_dist.train'"
        if parent is not None:
            wanted += f" and tags.`mlflow.parentRunId` = '{parent.run_id}'"
        runs: list[Run] = []
        token: str | None = None
        while True:
            page = client.search_runs([found.experiment_id], wanted, order_by=["start_time"], page_token=token)
            runs += page
            if not (token := page.token):
                break
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda run: _record(client, run), runs))


def read_histories(tracking_uri: str, run_ids: Sequence[str]) -> dict[str, Histories]:
    """By run id, each of TRAINING that was logged, as at most POINTS points.

    The whole history of each is fetched, so ask for the runs that are to be shown only. TrackingError where the store does
    not answer.
    """

    def read(run_id: str) -> Histories:
        found = _histories(client, client.get_run(run_id), TRAINING)
        return {name: thinned(points, name in STEPPED) for name, points in found.items()}

    with tracking_errors(tracking_uri):
        client = connect(tracking_uri)
        with ThreadPoolExecutor(4) as pool:
            return dict(zip(run_ids, pool.map(read, run_ids), strict=True))


def thinned(points: Sequence[tuple[float, float]], stepped: bool = False) -> list[tuple[float, float]]:
    """At most POINTS: the means of neighbours, or of a `stepped` curve those with a change. Not finite: left out."""
    found = np.array(points, dtype=np.float64).reshape(-1, 2)
    found = found[np.isfinite(found).all(axis=1)]
    if stepped and len(found) > 1:
        changed = np.flatnonzero(np.diff(found[:, 1])) + 1
        found = found[np.unique([0, *changed, len(found) - 1])]
        if len(found) > POINTS:
            found = found[np.linspace(0, len(found) - 1, POINTS).round().astype(int)]
    elif len(found) > POINTS:
        found = np.array([part.mean(axis=0) for part in np.array_split(found, POINTS)])
    return [(epoch, value) for epoch, value in found.tolist()]


def _histories(client: MlflowClient, run: Run, names: Iterable[str]) -> Histories:
    """Steps become epochs; a point that was logged twice, by a resumed training, counts once."""
    latest = {metric.key: metric for metric in run.data.to_proto().metrics}
    epochs = latest.get(EPOCH)
    per_step = epochs.value / epochs.step if epochs is not None and epochs.step else 1.0
    found = {}
    for name in names:
        if name in latest:
            points = sorted({(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)})
            found[name] = [(step * per_step, value) for step, value in points]
    return found


def _record(client: MlflowClient, run: Run) -> RunRecord:
    info, data = run.info, run.data
    return RunRecord(
        run_id=info.run_id,
        name=info.run_name,
        status=info.status,
        note=data.tags.get(NOTE_TAG, ""),
        seconds=(info.end_time - info.start_time) / 1000 if info.end_time else None,
        settings=_settings(data.params, data.tags),
        metrics=dict(data.metrics),
        validations=_histories(client, run, VALIDATION),
    )


def _settings(params: dict[str, str], tags: dict[str, str]) -> dict[str, str]:
    params, tags = masked((params, tags))  # earlier versions logged secrets
    settings = params | {name: tags[name] for name in ("arch", "train_scale", "init") if name in tags}
    for name, value in settings.items():
        if (later := tags.get(f"{RESUMED}{name}")) is not None:
            settings[name] = f"{value}, then {later}"
    return settings
