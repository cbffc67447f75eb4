"""Passwords and keys in URLs appear in nothing that a run writes, logs, prints or sends, and do not prevent a resume."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from cluster.verdicts import judge_tracking, to_line
from pipelines.cli import fail
from pipelines.paths import last_part
from pipelines.secrets import masked
from pipelines.stores.open import open_splits
from vgg_dist.config import EvalConfig, TrainConfig, TrainSettings, TuneConfig
from vgg_dist.config.resume import changed_settings, describe_changes, refuse_changes
from vgg_dist.evaluation.open import open_images
from vgg_dist.launch.driver import _Launch
from vgg_dist.launch.run_record import open_training
from vgg_dist.run_folder.names import checkpoint_name
from vgg_dist.run_folder.outcome import read_earlier, write_outcome
from vgg_dist.tracking import TrackedRun, TrackingError, finish_run, read_runs, ui_hint
from vgg_dist.tracking.connection import reason, tracking_errors
from vgg_dist.training.state import TrainState, build_state
from vgg_dist.weights.checkpoint import read_description
from vgg_dist.weights.load import load_net

SECRET = "hUsHhUsH"
URLS = {
    "http://me:{}@host:5000": "http://***@host:5000",
    "https://{}@host/path": "https://***@host/path",
    "http://me:a@{}@host": "http://***@host",
    "http://me:a/{}@host:5000/x": "http://***@host:5000/x",
    "http://me:9/{}@host": "http://me:9/hUsHhUsH@host",  # host, port and a path that contains an @
    "http://me:a?{}#b@host": "http://***@host",
    "s3://KEY:{}@bucket/runs": "s3://***@bucket/runs",
    "simplecache::s3://KEY:{}@bucket/runs": "simplecache::s3://***@bucket/runs",
    "s3://bucket/a?access_key={0}&secret_key={0}/+=&region=eu": "s3://bucket/a?access_key=***&secret_key=***&region=eu",
    "s3://bucket/a?region=eu&session_token={}": "s3://bucket/a?region=eu&session_token=***",
    "https://h/a?X-Amz-Credential={0}%2F1&X-Amz-Signature={0}&x=1": "https://h/a?X-Amz-Credential=***&X-Amz-Signature=***&x=1",
    "https://a.blob/c?sv=2&sig={}%3D": "https://a.blob/c?sv=2&sig=***",
    "https://h/a?GoogleAccessId={0}&Signature={0}": "https://h/a?GoogleAccessId=***&Signature=***",
    "https://h/a?api_key={0}&PASSWORD={0}": "https://h/a?api_key=***&PASSWORD=***",
    "no host http://u:{0}@h/x: and s3://k:{0}@b/y": "no host http://***@h/x: and s3://***@b/y",
}
PLAIN = (
    "runs/first", "me@host", "http://host:5000/a@b", "http://[::1]:5000/a@b", "http://[::1]:5000", "s3://bucket/a@b/c", "",
    "sqlite:////runs/mlflow.db", "https://h/a?region=eu&scheme=http", "a:b@c", "synthetic:seed=3", "http://h:5000: refused",
)  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_of_a_url_everything_but_the_secret_is_shown(url: str) -> None:
    assert masked(url.format(SECRET)) == URLS[url]
    assert masked(URLS[url]) == URLS[url]


def test_what_has_no_secret_stays_as_it_is() -> None:
    assert masked(PLAIN) == PLAIN
    assert masked({"a": ["s3://k:p@b", 1, None], "b": True}) == {"a": ["s3://***@b", 1, None], "b": True}


def test_the_last_part_of_a_url_has_no_piece_of_a_secret() -> None:
    assert last_part(f"s3://bucket/runs/a/?access_key=K&secret_key=x/{SECRET}") == "a"
    assert last_part(f"s3://K:x/{SECRET}@bucket/runs/a") == "a"
    assert last_part("/runs/a/") == "a"
    assert last_part("runs/what?") == "what?"


def begun(storage: Path, secret: str = SECRET) -> TrainConfig:
    """Settings in which every URL has a secret."""
    return TrainConfig(
        arch="lenet5", epochs=2, name="first", storage_path=str(storage), num_workers=1, micro_batch=4, loader_threads=1,
        data=f"s3://KEY:{secret}@bucket/imagenet", tracking_uri=f"http://me:{secret}@host:5000",
        init_from=f"s3://bucket/runs/a?access_key={secret}&secret_key=x/{secret}",
    ).resolved()  # fmt: skip


def run_record(folder: Path, config: TrainConfig) -> str:
    """Logs the settings of a training and its failure, and returns the database's URI."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    parent = TrackedRun(uri, "0", "f" * 32, 0.0, f"s3://bucket/runs/all?secret_key=x/{SECRET}")
    with pytest.MonkeyPatch.context() as environment:  # there is no server at --tracking-uri
        environment.setattr("vgg_dist.launch.run_record.resolve_tracking_uri", lambda *_: uri)
        run = open_training(config, parent)
    finish_run(run, "FAILED", f"--data {config.data}: does not answer")
    return uri


