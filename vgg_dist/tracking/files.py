"""Small files beside a run, on whatever storage Ray writes its checkpoints to: an absolute path or a URL."""

from __future__ import annotations

import contextlib
import os
import uuid
from urllib.parse import urlsplit, urlunsplit

from pyarrow import fs


def is_remote(path: str) -> bool:
    """Whether `path` is a URL of anything but this machine's own files."""
    return "://" in path and not path.startswith("file://")


def absolute(path: str) -> str:
    """The same place, whatever a process's current folder is."""
    return path if is_remote(path) else os.path.abspath(os.path.expanduser(path.removeprefix("file://")))


def beside(folder: str, name: str) -> str:
    """The path or URL of `name` in `folder`, itself a path or URL (whose query is kept)."""
    if "://" not in folder:
        return f"{folder.rstrip('/')}/{name}"
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def read_file(url: str) -> bytes | None:
    """The file's content; None where there is none. OSError or ValueError where the storage does not answer."""
    filesystem, path = fs.FileSystem.from_uri(url)
    try:
        with filesystem.open_input_stream(path) as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def replace_file(url: str, content: bytes) -> None:
    """Write the file in one piece, whatever kills this process. OSError or ValueError where the storage refuses."""
    filesystem, path = fs.FileSystem.from_uri(url)
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
    filesystem, path = fs.FileSystem.from_uri(url)
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_file(path)
