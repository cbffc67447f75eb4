"""MLflow as the record of a training: a real database, a real server, real kills."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.mlflow_server import PATIENCE_S, Server, wait_for
from torch import nn

from vgg_dist.metric_names import Record
from vgg_dist.tracking import (
    TrackedRun,
    Tracker,
    TrackingError,
    finish_run,
    log_model,
    open_run,
    read_histories,
    read_runs,
    resolve_tracking_uri,
    ui_hint,
)
from vgg_dist.tracking.connection import connect

pytestmark = [
    # mlflow, on a newer sqlalchemy than it was written for; and at its own import.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One storage path, and so one database, for all tests: making one takes seconds."""
    return tmp_path_factory.mktemp("storage of runs")


@pytest.fixture
def start(storage: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrackedRun]:
    """Opens the run of a training that is named as the test."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def start(uri: str | None = None, **params: object) -> TrackedRun:
        uri = uri or resolve_tracking_uri(None, str(storage))
        return open_run(uri, "tests", str(storage), request.node.name, params, tags={"started by": "a test"})

    return start


def measured(step: int) -> Record:
    metrics = {"train/loss": 7 / (step + 1), "train/top1_error": 90 - step, "lr": 0.01}
    if step % 10 == 9:
        metrics |= {"val/loss": 7.5 / (step + 1), "val/top1_error": 92 - step, "val/top5_error": 60 - step / 2}
    return {"step": step, "time": time.time(), "metrics": metrics}


def logged_steps(run: TrackedRun, metric: str = "train/loss") -> list[int]:
    """All of them: MLflow keeps a step twice that was logged twice."""
    return [point.step for point in connect(run.tracking_uri).get_metric_history(run.run_id, metric)]


# --- where runs are kept


@pytest.mark.slow
def test_storage_that_cannot_be_written_is_one_line(start: Callable[..., TrackedRun], storage: Path) -> None:
    (storage / "a file").write_text("")
    with pytest.raises(ValueError, match=r"^--storage-path: cannot write .*/a file/name/mlflow_training.txt: "):
        open_run(start().tracking_uri, "tests", str(storage / "a file"), "name", {})


@pytest.mark.slow
def test_a_deleted_experiment_is_named(start: Callable[..., TrackedRun], storage: Path) -> None:
    uri = start().tracking_uri
    gone = open_run(uri, "gone", str(storage), "in a deleted experiment", {})
    connect(uri).delete_experiment(gone.experiment_id)
    with pytest.raises(TrackingError, match="--experiment 'gone' is deleted"):
        open_run(uri, "gone", str(storage), "in a deleted experiment", {})


@pytest.mark.slow
def test_a_kill_while_the_database_is_made_leaves_none_behind(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = f"from vgg_dist.tracking import open_run; open_run({uri!r}, 'tests', {str(tmp_path)!r}, 'killed', {{}})"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: any(path.stat().st_size > 300_000 for path in tmp_path.glob(".mlflow.db.*[0-9a-f]")))
        process.kill()
    assert not (tmp_path / "mlflow.db").exists()
    assert open_run(uri, "tests", str(tmp_path), "killed", {}).folder == f"{tmp_path}/killed"


# --- one run a training


def test_a_training_started_again_goes_on_in_its_run(start: Callable[..., TrackedRun]) -> None:
    first = start(arch="E", lr=0.01, layers=(64, 128), **{f"flag_{number}": number for number in range(150)})
    connect(first.tracking_uri).set_terminated(first.run_id, "FAILED")
    assert start(arch="E", lr=0.001, epochs=74) == first
    run = connect(first.tracking_uri).get_run(first.run_id)
    assert run.info.status == "RUNNING"
    assert len(run.data.params) == 154
    params, tags = run.data.params, run.data.tags
    assert (params["arch"], params["lr"], params["layers"], params["epochs"]) == ("E", "0.01", "(64, 128)", "74")
    assert {name: value for name, value in tags.items() if name.startswith("resumed.")} == {"resumed.lr": "0.001"}
    assert tags["started by"] == "a test"
    start(arch="E", lr=0.01)
    assert connect(first.tracking_uri).get_run(first.run_id).data.tags["resumed.lr"] == "0.01"


def test_a_training_whose_folder_was_removed_is_a_new_run(start: Callable[..., TrackedRun]) -> None:
    first = start()
    shutil.rmtree(first.folder)
    assert start().run_id != first.run_id


def test_artifacts_lie_beside_the_database(start: Callable[..., TrackedRun], storage: Path) -> None:
    run = start()
    uri = connect(run.tracking_uri).get_run(run.run_id).info.artifact_uri
    assert uri.startswith((storage / "mlartifacts").as_uri())


# --- metrics


def test_no_step_is_logged_twice(start: Callable[..., TrackedRun]) -> None:
    run = start()
    tracker = pickle.loads(pickle.dumps(Tracker(run)))
    tracker.log([measured(step) for step in range(35)])
    assert tracker.close(wait_s=PATIENCE_S) == 0
    again = Tracker(run)  # from a checkpoint at step 20
    for step in range(20, 45):
        again.log([measured(step)])
    assert again.close(wait_s=PATIENCE_S) == 0
    assert logged_steps(run) == list(range(45))
    assert logged_steps(run, "val/loss") == [9, 19, 29, 39]


@pytest.mark.slow
def test_long_records_fit_mlflows_limits(start: Callable[..., TrackedRun]) -> None:
    run, names = start(), [f"per_class/{index}" for index in range(1000)]
    tracker = Tracker(run)
    tracker.log([{"step": step, "time": time.time(), "metrics": dict.fromkeys(names, 0.5)} for step in range(3)])
    assert tracker.close(wait_s=PATIENCE_S) == 0
    assert logged_steps(run, names[0]) == logged_steps(run, names[-1]) == [0, 1, 2]


METRIC = "system/cpu_utilization_percentage"


@pytest.mark.slow
def test_system_metrics_go_on_after_a_restart(start: Callable[..., TrackedRun]) -> None:
    run = start()
    for _ in range(2):
        tracker = Tracker(run)
        for _ in range(3):
            tracker.log_system({METRIC: 50.0})
            time.sleep(0.8)  # a step is a second
        assert tracker.close(wait_s=PATIENCE_S) == 0
    steps = logged_steps(run, METRIC)
    assert len(steps) >= 4
    assert steps == sorted(set(steps))


WRITER = """
import sys, time
from vgg_dist.tracking import Tracker, TrackedRun
uri, experiment, run_id, start_time, folder, checkpoint, steps = sys.argv[1:]
run = TrackedRun(uri, experiment, run_id, float(start_time), folder)
tracker = Tracker(run)
for step in range(int(checkpoint), int(steps)):
    metrics = {"train/loss": 7.0} if step % 10 else {"train/loss": 7.0, "val/loss": 7.5}
    tracker.log([{"step": step, "time": time.time(), "metrics": metrics}])
    if step % 10 == 9:
        tracker.persist()  # and a checkpoint
        print(step + 1, flush=True)
    time.sleep(0.005)
