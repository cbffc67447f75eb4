"""The MLflow run of a training: opened before the trainer starts, finished with its learning curves and a status.

A training is known again by a random token in its folder, `storage_path/name`: removing the folder starts a new run,
and two folders of the same path on two machines do not meet on one server.
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
    check_store,
    connect,
    database,
    find_or_create_experiment,
    reason,
    split,
    tracking_errors,
    warned,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TOKEN_TAG = "vgg_dist.training"
NOTE_TAG = "vgg_dist.note"
RESUMED = "resumed."  # before the name of a param or tag that was another at a later start


@dataclass(frozen=True)
class TrackedRun:
    """A run in MLflow. `folder`: the training's own folder, a path or URL; `start_time`: seconds since the epoch."""

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
    """The run of the training in `storage_path/name`: found again, or new; its status is then RUNNING.

    `parent` is the run that this one is shown under. Params and tags stay as first logged; a value that changed since is
    noted in the tag `resumed.<name>`. Secrets in URLs are masked. The note on how it ended before is taken off.
    TrackingError, within seconds, where the server or database refuses; ValueError where the storage does.
    """
    folder = join(absolute(storage_path), name)
    check_store(tracking_uri)
    with tracking_errors(tracking_uri):
        client = connect(tracking_uri)
        experiment_id = find_or_create_experiment(client, tracking_uri, experiment)
    token = _training_token(folder)  # after the first contact: a refused start leaves no folder behind
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
    """Log the learning curves as learning_curves.png and set the status: FINISHED, FAILED or KILLED, with a note on it.

    What a gone server refuses is a logged warning. `quick`: without the curves.
    """
    if not quick:
        _log_curves(run)
    with warned(f"the run's status is not set to {status}"):
        client = connect(run.tracking_uri)
        if note:
            client.set_tag(run.run_id, NOTE_TAG, masked(note))
        client.set_terminated(run.run_id, status)


def _log_curves(run: TrackedRun) -> None:
    with warned("the learning curves are not drawn"):
        from vgg_dist.tracking.curves import METRICS, draw_learning_curves  # in here: matplotlib is slow to import

        client = connect(run.tracking_uri)
        seen = client.get_run(run.run_id)
        points = {name: client.get_metric_history(run.run_id, name) for name in METRICS if name in seen.data.metrics}
        if points:
            histories = {name: sorted((point.step, point.value) for point in found) for name, found in points.items()}
            figure = draw_learning_curves(histories, title=seen.info.run_name)
            client.log_figure(run.run_id, figure, "learning_curves.png", save_kwargs={"dpi": 150})


def log_report(run: TrackedRun, metrics: Mapping[str, float], files: Mapping[str, str | bytes]) -> None:
    """Metrics without a course over steps, and files by name, in place of earlier ones.

    What a gone server refuses is a logged warning.
    """
    with warned(f"the report is not logged in MLflow, it is in {run.folder}"):
        from mlflow.entities import Metric

        client, now = connect(run.tracking_uri), round(1000 * time.time())
        points = [Metric(name, value, timestamp=now, step=0) for name, value in metrics.items()]
        for request in split(points, METRICS_A_REQUEST):
            client.log_batch(run.run_id, metrics=request, synchronous=True)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                file = Path(folder, name)
                file.write_bytes(content.encode() if isinstance(content, str) else content)
                client.log_artifact(run.run_id, str(file))


CURVES = "model-metrics"


def ui_hint(run: TrackedRun, tab: str = CURVES) -> str:
    """Where a person finds the run in MLflow's UI: the address, and for a database the command that serves it.

    `tab`: of the run's page. Without the workflow type MLflow shows what it has for language models, and no curves; without
    its job execution, which is for those, its server starts in seconds.
    """
    page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}/{tab}?workflowType=machine_learning"
    if database(run.tracking_uri) is None:
        return f"MLflow: {masked(run.tracking_uri)}/{page}"
    mlflow = "mlflow" if shutil.which("mlflow") else shlex.quote(str(Path(sys.executable).with_name("mlflow")))
    serve = f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {mlflow} ui --backend-store-uri {shlex.quote(run.tracking_uri)}"
    return f"MLflow: {serve}\nthen open http://127.0.0.1:5000/{page}"


def _training_token(folder: str) -> str:
    """The random name of the training in `folder`, made at its first start."""
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
    with contextlib.suppress(KeyError, OSError):  # containers run users without a name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def _log_constants(client: MlflowClient, run: Run, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
    """Log the params and tags that `run` lacks, and note those that differ: MLflow refuses a param that changes.

    Passwords and keys in URLs are masked: whoever may look at the runs may not see them.
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
    for request in split(new_params, PARAMS_A_REQUEST):
        client.log_batch(run.info.run_id, params=request, synchronous=True)
    for request in split([RunTag(name, text) for name, text in new_tags.items()], PARAMS_A_REQUEST):
        client.log_batch(run.info.run_id, tags=request, synchronous=True)