def test_nothing_that_a_run_writes_has_the_secret(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = begun(tmp_path / "runs")
    uri = run_record(tmp_path / "runs", config)
    folder = tmp_path / "runs" / "first" / checkpoint_name(2)
    folder.mkdir(parents=True)
    saved(config).save(folder, config, CLASSES)
    write_outcome(config, {"metrics": {"epoch": 2.0, "val/top1_error": 1.0}, "step": 2, "checkpoint": str(folder)})
    _Launch(config, None).say(f"checkpoint: {config.data}")
    print(config.command_line())
    print(config.to_dict())
    print(ui_hint(TrackedRun(config.tracking_uri or "", "1", "2", 0.0, "")))
    print(*map(to_line, judge_tracking(config.tracking_uri or "", {})))
    with pytest.raises(SystemExit):
        fail("vgg_dist.train", f"--data {config.data}: does not answer")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"mlflow.db", "config.json", "state.pt", "outcome.json", "mlflow_training.txt"}
    for file in files:
        assert SECRET.encode() not in file.read_bytes(), file
    with closing(sqlite3.connect(tmp_path / "runs" / "mlflow.db")) as database:
        assert not [line for line in database.iterdump() if SECRET in line]
    (record,) = read_runs(uri, config.experiment)
    assert SECRET not in repr(record)
    assert record.settings["data"] == "s3://***@bucket/imagenet"
    assert record.settings["tracking_uri"] == "http://***@host:5000"
    assert (record.settings["init_from"], record.settings["init"]) == ("a", "from a")
    printed = "".join(capfd.readouterr())
    assert "--data 's3://***@bucket/imagenet'" in printed
    assert SECRET not in printed


CLASSES = open_splits("synthetic")[0].class_names


def saved(config: TrainConfig) -> TrainState:
    """The state of a net after two steps."""
    state = build_state(dataclasses.replace(config, init_from=None), len(CLASSES), torch.device("cpu"))
    state.step, state.epoch = 2, 2
    return state


def test_a_run_is_resumed_with_its_secret_or_a_new_one(tmp_path: Path) -> None:
    config = begun(tmp_path)
    folder = tmp_path / "first" / checkpoint_name(2)
    folder.mkdir(parents=True)
    saved(config).save(folder, config, CLASSES)
    for given in (config, begun(tmp_path, "aNoThEr")):
        state = saved(given)
        state.step = 0
        state.restore(folder, given, CLASSES)
        assert state.step == 2
        earlier = read_earlier(given)
        assert earlier
        assert earlier.changes(given) == ""
    assert read_description(folder)[0].data == "s3://***@bucket/imagenet"
    elsewhere = dataclasses.replace(config, data=f"s3://KEY:{SECRET}@other/imagenet")
    assert earlier.changes(elsewhere) == "--data s3://***@bucket/imagenet, not s3://***@other/imagenet"
    moved = dataclasses.replace(config, init_from="/runs/a")  # the keys are now in the environment
    refuse_changes(config.to_dict(secrets=True), moved)  # and the checkpoint is from an earlier version, which stored them
    other = dataclasses.replace(config, init_from=f"s3://K:{SECRET}@bucket/runs/b")
    with pytest.raises(ValueError, match="cannot change") as refused:
        refuse_changes(config.to_dict(secrets=True), other)
    assert SECRET not in str(refused.value)
    assert SECRET not in describe_changes({"data": (config.data, elsewhere.data)})
    assert changed_settings(config.to_dict(secrets=True), config) == {}


