"""The best checkpoint of a run by validation error, copied to best/ in the run's folder.

Which one is best is computed from the files alone: each checkpoint has the records of its own validation (records.json), and
a copy in best/ has them too. So a kill at any moment cannot leave a wrong answer. A copy is made of hard links, or by the
object store itself. It has no optimizer state, because no run resumes from best/.

A run may resume from any checkpoint in its folder: the last one may be damaged, or may not have been reported before a kill.
What was validated after that checkpoint is then trained and validated again. So best/ has, for each checkpoint in the
folder, the best one up to that step. These are usually two copies, often of the same files as the last checkpoints.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from vgg_dist.metric_names import validation_errors, validation_metrics, without_trivial_top5
from vgg_dist.run_folder.checkpoints import remove_checkpoint, whole_checkpoints
from vgg_dist.run_folder.digests import is_intact
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.run_folder.names import CONFIG, DIGESTS, MODEL, RECORDS, checkpoint_name, step_of
from vgg_dist.storage import write_folder

FILES = MODEL, RECORDS, DIGESTS, CONFIG
"""The files of a copy, in the order they are written: the copy is whole once it has the last one."""


@dataclass(frozen=True)
class Validated:
    """A checkpoint whose net was validated."""

    path: str
    step: int
    metrics: dict[str, float]
    """val/loss, val/top1_error and, for more than five classes, val/top5_error."""

    @property
    def rank(self) -> tuple[tuple[float, ...], int]:
        """Smaller is better; of equal errors the earlier step wins."""
        return validation_errors(self.metrics) or (), self.step


def begin_best(run: RunFolder, restored: str | None, epoch: int) -> None:
    """Prepares best/ at the start of a training: removes copies of steps after the one that it starts from.

    `restored`: the name of the checkpoint that the training resumes from, None for a new run; `epoch`: how many epochs it
    has trained and validated. OSError where the storage refuses.
    """
    filesystem = run.filesystem
    start = step_of(restored) if restored else 0
    for name in _names(filesystem, run.best):
        if step_of(name) > start:
            remove_checkpoint(filesystem, run.best_checkpoint(name))
    if restored is None:
        return
    unknown = epoch - (_validated(filesystem, run.checkpoint(restored)) is not None)
    if unknown > 0 and not _names(filesystem, run.best) and read_since(run) is None:
        filesystem.create_dir(run.best)
        with filesystem.open_output_stream(run.since) as stream:
            stream.write(json.dumps({"step": start}).encode())
    keep_best(run, restored)


def keep_best(run: RunFolder, name: str) -> None:
    """Updates best/ after the checkpoint `name` was written. OSError where the storage refuses."""
    filesystem = run.filesystem
    copies = best_copies(run)
    known = list(copies)
    new = _validated(filesystem, run.checkpoint(name))
    if new is not None and new.step not in [copy.step for copy in copies]:
        known.append(new)
    resumable = {step_of(each) for each in [*whole_checkpoints(filesystem, run.path), name]}
    needed = [best_of(each for each in known if each.step <= step) for step in resumable]
    if new is not None and new in needed:
        _copy(filesystem, run.checkpoint(name), run.best_checkpoint(checkpoint_name(step_of(name))))
    for copy in copies:
        if copy not in needed:
            remove_checkpoint(filesystem, copy.path)


def best_copies(run: RunFolder) -> list[Validated]:
    """The copies in best/, except those whose records are damaged."""
    names = whole_checkpoints(run.filesystem, run.best)
    found = [_validated(run.filesystem, run.best_checkpoint(name)) for name in names]
    return [each for each in found if each is not None]


def validated_checkpoints(run: RunFolder) -> list[Validated]:
    """The validated checkpoints of a run: the copies in best/, then those in the folder itself."""
    names = whole_checkpoints(run.filesystem, run.path)
    last = [_validated(run.filesystem, run.checkpoint(name)) for name in names]
    return best_copies(run) + [each for each in last if each is not None]


def best_of(found: Iterable[Validated]) -> Validated | None:
    """The one with the smallest error; None if there is none."""
    return min(found, key=lambda each: each.rank, default=None)


def read_since(run: RunFolder) -> int | None:
    """The step before which validations are unknown; None if all are known."""
    content = _read(run.filesystem, run.since)
    try:
        return None if content is None else int(json.loads(content)["step"])
    except (ValueError, KeyError, TypeError):
        return None


def _validated(filesystem: fs.FileSystem, path: str) -> Validated | None:
    """The validation that a checkpoint's records have for its own step; None without one, or if a file is damaged."""
    step = step_of(path.rpartition("/")[2])
    records, digests, description = (_read(filesystem, f"{path}/{name}") for name in (RECORDS, DIGESTS, CONFIG))
    if records is None or description is None or not is_intact(RECORDS, records, digests):
        return None
    try:
        metrics = [record["metrics"] for record in json.loads(records) if record["step"] == step]
        classes = len(json.loads(description)["class_names"])
    except (ValueError, KeyError, TypeError):
        return None
    found: dict[str, float] = {}
    for each in metrics:
        found |= validation_metrics(each)
    found = without_trivial_top5(found, classes)
    return Validated(path, step, found) if validation_errors(found) else None


def _names(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """The names of the folders in best/, also of copies that are not whole."""
    entries = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return [entry.base_name for entry in entries if entry.type == fs.FileType.Directory and entry.base_name[0] != "."]


def _read(filesystem: fs.FileSystem, path: str) -> bytes | None:
    try:
        with filesystem.open_input_stream(path) as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def _copy(filesystem: fs.FileSystem, source: str, target: str) -> None:
    if isinstance(filesystem, fs.LocalFileSystem):
        write_folder(filesystem, target, lambda folder: _link(Path(source), folder), CONFIG)
        return
    filesystem.create_dir(target, recursive=True)
    for name in FILES:
        try:
            filesystem.copy_file(f"{source}/{name}", f"{target}/{name}")
        except NotImplementedError:  # HDFS
            both = {"source_filesystem": filesystem, "destination_filesystem": filesystem}
            fs.copy_files(f"{source}/{name}", f"{target}/{name}", **both)


def _link(source: Path, folder: Path) -> None:
    for name in FILES:
        try:
            os.link(source / name, folder / name)
        except OSError:  # a file system without links
            shutil.copyfile(source / name, folder / name)
