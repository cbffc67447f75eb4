"""Data behind fsspec URLs (s3://, gs://, https://, ...).

Small files are read at once, large ones copied into a node-local cache.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import fsspec

from pipelines.paths import is_remote


def cache_folder(cache: str | None) -> Path:
    """The folder for copies of remote files: the argument, else `$VGG_DIST_CACHE`, else `~/.cache/vgg_dist`."""
    return Path(cache or os.environ.get("VGG_DIST_CACHE") or "~/.cache/vgg_dist").expanduser().absolute()


def read_if_there(where: str) -> bytes | None:
    """The bytes of a file or URL, None where there is none; ValueError, one line, where it cannot be read."""
    try:
        if not is_remote(where):
            return Path(where).read_bytes()
        filesystem, path = fsspec.core.url_to_fs(where)
        return filesystem.cat_file(path)
    except FileNotFoundError:
        return None
    except ImportError as error:
        raise ValueError(f"{where}: {error}") from error
    except Exception as error:  # every backend has its own kinds
        raise ValueError(f"{where} could not be read: {_one_line(error)}") from error


def write_whole(where: str, data: bytes) -> None:
    """Writes a file or URL so that nobody ever sees half of it; OSError where that fails."""
    if is_remote(where):
        filesystem, path = fsspec.core.url_to_fs(where)
        filesystem.pipe_file(path, data)
    else:
        Path(f"{where}.part").write_bytes(data)
        os.replace(f"{where}.part", where)


def fetch(url: str, path: str, size: int) -> None:
    """Copies `url` to the local `path` unless `size` bytes lie there already; several processes and threads may do so.

    Raises OSError, one line, where the copy fails or has another size.
    """
    if size_of(path) == size:
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # The kernel frees the lock when its holder dies: a killed process leaves but a .part file, which is overwritten.
    with open(f"{path}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if size_of(path) == size:
            return
        part = f"{path}.part"
        try:
            filesystem, remote = fsspec.core.url_to_fs(url)
            filesystem.get_file(remote, part)
            if size_of(part) != size:
                raise OSError(f"{size_of(part)} bytes came where {size} are expected: truncated or replaced")
            os.replace(part, path)
        except Exception as error:  # every backend has its own kinds
            Path(part).unlink(missing_ok=True)  # on a full disk the next attempt needs the room
            raise OSError(f"{url} could not be copied to {os.path.dirname(path)}: {_one_line(error)}") from error


def size_of(path: str) -> int:
    """Bytes of a local file; -1 where there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