def test_the_workers_have_the_secret(tmp_path: Path) -> None:
    config = begun(tmp_path)
    assert TrainSettings.from_dict(json.loads(json.dumps(config.to_dict(secrets=True)))) == config


def test_a_masked_url_given_again_is_refused_by_its_flag(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--data s3://\*\*\*@bucket/imagenet: \*\*\* stands for a secret that is not kept"):
        TrainConfig.from_dict(begun(tmp_path).to_dict()).resolved()
    with pytest.raises(ValueError, match=r"--nets s3://\*\*\*@bucket/net"):
        EvalConfig(nets=("a", "s3://***@bucket/net")).resolved()


def test_evaluation_asks_for_data_whose_secret_was_not_kept(tmp_path: Path) -> None:
    config = begun(tmp_path)
    folder = tmp_path / "first" / checkpoint_name(2)
    folder.mkdir(parents=True)
    saved(config).save(folder, config, CLASSES)
    net = load_net(str(folder), None)
    with pytest.raises(ValueError, match=r"^--data: is needed; the run's own was s3://\*\*\*@bucket/imagenet"):
        open_images(EvalConfig(nets=(str(folder),)), [net])


@pytest.mark.parametrize("text", ["API request to http://me:{}@host:5000/api failed", "x" * 180 + " http://me:{}@host"])
def test_what_mlflow_and_its_libraries_say_is_masked_before_it_is_cut(text: str) -> None:
    error: Any = ConnectionError(text.format(SECRET * 4))
    assert SECRET not in reason(error)
    with pytest.raises(TrackingError) as caught, tracking_errors(f"http://me:{SECRET}@host"):
        raise error
    assert SECRET not in str(caught.value)


def test_a_resume_logs_no_change_where_only_the_secret_differs(tmp_path: Path) -> None:
    uri = run_record(tmp_path, begun(tmp_path))
    run_record(tmp_path, begun(tmp_path, "aNoThEr"))
    (found,) = MlflowClient(uri).search_runs(["1"])
    assert not [name for name in found.data.tags if name.startswith("resumed.")]


@pytest.mark.parametrize("kind", ["random", "grid", "bayesian"])
def test_what_ray_tune_keeps_of_a_search_has_no_secret_and_its_trials_have(kind: Any, tmp_path: Path) -> None:
    from ray import cloudpickle

    from vgg_dist.tuning.progress import SearchProgress
    from vgg_dist.tuning.search import _tuner

    fields = begun(tmp_path).to_dict(secrets=True) | {"name": "s", "num_workers": 1}
    config = TuneConfig.from_dict(fields | {"search": kind, "search_train_scale": ("36",), "train_scale": None}).resolved()
    parent = TrackedRun(str(config.tracking_uri), "1", "2", 0.0, config.storage_path)
    for again in (False, True):
        tuner = _tuner(config, parent, [{"CPU": 1.0}], 1)
        kept = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
        assert {path.name for path in kept} >= {"tuner.pkl"}
        (progress, _) = tuner._local_tuner._run_config.callbacks
        legs = tuner._local_tuner._tune_config.search_alg
        legs.save(str(tmp_path / "legs.pkl"))
        for content in [path.read_bytes() for path in (*kept, tmp_path / "legs.pkl")] + [cloudpickle.dumps(progress)]:
            assert SECRET.encode() not in content
        assert isinstance(progress, SearchProgress)
        leg = legs.suggest(f"trial-{again}")
        training = progress._training(type("Trial", (), {"config": leg}))
        assert (training.data, training.tracking_uri) == (config.data, config.tracking_uri), "which the trials need"
