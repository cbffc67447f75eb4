"""The checkpoints in a run's folder: which of them are whole, and how the next one is written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from pyarrow import fs

from vgg_dist.run_folder.digests import DamagedCheckpoint, check_files, has_digests
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.run_folder.names import CONFIG, is_checkpoint_name
from vgg_dist.storage import local_files, write_folder


def whole_checkpoints(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """The names of the completely written checkpoints in a run's folder or in best/, by step; none without such a folder."""
    entries = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    names = sorted(entry.base_name for entry in entries if is_checkpoint_name(entry.base_name))
    return [name for name in names if _is_whole(filesystem, f"{folder}/{name}")]


def write_checkpoint(run: RunFolder, name: str, write: Callable[[Path], None]) -> str:
    """Writes a checkpoint into a run's folder and returns the name it got (see `unused_name`).

    `write` puts the files into a local folder. OSError where the storage refuses.
    """
    name = unused_name(run, name)
    write_folder(run.filesystem, run.checkpoint(name), write, CONFIG)
    return name


def unused_name(run: RunFolder, name: str) -> str:
    """`name`, or `name-again` if a damaged checkpoint has that name.

    A damaged one was passed over on resume; Ray Train still lists it and removes it, by its name, once two newer ones are
    there. A whole one was written by a worker that died before it reported it, and is replaced.
    """
    while _is_whole(run.filesystem, run.checkpoint(name)):
        with local_files(run.filesystem, run.checkpoint(name)) as there:
            try:
                check_files(there)
                if has_digests(there):
                    break
            except DamagedCheckpoint:
                pass
        name += "-again"
    return name


def remove_checkpoint(filesystem: fs.FileSystem, path: str) -> None:
    """Removes a checkpoint, or a copy in best/; also one that is not whole. OSError where the storage refuses."""
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_file(f"{path}/{CONFIG}")  # first, so that a kill leaves nothing that looks whole
    filesystem.delete_dir(path)


def _is_whole(filesystem: fs.FileSystem, path: str) -> bool:
    return filesystem.get_file_info(f"{path}/{CONFIG}").is_file
