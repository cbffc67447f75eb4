"""The MLflow run of a training: opened before the trainer starts, finished with learning curves and a status.

A training is matched to its MLflow run by a random token in its folder. So removing the folder starts a new run, and two
machines that use the same path do not share one.
"""

from __future__ import annotations

import contextlib
import getpass
import shlex
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.paths import absolute, join, last_part
from pipelines.secrets import masked
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.storage import read_file, replace_file
from vgg_dist.tracking.code_version import code_version
from vgg_dist.tracking.connection import (
    METRICS_A_REQUEST,
    PARAM_LENGTH,
    PARAMS_A_REQUEST,
    batches,
    check_store,
    connect,
    database,
    find_or_create_experiment,
    reason,
    tracking_errors,
    warn_on_failure,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TOKEN_TAG = "vgg_dist.training"
NOTE_TAG = "vgg_dist.note"
RESUMED = "resumed."  # prefix of the tag with a param's or tag's value at a later start, if it changed


@dataclass(frozen=True)
class TrackedRun:
    """A run in MLflow. `folder`: path or URL of the training's folder; `start_time`: seconds since the Unix epoch."""

    tracking_uri: str
    experiment_id: str
    run_id: str
    start_time: float
    folder: str


def open_run(
    tracking_uri: str,
    experiment: str,
    storage_path: str,
    name: str,
    params: Mapping[str, object],
    tags: Mapping[str, str] | None = None,
    parent: TrackedRun | None = None,
) -> TrackedRun:
    """Finds or creates the MLflow run of the training in `storage_path/name`, and sets its status to RUNNING.

    `parent`: the run under which it is nested. Params and tags keep their first value; one that changed since is noted in
    the tag `resumed.<name>`. Secrets in URLs are masked. The note on how the run ended before is removed. TrackingError,
    within seconds, if the server or database refuses; ValueError if the storage does.
    """
    folder = join(absolute(storage_path), name)
    check_store(tracking_uri)
    with tracking_errors(tracking_uri):
        client = connect(tracking_uri)
        experiment_id = find_or_create_experiment(client, tracking_uri, experiment)
    token = _training_token(folder)  # after the server has answered, so that a refused start leaves no folder
    with tracking_errors(tracking_uri):
        all_tags = {**_source_tags(), **(tags or {}), TOKEN_TAG: token}
        if parent is not None:
            all_tags |= {"mlflow.parentRunId": parent.run_id, "parent": last_part(parent.folder)}
        found = client.search_runs([experiment_id], f"tags.`{TOKEN_TAG}` = '{token}'", max_results=1)
        run = found[0] if found else client.create_run(experiment_id, tags=all_tags, run_name=name)
        _log_constants(client, run, params, all_tags)
        if NOTE_TAG in run.data.tags:
            client.delete_tag(run.info.run_id, NOTE_TAG)
        client.update_run(run.info.run_id, status="RUNNING")
    return TrackedRun(tracking_uri, experiment_id, run.info.run_id, run.info.start_time / 1000, folder)


def finish_run(run: TrackedRun, status: str, note: str = "", quick: bool = False) -> None:
    """Logs learning_curves.png and sets the status, FINISHED, FAILED or KILLED, with a note why.

    `quick`: without the curves. Failures are logged as warnings.
    """
    if not quick:
        _log_curves(run)
    with warn_on_failure(f"the run's status is not set to {status}"):
        client = connect(run.tracking_uri)
        if note:
            client.set_tag(run.run_id, NOTE_TAG, masked(note))
        client.set_terminated(run.run_id, status)


def _log_curves(run: TrackedRun) -> None:
    with warn_on_failure("the learning curves are not drawn"):
        from vgg_dist.tracking.curves import METRICS, draw_learning_curves  # matplotlib is slow to import

        client = connect(run.tracking_uri)
        seen = client.get_run(run.run_id)
        points = {name: client.get_metric_history(run.run_id, name) for name in METRICS if name in seen.data.metrics}
        if points:
            histories = {name: sorted((point.step, point.value) for point in found) for name, found in points.items()}
            figure = draw_learning_curves(histories, title=seen.info.run_name)
            client.log_figure(run.run_id, figure, "learning_curves.png", save_kwargs={"dpi": 150})


def log_report(run: TrackedRun, metrics: Mapping[str, float], files: Mapping[str, str | bytes]) -> None:
    """Logs metrics at step 0, and files by name, replacing earlier ones. Failures are logged as warnings."""
    with warn_on_failure(f"the report is not logged in MLflow, it is in {run.folder}"):
        from mlflow.entities import Metric

        client, now = connect(run.tracking_uri), round(1000 * time.time())
        points = [Metric(name, value, timestamp=now, step=0) for name, value in metrics.items()]
        for request in batches(points, METRICS_A_REQUEST):
            client.log_batch(run.run_id, metrics=request, synchronous=True)
        _log_files(client, run, files)


def log_pictures(run: TrackedRun, files: Mapping[str, str | bytes]) -> bool:
    """Logs files, by names that may have folders, below the artifact folder "pictures"; returns whether that worked.

    A failure is logged as a warning.
    """
    with warn_on_failure("the pictures are not logged in MLflow"):
        _log_files(connect(run.tracking_uri), run, files, "pictures")
        return True
    return False


def _log_files(client: MlflowClient, run: TrackedRun, files: Mapping[str, str | bytes], below: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        client.log_artifacts(run.run_id, folder, below)


def find_run(tracking_uri: str, experiment: str, folder: str) -> TrackedRun | None:
    """The MLflow run of the training in `folder`, a path or URL; None if it has none there. TrackingError as `open_run`."""
    token = (read_file(RunFolder(folder).mlflow_token) or b"").decode("ascii", "replace").strip()
    if not token.isalnum():
        return None
    check_store(tracking_uri, make=False)
    with tracking_errors(tracking_uri):
        client = connect(tracking_uri)
        of_name = client.get_experiment_by_name(experiment)
        if of_name is None:
            return None
        found = client.search_runs([of_name.experiment_id], f"tags.`{TOKEN_TAG}` = '{token}'", max_results=1)
    if not found:
        return None
    info = found[0].info
    return TrackedRun(tracking_uri, of_name.experiment_id, info.run_id, info.start_time / 1000, folder)


CURVES = "model-metrics"


def ui_hint(run: TrackedRun, tab: str = CURVES) -> str:
    """For people: the run's address in MLflow's UI, and for a database the command that serves it.

    `tab`: of the run's page. Without the workflow type MLflow shows its pages for language models, which have no curves;
    with its job execution turned off, which only those need, the server starts in seconds.
    """
    page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}/{tab}?workflowType=machine_learning"
    if database(run.tracking_uri) is None:
        return f"MLflow: {masked(run.tracking_uri)}/{page}"
    mlflow = "mlflow" if shutil.which("mlflow") else shlex.quote(str(Path(sys.executable).with_name("mlflow")))
    serve = f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {mlflow} ui --backend-store-uri {shlex.quote(run.tracking_uri)}"
    return f"MLflow: {serve}\nthen open http://127.0.0.1:5000/{page}"


def _training_token(folder: str) -> str:
    """The random token of the training in `folder`, created at its first start."""
    file = RunFolder(folder).mlflow_token
    try:
        token = (read_file(file) or b"").decode("ascii", "replace").strip()
        if not token.isalnum():
            token = uuid.uuid4().hex
            replace_file(file, token.encode())
    except (OSError, ValueError) as error:
        raise ValueError(f"--storage-path: cannot write {masked(file)}: {reason(error)}") from error
    return token


def _source_tags() -> dict[str, str]:
    tags = {"mlflow.source.name": "vgg_dist.train", "mlflow.source.type": "LOCAL", **code_version()}
    with contextlib.suppress(KeyError, OSError):  # users without a name, in containers
        tags["mlflow.user"] = getpass.getuser()
    return tags


def _log_constants(client: MlflowClient, run: Run, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
    """Logs the params and tags that `run` lacks, and notes those that differ in tags, as a param in MLflow cannot change.

    Passwords and keys in URLs are masked, because people who may see the runs may not see those.
    """
    from mlflow.entities import Param, RunTag

    texts = {name: str(masked(value))[:PARAM_LENGTH] for name, value in params.items()}
    tags = masked(dict(tags))
    new_params = [Param(name, text) for name, text in texts.items() if name not in run.data.params]
    new_tags = {name: text for name, text in tags.items() if name not in run.data.tags}
    logged = {**texts, **tags, **run.data.params, **run.data.tags}
    for name, text in {**texts, **tags}.items():
        if masked(logged.get(f"{RESUMED}{name}", logged[name])) != text:
            new_tags[f"{RESUMED}{name}"] = text
    for request in batches(new_params, PARAMS_A_REQUEST):
        client.log_batch(run.info.run_id, params=request, synchronous=True)
    for request in batches([RunTag(name, text) for name, text in new_tags.items()], PARAMS_A_REQUEST):
        client.log_batch(run.info.run_id, tags=request, synchronous=True)
