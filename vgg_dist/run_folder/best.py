"""The best checkpoint of a run by validation error, kept in `best/` in the run's folder.

Which one is best follows from what lies there: each checkpoint has the records of its own validation (`records.json`), and a
copy in `best/` is as good as what it is a copy of. So no kill can leave another answer than the right one. A copy is a hard
link, or made by the object store itself; the optimizer's state is not in it, as nothing resumes from there.

A run may go on from any checkpoint in its folder: the last one may be damaged, or not reported before a kill. What was
validated after that one is then trained and validated again. So `best/` has, for each of them, the best up to there: two
copies as a rule, often of the same files as the last checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from vgg_dist.config.base import BEST
from vgg_dist.metric_names import validation_errors, without_trivial_top5
from vgg_dist.run_folder.checkpoints import whole_checkpoints
from vgg_dist.run_folder.digests import DIGESTS, is_intact
from vgg_dist.run_folder.names import CONFIG, MODEL, RECORDS, checkpoint_name, step_of
from vgg_dist.storage import write_folder

FILES = MODEL, RECORDS, DIGESTS, CONFIG
"""What a copy has. The last one comes last: with it the copy is whole."""
SINCE = "since.json"  # the step from which on validations are compared, where an earlier version began the run


@dataclass(frozen=True)
class Validated:
    """A checkpoint whose net was validated."""

    path: str
    step: int
    metrics: dict[str, float]
    """val/loss, val/top1_error and, for more than five classes, val/top5_error."""

    @property
    def rank(self) -> tuple[tuple[float, ...], int]:
        """The best has the smallest; of equal errors the first counts."""
        return validation_errors(self.metrics) or (), self.step


def begin_best(filesystem: fs.FileSystem, run: str, restored: str | None, epoch: int) -> None:
    """A training begins, or goes on from the checkpoint of this name: what it has not come to, or will again, is removed.

    `epoch`: how many it has trained and validated. OSError where the storage refuses.
    """
    folder = f"{run}/{BEST}"
    start = step_of(restored) if restored else 0
    for name in _names(filesystem, folder):
        if step_of(name) > start:
            _remove(filesystem, f"{folder}/{name}")
    if restored is None:
        return
    unknown = epoch - (_validated(filesystem, f"{run}/{restored}") is not None)
    if unknown > 0 and not _names(filesystem, folder) and read_since(filesystem, run) is None:
        filesystem.create_dir(folder)
        with filesystem.open_output_stream(f"{folder}/{SINCE}") as stream:
            stream.write(json.dumps({"step": start}).encode())
    keep_best(filesystem, run, restored)


def keep_best(filesystem: fs.FileSystem, run: str, name: str) -> None:
    """Takes a checkpoint that was just written into account. OSError where the storage refuses."""
    folder = f"{run}/{BEST}"
    copies = kept(filesystem, run)
    known = list(copies)
    new = _validated(filesystem, f"{run}/{name}")
    if new is not None and new.step not in [copy.step for copy in copies]:
        known.append(new)
    resumable = {step_of(each) for each in [*whole_checkpoints(filesystem, run), name]}
    needed = [best_of(each for each in known if each.step <= step) for step in resumable]
    if new is not None and new in needed:
        _copy(filesystem, f"{run}/{name}", f"{folder}/{checkpoint_name(step_of(name))}")
    for copy in copies:
        if copy not in needed:
            _remove(filesystem, copy.path)


def kept(filesystem: fs.FileSystem, run: str) -> list[Validated]:
    """The copies in `best/`, without those whose records are damaged."""
    folder = f"{run}/{BEST}"
    found = [_validated(filesystem, f"{folder}/{name}") for name in whole_checkpoints(filesystem, folder)]
    return [each for each in found if each is not None]


def validated(filesystem: fs.FileSystem, run: str) -> list[Validated]:
    """The validated checkpoints of a run, the copies in `best/` before the last ones."""
    last = [_validated(filesystem, f"{run}/{name}") for name in whole_checkpoints(filesystem, run)]
    return kept(filesystem, run) + [each for each in last if each is not None]


def best_of(found: Iterable[Validated]) -> Validated | None:
    """The one of the smallest error; None of none."""
    return min(found, key=lambda each: each.rank, default=None)


def read_since(filesystem: fs.FileSystem, run: str) -> int | None:
    """The step before which validations are not known; None if all are."""
    content = _read(filesystem, f"{run}/{BEST}/{SINCE}")
    try:
        return None if content is None else int(json.loads(content)["step"])
    except (ValueError, KeyError, TypeError):
        return None


def _validated(filesystem: fs.FileSystem, path: str) -> Validated | None:
    """What a checkpoint's own records say of its net; None without a validation at its step, or where they are damaged."""
    step = step_of(path.rpartition("/")[2])
    records, digests, description = (_read(filesystem, f"{path}/{name}") for name in (RECORDS, DIGESTS, CONFIG))
    if records is None or description is None or not is_intact(RECORDS, records, digests):
        return None
    try:
        metrics = [record["metrics"] for record in json.loads(records) if record["step"] == step]
        classes = len(json.loads(description)["class_names"])
    except (ValueError, KeyError, TypeError):
        return None
    found = {key: value for each in metrics for key, value in each.items() if key.startswith("val/")}
    found = without_trivial_top5(found, classes)
    return Validated(path, step, found) if validation_errors(found) else None


def _names(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """The folders of copies, also of those that are not whole."""
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


def _remove(filesystem: fs.FileSystem, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_file(f"{path}/{CONFIG}")  # first: a kill leaves nothing that looks whole
    filesystem.delete_dir(path)