sys.exit(tracker.close(wait_s=200))
"""


@pytest.mark.slow
def test_a_writer_killed_in_mid_run_goes_on_without_gap_or_repetition(start: Callable[..., TrackedRun]) -> None:
    run = start()

    def writer(checkpoint: int, steps: int) -> subprocess.Popen[str]:
        identity = [run.tracking_uri, run.experiment_id, run.run_id, str(run.start_time), run.folder]
        command = [sys.executable, "-c", WRITER, *identity, str(checkpoint), str(steps)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    with writer(checkpoint=0, steps=100_000) as first:
        assert first.stdout
        wait_for(lambda: bool(logged_steps(run)))
        os.kill(first.pid, signal.SIGKILL)
        checkpoint = int(first.stdout.read().split()[-1])
    steps = max(checkpoint, *logged_steps(run)) + 100
    with writer(checkpoint, steps) as second:
        assert second.wait() == 0
    assert logged_steps(run) == list(range(steps))
    assert logged_steps(run, "val/loss") == list(range(0, steps, 10))


@pytest.mark.slow
def test_trainings_are_read_back_by_experiment_and_by_parent(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    parent = open_run(uri, "read", str(tmp_path), "search", {}, {"mlflow.source.name": "vgg_dist.tune"})
    for number, of in enumerate((parent, None)):
        tags = {"train_scale": "36-64", "init": "from A-36"}
        run = open_run(uri, "read", str(tmp_path), f"run{number}", {"arch": "D", "train_scale": (36, 64)}, tags, of)
        tracker = Tracker(run)
        for step in (10, 20, 30):
            errors = {"val/top1_error": 90.0 - step, "val/top5_error": 50.0 - step, "val/loss": 3.0 - step / 100}
            training = {"train/loss": 4.0 - step / 10, "lr": 0.1 if step < 30 else 0.01, "epoch": step / 20}
            tracker.log([{"step": step, "time": time.time(), "metrics": errors | training}])
        assert tracker.close(wait_s=PATIENCE_S) == 0
        finish_run(run, "KILLED", "stopped early")
    runs = read_runs(uri, "read")
    assert [run.name for run in runs] == ["run0", "run1"]
    assert [run.name for run in read_runs(uri, "read", parent)] == ["run0"]
    assert runs[1].settings == {"arch": "D", "train_scale": "36-64", "init": "from A-36"}
    assert runs[1].validations["val/top1_error"] == [(0.5, 80.0), (1.0, 70.0), (1.5, 60.0)]
    assert (runs[1].status, runs[1].note) == ("KILLED", "stopped early")
    assert read_histories(uri, [runs[1].run_id]) == {
        runs[1].run_id: {"train/loss": [(0.5, 3.0), (1.0, 2.0), (1.5, 1.0)], "lr": [(0.5, 0.1), (1.5, 0.01)]}
    }
    open_run(uri, "read", str(tmp_path), "run1", {"arch": "D", "train_scale": (36, 64), "lr": 0.1}, tags)
    open_run(uri, "read", str(tmp_path), "run1", {"arch": "D", "train_scale": (36, 64), "lr": 0.01}, tags)
    assert read_runs(uri, "read")[1].settings == runs[1].settings | {"lr": "0.1, then 0.01"}
    with pytest.raises(ValueError, match=r"--experiment other: there is none of that name; there are Default, read"):
        read_runs(uri, "other")
    with pytest.raises(ValueError, match="there is no such database"):
        read_runs(f"sqlite:///{tmp_path}/missing.db", "read")


# --- a server


@pytest.fixture(scope="module")
def server(storage: Path) -> Iterator[Server]:
    run = open_run(f"sqlite:///{storage}/mlflow.db", "tests", str(storage), "shown", {})
    server = Server(run, storage)
    try:
        wait_for(server.ready)
        yield server
    finally:
        server.kill()


@pytest.mark.slow
def test_a_server_killed_in_mid_run_and_started_again_misses_nothing(
    server: Server, start: Callable[..., TrackedRun], caplog: pytest.LogCaptureFixture
) -> None:
    run = start(server.uri)
    tracker = Tracker(run)
    tracker.log([measured(step) for step in range(20)])
    wait_for(lambda: tracker.unsent == 0)
    server.kill()
    server.start()  # takes its time: the outage
    for step in range(20, 30):
        tracker.log([measured(step)])
    tracker.persist()  # checkpoint at step 30
    backlog = Path(run.folder, "mlflow_backlog.jsonl")
    assert len(backlog.read_text().splitlines()) == 10
    tracker.log([measured(step) for step in range(30, 35)])

    assert tracker.close(wait_s=0) == 15
    with caplog.at_level(logging.WARNING):
        finish_run(run, "FAILED")  # says what it could not do
    assert "the run's status is not set to FAILED: " in caplog.text

    resumed = Tracker(run)
    resumed.log([measured(step) for step in range(30, 50)])  # from the checkpoint; the server still away
    wait_for(server.ready)
    assert resumed.close(wait_s=PATIENCE_S) == 0
    assert logged_steps(run) == list(range(50))
    assert logged_steps(run, "val/loss") == [9, 19, 29, 39, 49]
    assert not backlog.exists()


@pytest.mark.slow
def test_the_page_that_is_told_shows_the_run(server: Server, storage: Path) -> None:
    run = open_run(f"sqlite:///{storage}/mlflow.db", "tests", str(storage), "shown", {})
    page = ui_hint(run).splitlines()[1].removeprefix("then open http://127.0.0.1:5000")
    assert ui_hint(replace(run, tracking_uri=server.uri)) == f"MLflow: {server.uri}{page}"
    page, _, query = page.partition("?")
    assert query == "workflowType=machine_learning"
    assert page == f"/#/experiments/{run.experiment_id}/runs/{run.run_id}/model-metrics"
    seen = connect(server.uri).get_run(run.run_id)
    assert (seen.info.run_name, seen.info.experiment_id) == ("shown", run.experiment_id)


# --- what a run leaves


def small_net() -> nn.Module:
    """Takes images as bytes or floats; dropout, so that training and evaluation mode differ."""
    torch.manual_seed(0)
    return nn.Sequential(ToFloat(), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(8 * 36, 10))


class ToFloat(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() / 255


@pytest.mark.slow
@pytest.mark.parametrize("examples", [1, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_model_comes_back_with_its_signature_and_without_pickle(
    dtype: torch.dtype, examples: int, start: Callable[..., TrackedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    run, net = start(), small_net()
    images = torch.randint(256, (7, 3, 8, 8)).to(dtype)
    uri = log_model(run, net, images[:examples], step=100)
    assert uri
    assert net.training
    net.eval()
    logged = connect(run.tracking_uri).get_logged_model(uri.removeprefix("models:/"))
    assert (logged.status, logged.source_run_id) == ("READY", run.run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", run.tracking_uri)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    loaded = mlflow.pytorch.load_model(uri)
    for count in (1, 3, 7):
        torch.testing.assert_close(loaded(images[:count]), net(images[:count]))
    signature = mlflow.models.get_model_info(uri).signature
    assert (signature.inputs.inputs[0].shape, signature.outputs.inputs[0].shape) == ((-1, 3, 8, 8), (-1, 10))
    assert signature.inputs.inputs[0].type == np.dtype(str(dtype).removeprefix("torch."))


def test_a_model_that_cannot_be_logged_is_a_warning(
    start: Callable[..., TrackedRun], caplog: pytest.LogCaptureFixture
) -> None:
    run = start()
    with caplog.at_level(logging.WARNING):
        assert log_model(run, small_net(), torch.zeros(2, 3, 9, 9), step=1) is None
    assert f"the model is not logged in MLflow, its checkpoint is in {run.folder}: " in caplog.text


@pytest.mark.slow
def test_finished_run_has_its_learning_curves(start: Callable[..., TrackedRun]) -> None:
    run = start()
    tracker = Tracker(run)
    tracker.log([measured(step) for step in range(60)])
    assert tracker.close(wait_s=PATIENCE_S) == 0
    finish_run(run, "FINISHED")
    client = connect(run.tracking_uri)
    assert client.get_run(run.run_id).info.status == "FINISHED"
    with Image.open(client.download_artifacts(run.run_id, "learning_curves.png")) as picture:
        assert min(picture.size) >= 600


@pytest.mark.slow
def test_model_and_curves_go_through_a_server(server: Server, storage: Path, tmp_path: Path) -> None:
    run = open_run(server.uri, "on the server", str(storage), "model and curves", {})
    tracker = Tracker(run)
    tracker.log([measured(step) for step in range(20)])
    assert tracker.close(wait_s=PATIENCE_S) == 0
    uri = log_model(run, small_net(), torch.zeros(2, 3, 8, 8), step=20)
    finish_run(run, "FINISHED")
    client = connect(server.uri)
    assert uri
    assert client.get_run(run.run_id).info.artifact_uri.startswith("mlflow-artifacts:")
    assert client.get_logged_model(uri.removeprefix("models:/")).status == "READY"
    files = {file.path for file in client.list_logged_model_artifacts(uri.removeprefix("models:/"))}
    assert {"MLmodel", "data"} <= files
    assert client.download_artifacts(run.run_id, "learning_curves.png", str(tmp_path))
