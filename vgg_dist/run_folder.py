"""The checkpoints of a run's folder, where the last one is damaged: which are before it, and what the next may be called."""

from __future__ import annotations

from pyarrow import fs

from vgg_dist.checkpoint import CONFIG, PREFIX
from vgg_dist.digests import DamagedCheckpoint, check_files, has_digests
from vgg_dist.storage import local_files


def whole_checkpoints(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """The names of the complete checkpoints in a run's folder: latest first."""
    entries = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    names = sorted((entry.base_name for entry in entries if entry.base_name.startswith(PREFIX)), reverse=True)
    return [name for name in names if _is_complete(filesystem, f"{folder}/{name}")]


def checkpoints_before(filesystem: fs.FileSystem, path: str) -> list[str]:
    """The names of the complete checkpoints in the same folder whose names sort before this one's: latest first."""
    folder, _, own = path.rpartition("/")
    return [name for name in whole_checkpoints(filesystem, folder) if name < own]


def unused_name(filesystem: fs.FileSystem, folder: str, name: str) -> str:
    """`name`, or `name-again` where a damaged checkpoint has it, which was passed over and is removed under that name later.

    Ray Train removes it once two more are there. A whole one is of a worker that died before it was reported: that one is
    replaced.
    """
    while _is_complete(filesystem, f"{folder}/{name}"):
        with local_files(filesystem, f"{folder}/{name}") as there:
            try:
                check_files(there)
                if has_digests(there):
                    break
            except DamagedCheckpoint:
                pass
        name += "-again"
    return name


def _is_complete(filesystem: fs.FileSystem, path: str) -> bool:
    return filesystem.get_file_info(f"{path}/{CONFIG}").is_file
