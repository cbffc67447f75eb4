"""Files and folders of runs on `--storage-path`, an absolute path or a URL: written whole or not at all.

By pyarrow, as Ray reads and writes there.
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

S3_ATTEMPTS = 14  # with waits from 25 ms on, each twice the one before: seven minutes in all


class PatientS3(fs.S3FileSystem):
    """An S3 filesystem that sits out a server's bad minutes, also where it was sent to another process: pyarrow's own tries
    for a second there, and a run would end for it.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(**options, retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=S3_ATTEMPTS))
        self.options = options

    def __reduce__(self) -> tuple[Any, ...]:
        return PatientS3, (self.options,)


def open_storage(url: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of an absolute path or a URL, and the path in it. OSError or ValueError where there is none."""
    filesystem, path = fs.FileSystem.from_uri(url)
    if isinstance(filesystem, fs.S3FileSystem):
        _, (options,) = filesystem.__reduce__()  # as the URL and the environment have them
        filesystem = PatientS3(options)
    return filesystem, path


def check_writable(folder: str) -> None:
    """Tries to write there; on this machine nothing is left of that, not even the folder. OSError or ValueError."""
    filesystem, path = fs.FileSystem.from_uri(folder)  # at once: a mistake is to be told in seconds
    local = isinstance(filesystem, fs.LocalFileSystem)
    if local:
        while not os.path.lexists(path):  # it is made in the first of those above it that is there
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
    """ValueError, one line, if nothing can be written there."""
    try:
        check_writable(storage_path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--storage-path {masked(storage_path)}: cannot be written: {' '.join(str(error).split())}"
        ) from None


def read_file(url: str) -> bytes | None:
    """The file's content; None where there is none. OSError or ValueError where the storage does not answer."""
    filesystem, path = open_storage(url)
    try:
        with filesystem.open_input_stream(path) as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def replace_file(url: str, content: bytes) -> None:
    """Write the file in one piece, whatever kills this process. OSError or ValueError where the storage refuses."""
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
    """Remove the file if it is there."""
    filesystem, path = open_storage(url)
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_file(path)


def write_folder(filesystem: fs.FileSystem, path: str, write: Callable[[Path], None], mark: str) -> None:
    """A folder with the files that `write` puts into the local one it is given, in place of one that may be there.

    Where folders cannot be renamed (object stores) the file `mark` comes last: without it the folder is not whole. One at a
    time beside each other: what an earlier process was killed over is overwritten, whatever folder it was to become.
    OSError, with how much room there is left, if it cannot be written.
    """
    local = isinstance(filesystem, fs.LocalFileSystem)
    scratch = Path(path).with_name(".unfinished") if local else Path(tempfile.mkdtemp())
    try:
        if local:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        try:
            write(scratch)
        except Exception as error:  # torch and safetensors have kinds of their own for a full disk
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
    """Waits until the disk has a file, or a folder's list of names: the machine may fail, not only this process."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def local_folder(url: str) -> Iterator[Path]:
    """The files of a folder (not of folders in it) on this machine: where they are, or a copy for the while."""
    with local_files(*open_storage(url)) as folder:
        yield folder


@contextlib.contextmanager
def local_files(filesystem: fs.FileSystem, path: str) -> Iterator[Path]:
    """As `local_folder`; the copy is this process's own.

    Ray's `Checkpoint.as_directory` shares one between the processes of a node, and one that comes later writes the files
    anew while the first reads them.
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
    """The names of what is in a folder, in order; FileNotFoundError where there is none."""
    filesystem, path = open_storage(url)
    return sorted(entry.base_name for entry in filesystem.get_file_info(fs.FileSelector(path)))
