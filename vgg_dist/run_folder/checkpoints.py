"""The checkpoints in a run's folder: which are whole, which came before a damaged one, and the writing of the next.

<run>/checkpoint-000000180/, checkpoint-000000189/     the last ones; Ray Train removes older ones
<run>/best/checkpoint-000000126/                       the best by validation error (see best_checkpoint)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pyarrow import fs

from vgg_dist.run_folder.digests import DamagedCheckpoint, check_files, has_digests
from vgg_dist.run_folder.names import CONFIG, is_checkpoint_name
from vgg_dist.storage import local_files, write_folder


def whole_checkpoints(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """The names of the checkpoints in a folder that are written whole, by step; none where there is no folder."""
    entries = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    names = sorted(entry.base_name for entry in entries if is_checkpoint_name(entry.base_name))
    return [name for name in names if _is_whole(filesystem, f"{folder}/{name}")]


def write_checkpoint(filesystem: fs.FileSystem, folder: str, name: str, write: Callable[[Path], None]) -> str:
    """Writes a checkpoint into a run's folder, under the name that is returned. OSError where the storage refuses."""
    name = unused_name(filesystem, folder, name)
    write_folder(filesystem, f"{folder}/{name}", write, CONFIG)
    return name


def unused_name(filesystem: fs.FileSystem, folder: str, name: str) -> str:
    """`name`, or `name-again` where a damaged checkpoint has it, which was passed over and is removed under that name later.

    Ray Train removes it once two more are there. A whole one is of a worker that died before it was reported: that one is
    replaced.
    """
    while _is_whole(filesystem, f"{folder}/{name}"):
        with local_files(filesystem, f"{folder}/{name}") as there:
            try:
                check_files(there)
                if has_digests(there):
                    break
            except DamagedCheckpoint:
                pass
        name += "-again"
    return name


def _is_whole(filesystem: fs.FileSystem, path: str) -> bool:
    return filesystem.get_file_info(f"{path}/{CONFIG}").is_file
