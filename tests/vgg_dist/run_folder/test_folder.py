"""The table of a run's files against what a training and its command leave there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from support.reported_trainings import SMALL, Training

from vgg_dist.metric_names import Record
from vgg_dist.run_folder import folder, names
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.run_folder.names import is_checkpoint_name
from vgg_dist.run_folder.outcome import read_earlier, write_outcome
from vgg_dist.run_folder.settings import keep_settings
from vgg_dist.tracking import TrackedRun, Tracker


def documented(module: object) -> set[str]:
    """The names in a module's table, checkpoints as "checkpoint-"."""
    rows = [line.split("|")[1].strip() for line in str(module.__doc__).splitlines() if line.startswith("| ")]
    return {row.rstrip("0123456789/") for row in rows}


def test_every_file_of_a_run_is_in_the_table(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, storage_path=str(tmp_path), name="first", max_steps=None, epochs=2)
    run = RunFolder.of(config)
    training = Training(tmp_path / "first", config)
    keep_settings(run.url, config)
    write_outcome(config, training.outcome | {"checkpoint": "there"})
    away = TrackedRun("http://127.0.0.1:9", "0", "0", 0.0, run.url)
    tracker = Tracker(away)
    record: Record = {"step": 1, "time": 0.0, "metrics": {"train/loss": 1.0}}
    tracker.log([record])
    tracker.close(wait_s=0)

    files = [path.relative_to(run.url) for path in Path(run.url).rglob("*") if path.is_file()]
    in_checkpoints = {path.name for path in files if is_checkpoint_name(path.parent.name)}
    others = {path.as_posix() for path in files if not is_checkpoint_name(path.parent.name)}
    folders = {path.parent.as_posix().rstrip("0123456789") for path in files} - {"."}
    assert in_checkpoints == documented(names) - {"file"}
    assert others | folders <= documented(folder)
    assert others == {"settings.json", "config.yaml", "outcome.json", "mlflow_backlog.jsonl"}
    assert folders == {"checkpoint-", "best/checkpoint-"}
    earlier = read_earlier(config)
    assert earlier is not None
    assert earlier.is_all(config)


def test_a_folder_is_named_without_a_connection() -> None:
    run = RunFolder("s3://no-such-bucket/runs/first?region=none&endpoint_override=127.0.0.1:9")
    query = "?region=none&endpoint_override=127.0.0.1:9"
    assert run.settings == f"s3://no-such-bucket/runs/first/settings.json{query}"
    assert run.mlflow_backlog == f"s3://no-such-bucket/runs/first/mlflow_backlog.jsonl{query}"


def test_paths_and_urls_of_a_checkpoint_name_the_same_folder(tmp_path: Path) -> None:
    run = RunFolder(f"file://{tmp_path}/first")
    assert run.checkpoint("checkpoint-000000007") == f"{tmp_path}/first/checkpoint-000000007"
    assert run.url_of(run.best_checkpoint("checkpoint-000000007")) == f"{run.url}/best/checkpoint-000000007"
    inside = RunFolder.within(run.filesystem, run.path)
    assert (inside.path, inside.since) == (run.path, f"{tmp_path}/first/best/since.json")
