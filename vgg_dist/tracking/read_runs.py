"""Reads trainings back from MLflow, for comparisons."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipelines.secrets import masked
from vgg_dist.metric_names import EPOCH, VAL_LOSS, VAL_TOP1_ERROR, VAL_TOP5_ERROR
from vgg_dist.tracking.connection import connect, database, tracking_errors
from vgg_dist.tracking.run import NOTE_TAG, RESUMED, TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

VALIDATION = VAL_TOP1_ERROR, VAL_TOP5_ERROR, VAL_LOSS


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
    validations: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """For each metric in VALIDATION its (epoch, value) pairs, in order."""


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


def _record(client: MlflowClient, run: Run) -> RunRecord:
    info, data = run.info, run.data
    latest = {metric.key: metric for metric in data.to_proto().metrics}
    epochs = latest.get(EPOCH)
    per_step = epochs.value / epochs.step if epochs is not None and epochs.step else 1.0
    validations = {}
    for name in VALIDATION:
        if name in latest:
            points = sorted({(point.step, point.value) for point in client.get_metric_history(info.run_id, name)})
            validations[name] = [(step * per_step, value) for step, value in points]
    return RunRecord(
        run_id=info.run_id,
        name=info.run_name,
        status=info.status,
        note=data.tags.get(NOTE_TAG, ""),
        seconds=(info.end_time - info.start_time) / 1000 if info.end_time else None,
        settings=_settings(data.params, data.tags),
        metrics=dict(data.metrics),
        validations=validations,
    )


def _settings(params: dict[str, str], tags: dict[str, str]) -> dict[str, str]:
    params, tags = masked((params, tags))  # earlier versions logged secrets
    settings = params | {name: tags[name] for name in ("arch", "train_scale", "init") if name in tags}
    for name, value in settings.items():
        if (later := tags.get(f"{RESUMED}{name}")) is not None:
            settings[name] = f"{value}, then {later}"
    return settings
