"""The runs in a storage path, as far as their folders say: how far each is trained, its best error, when it was written.

Trials of a search and runs of a reproduction are in the folder of that, one level down; they are named `search/trial`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pyarrow import fs

from vgg_dist.run_folder.best import best_of, validated_checkpoints
from vgg_dist.run_folder.checkpoints import whole_checkpoints
from vgg_dist.run_folder.folder import OUTCOME, SETTINGS, RunFolder
from vgg_dist.run_folder.names import CONFIG, RECORDS, is_checkpoint_name, step_of
from vgg_dist.run_folder.settings import PROGRAMME, SEARCH
from vgg_dist.storage import open_storage

State = Literal["finished", "running?", "stopped"]

RECENT_S = 1200.0  # a training writes a checkpoint every ten minutes by default
READERS = 16  # folders read at once: object stores answer in tens of milliseconds


@dataclass(frozen=True)
class RunSummary:
    """What a run's folder says of it. None where it says nothing."""

    name: str
    state: State
    """running?: something was written there in the last RECENT_S seconds. stopped: killed, failed, or paused."""
    arch: str | None
    epoch: float | None
    """Epochs trained, at the last checkpoint."""
    epochs: int | None
    """Epochs at most."""
    step: int | None
    errors: dict[str, float]
    """The best validation: val/top1_error and, for more than five classes, val/top5_error, percent; empty without one."""
    written: datetime | None
    """When the last file was written, UTC."""


def list_runs(storage_path: str) -> list[RunSummary]:
    """All runs, by name. `storage_path`: an absolute path or a URL. OSError or ValueError where it cannot be read."""
    filesystem, path = open_storage(storage_path)
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda name: list(_runs_of(filesystem, path, name)), _folders(filesystem, path))
        return [run for runs in found for run in runs]


def _runs_of(filesystem: fs.FileSystem, storage: str, name: str) -> Iterator[RunSummary]:
    """The run in a folder, or those of the search or the reproduction in it; nothing for other folders."""
    run = f"{storage}/{name}"
    entries = {entry.base_name: entry for entry in filesystem.get_file_info(fs.FileSelector(run))}
    if {SEARCH, PROGRAMME} & entries.keys():
        for inner in _folders(filesystem, run):
            yield from _runs_of(filesystem, storage, f"{name}/{inner}")
    elif {SETTINGS, OUTCOME} & entries.keys() or any(map(is_checkpoint_name, entries)):
        yield _summary(filesystem, run, name, entries)


def _summary(filesystem: fs.FileSystem, run: str, name: str, entries: dict[str, fs.FileInfo]) -> RunSummary:
    outcome = _read_json(filesystem, f"{run}/{OUTCOME}", dict) if OUTCOME in entries else {}
    ended_with, metrics = outcome.get("settings") or {}, outcome.get("metrics") or {}
    settings = ended_with | _read_json(filesystem, f"{run}/{SETTINGS}", dict)
    checkpoints = whole_checkpoints(filesystem, run)
    step, epoch = outcome.get("step"), metrics.get("epoch")
    # A trial that waits at a rung has an outcome too, of fewer epochs than it was started with.
    finished = step is not None and ended_with.get("epochs") in (None, settings.get("epochs"))
    if checkpoints and (step is None or step_of(checkpoints[-1]) > step):  # there is no outcome, or training went on
        last = f"{run}/{checkpoints[-1]}"
        finished, step = False, step_of(checkpoints[-1])
        settings = _read_json(filesystem, f"{last}/{CONFIG}", dict).get("config", {}) | settings
        epoch = _last_epoch(_read_json(filesystem, f"{last}/{RECORDS}", list)) or epoch
    infos = [*entries.values(), *filesystem.get_file_info([f"{run}/{each}/{CONFIG}" for each in checkpoints[-1:]])]
    written = max((info.mtime for info in infos if info.mtime is not None), default=None)
    best = best_of(validated_checkpoints(RunFolder.within(filesystem, run)))
    return RunSummary(
        name=name,
        state="finished" if finished else "running?" if _is_recent(written) else "stopped",
        arch=settings.get("arch"),
        epoch=epoch,
        epochs=settings.get("epochs"),
        step=step,
        errors=best.metrics if best else {key: value for key, value in metrics.items() if key.endswith("_error")},
        written=written,
    )


def _last_epoch(records: list[dict[str, Any]]) -> float | None:
    """The epoch of the last of a checkpoint's records that has one."""
    epochs = [record["metrics"]["epoch"] for record in records if "epoch" in record.get("metrics", {})]
    return epochs[-1] if epochs else None


def _is_recent(when: datetime | None) -> bool:
    return when is not None and (datetime.now(UTC) - when).total_seconds() < RECENT_S


def _folders(filesystem: fs.FileSystem, path: str) -> list[str]:
    entries = filesystem.get_file_info(fs.FileSelector(path))
    return sorted(entry.base_name for entry in entries if entry.type == fs.FileType.Directory)


def _read_json(filesystem: fs.FileSystem, file: str, kind: type[Any]) -> Any:
    """The file's JSON value; an empty one of that kind where there is none, or it is damaged."""
    try:
        with filesystem.open_input_stream(file) as stream:
            found = json.loads(stream.read())
    except (FileNotFoundError, ValueError):
        return kind()
    return found if isinstance(found, kind) else kind()
