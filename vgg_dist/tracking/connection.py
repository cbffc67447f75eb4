"""Connects to MLflow: a server, or an sqlite database that mlflow opens itself."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipelines.paths import absolute, is_remote
from pipelines.secrets import masked
from vgg_dist.proxies import bypass_proxies, describe_proxy
from vgg_dist.storage import check_writable

if TYPE_CHECKING:
    from mlflow import MlflowClient

_logger = logging.getLogger(__name__)

# Limits of MLflow's API.
METRICS_A_REQUEST, PARAMS_A_REQUEST, PARAM_LENGTH = 1000, 100, 6000
# mlflow's defaults, seven retries of 120 s, would delay a start for minutes; the outbox retries instead. Variables that the
# user has set are kept.
CONNECT_S = 5.0
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # they would go into logs too
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # else two lines at the end of each trial
}


class TrackingError(ValueError):
    """MLflow cannot be used; the message is one line that names --tracking-uri."""


def resolve_tracking_uri(tracking_uri: str | None, storage_path: str) -> str:
    """A URI that names the same store in every process: http(s), or sqlite with an absolute path.

    None stands for the environment's MLFLOW_TRACKING_URI, or if that is not set for mlflow.db in `storage_path`, or in the
    current folder if `storage_path` is a URL. TrackingError for any other kind of URI.
    """
    tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not tracking_uri:
        folder = Path.cwd() if is_remote(storage_path) else Path(absolute(storage_path))
        return f"sqlite:///{folder / 'mlflow.db'}"
    with contextlib.suppress(ValueError):  # an invalid port
        parts = urlsplit(tracking_uri)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return tracking_uri.rstrip("/")
    path = tracking_uri.removeprefix("sqlite:///")
    if path in ("", tracking_uri):
        allowed = "http://HOST:PORT, https://HOST or sqlite:///FILE"
        raise TrackingError(f"--tracking-uri {masked(tracking_uri)}: must be {allowed}")
    return f"sqlite:///{Path(path).absolute()}"


def database(tracking_uri: str) -> Path | None:
    """The file of an sqlite database; None for a server."""
    return Path(tracking_uri.removeprefix("sqlite:///")) if tracking_uri.startswith("sqlite:") else None


def connect(tracking_uri: str) -> MlflowClient:
    """A client whose requests succeed or fail within seconds. Requests to a server on this machine bypass proxies."""
    bypass_proxies()
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    for logger in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # pages of SQL; the errors are raised as well
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri, registry_uri=tracking_uri)


def prepare_database(path: Path) -> None:
    """Creates a missing database atomically; fails at once for a file that is not a writable database.

    mlflow creates its tables by migrations that take seconds, and never accepts a database that was killed within them. And
    it retries for an hour to open a file that cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            connect(f"sqlite:///{unfinished}").search_experiments(max_results=1)
            with contextlib.suppress(FileExistsError):  # another process created it first: use that one
                os.link(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as opened:
        opened.execute("BEGIN IMMEDIATE").execute("SELECT count(*) FROM sqlite_master")
        opened.rollback()


def check_store(tracking_uri: str, make: bool = True) -> None:
    """TrackingError, within seconds, if the server or database cannot be used. `make`: create a missing database."""
    with tracking_errors(tracking_uri):
        if file := database(tracking_uri):
            if make or file.exists():
                prepare_database(file)
            else:
                check_writable(str(file.parent))
        else:
            _reach(tracking_uri)
            connect(tracking_uri).search_experiments(max_results=1)


def _reach(url: str) -> None:
    """OSError if nothing listens at the server's address. Checked first, because importing mlflow takes seconds."""
    bypass_proxies()
    if describe_proxy(url):
        return
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    socket.create_connection((str(parts.hostname), port), timeout=CONNECT_S).close()


def await_store(tracking_uri: str, wait_s: float) -> None:
    """Returns as soon as the server or database answers; TrackingError if it does not within `wait_s` seconds."""
    end = time.monotonic() + wait_s
    waiting = False
    while True:
        try:
            return check_store(tracking_uri)
        except TrackingError as error:
            if time.monotonic() > end:
                raise
            if not waiting:
                _logger.warning("%s; waiting for it, %.0f minutes at most", error, wait_s / 60)
            waiting = True
            time.sleep(min(5.0, wait_s / 10))


def find_or_create_experiment(client: MlflowClient, tracking_uri: str, name: str) -> str:
    """The experiment's id. For a database, a new experiment stores artifacts beside it, not in mlflow's default ./mlruns."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        file = database(tracking_uri)
        artifacts = (file.parent / "mlartifacts").as_uri() if file else None
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except MlflowException:  # another process created it meanwhile
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise ValueError(f"--experiment {name!r} is deleted there: restore it or choose another name")
    return found.experiment_id


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in slices of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


def reason(error: BaseException) -> str:
    """The first line of an error's root cause, at most 200 characters, such as "Connection refused"; secrets masked."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    lines = masked(str(error)).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@contextlib.contextmanager
def tracking_errors(tracking_uri: str) -> Iterator[None]:
    """Turns any error of mlflow, requests, sqlalchemy or sqlite3 into a TrackingError."""
    try:
        yield
    except Exception as error:
        proxy = "" if database(tracking_uri) else describe_proxy(tracking_uri)
        raise TrackingError(f"--tracking-uri {masked(tracking_uri)}: {reason(error)}{proxy}") from error


@contextlib.contextmanager
def warn_on_failure(what: str) -> Iterator[None]:
    """Logs any error as a warning that begins with `what`: a training must not fail because of MLflow."""
    try:
        yield
    except Exception as error:
        _logger.warning("%s: %s", masked(what), reason(error))
