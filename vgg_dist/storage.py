"""Reads and writes files and folders on --storage-path, an absolute path or a URL. What is written is whole or not there.

Through pyarrow's filesystems, which Ray uses too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyarrow import fs

from pipelines.secrets import masked

S3_ATTEMPTS = 14  # waits double from 25 ms on: seven minutes in all


class RetryingS3(fs.S3FileSystem):
    """An S3 filesystem that retries for seven minutes, and keeps that policy when pickled.

    pyarrow's own, once unpickled in a worker, retries for a second only, and a short outage would end a run.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(**options, retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=S3_ATTEMPTS))
        self.options = options

    def __reduce__(self) -> tuple[Any, ...]:
        return RetryingS3, (self.options,)


def open_storage(url: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of an absolute path or a URL, and the path in it. OSError or ValueError if there is none."""
    filesystem, path = fs.FileSystem.from_uri(url)
    if isinstance(filesystem, fs.S3FileSystem):
        _, (options,) = filesystem.__reduce__()  # from the URL and the environment
        filesystem = RetryingS3(options)
    return filesystem, path


def check_writable(folder: str) -> None:
    """Tries to write into the folder. On a local disk this leaves nothing, not even the folder. OSError or ValueError."""
    filesystem, path = fs.FileSystem.from_uri(folder)  # not `open_storage`, which retries: a mistake must show in seconds
    local = isinstance(filesystem, fs.LocalFileSystem)
    if local:
        while not os.path.lexists(path):  # the folder would be made in the nearest parent that exists
            path = os.path.dirname(path)
    else:
        filesystem.create_dir(path, recursive=True)
    probe = f"{path}/.vgg_dist-{os.getpid()}"
    try:
        with filesystem.open_output_stream(probe) as stream:
            stream.write(b"writable")
    except OSError:
        if local:  # a full disk still has room for an empty file
            with contextlib.suppress(OSError):
                os.unlink(probe)
        raise
    filesystem.delete_file(probe)


def check_storage(storage_path: str) -> None:
    """ValueError, one line, if --storage-path cannot be written."""
    try:
        check_writable(storage_path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--storage-path {masked(storage_path)}: cannot be written: {' '.join(str(error).split())}"
        ) from None


def read_file(url: str) -> bytes | None:
    """The content of a file; None if there is no such file. OSError or ValueError if the storage does not answer."""
    filesystem, path = open_storage(url)
    try:
        with filesystem.open_input_stream(path) as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def replace_file(url: str, content: bytes) -> None:
    """Writes a file atomically, even if this process is killed. OSError or ValueError if the storage refuses."""
    filesystem, path = open_storage(url)
    filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    unfinished = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with filesystem.open_output_stream(unfinished) as stream:
            stream.write(content)
        filesystem.move(unfinished, path)
    except BaseException:
        with contextlib.suppress(Exception):
            filesystem.delete_file(unfinished)
        raise


def remove_file(url: str) -> None:
    """Removes a file if it is there."""
    filesystem, path = open_storage(url)
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_file(path)


def write_folder(filesystem: fs.FileSystem, path: str, write: Callable[[Path], None], mark: str) -> None:
    """Writes a folder with the files that `write` puts into a local one, replacing a folder that is there.

    On a local disk the folder is renamed once it is complete. Object stores cannot rename: there the file `mark` is written
    last, and a folder without it is not whole. Only one process may write in the same parent at a time: all use the same
    scratch folder, so that what a killed one left is overwritten. OSError, with the free space, if it cannot be written.
    """
    local = isinstance(filesystem, fs.LocalFileSystem)
    scratch = Path(path).with_name(".unfinished") if local else Path(tempfile.mkdtemp())
    try:
        if local:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        try:
            write(scratch)
        except Exception as error:  # torch and safetensors raise errors of their own for a full disk
            raise OSError(f"{error} ({shutil.disk_usage(scratch).free / 1e6:.0f} MB are free there)") from error
        if local:
            for file in scratch.iterdir():
                _sync(file)
            shutil.rmtree(path, ignore_errors=True)
            scratch.rename(path)
            _sync(scratch.parent)
            return
        filesystem.create_dir(path, recursive=True)
        for file in sorted(scratch.iterdir(), key=lambda file: file.name == mark):
            fs.copy_files(str(file), f"{path}/{file.name}", destination_filesystem=filesystem)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk, so that they survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def local_folder(url: str) -> Iterator[Path]:
    """A folder's files (not its subfolders) on this machine: in place, or as a temporary copy."""
    with local_files(*open_storage(url)) as folder:
        yield folder


@contextlib.contextmanager
def local_files(filesystem: fs.FileSystem, path: str) -> Iterator[Path]:
    """As `local_folder`, for a path in a filesystem. The copy belongs to this process.

    Ray's `Checkpoint.as_directory` shares one copy between the processes of a node, and a later process rewrites the files
    while an earlier one reads them.
    """
    if isinstance(filesystem, fs.LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        for entry in filesystem.get_file_info(fs.FileSelector(path)):
            if entry.is_file:
                fs.copy_files(entry.path, f"{scratch}/{entry.base_name}", source_filesystem=filesystem)
        yield Path(scratch)


def list_folder(url: str) -> list[str]:
    """The sorted names of the files and folders in a folder; FileNotFoundError if there is no such folder."""
    filesystem, path = open_storage(url)
    return sorted(entry.base_name for entry in filesystem.get_file_info(fs.FileSelector(path)))
