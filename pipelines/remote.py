"""Data behind fsspec URLs (s3://, gs://, https://, ...): small files and parts of files are read, shards are copied.

The copies are in `VGG_DIST_CACHE`, which all processes of a node share; `VGG_DIST_CACHE_SIZE` bounds them
(`pipelines.stores.node_cache`).
"""

from __future__ import annotations

import errno
import os
import re
import time
from pathlib import Path

import fsspec

from pipelines.paths import is_remote

CACHE_SIZE = "VGG_DIST_CACHE_SIZE"
UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
RETRY_AFTER_S = 0.5, 2.0


def cache_folder(cache: str | None) -> Path:
    """The folder for copies of remote files: `cache` if given, else `$VGG_DIST_CACHE`, else `~/.cache/vgg_dist`."""
    return Path(cache or os.environ.get("VGG_DIST_CACHE") or "~/.cache/vgg_dist").expanduser().absolute()


def cache_limit() -> int | None:
    """The bytes of shards that `$VGG_DIST_CACHE_SIZE` allows; None if it is unset. ValueError, one line, for no size."""
    text = os.environ.get(CACHE_SIZE, "").strip()
    return parse_size(text, CACHE_SIZE) if text else None


def parse_size(text: str, name: str) -> int:
    """Bytes, from 500GB, 2TB, or a number of bytes. ValueError, one line that begins with `name`, for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGTP]B)|(\d+)", text.upper().replace("K", "k"))
    if found is None:
        raise ValueError(f"{name} {text}: must be a size such as 500GB or 2TB, a number of bytes, or 0 for no copies")
    return int(found[3]) if found[3] else round(float(found[1]) * UNITS[found[2]])


def size_text(size: float) -> str:
    """A number of bytes for messages, such as 250.0 GB."""
    unit = next((unit for unit in reversed(UNITS) if size >= UNITS[unit]), "")
    return f"{size / UNITS[unit]:.1f} {unit}" if unit else f"{size:.0f} bytes"


def read_if_exists(where: str) -> bytes | None:
    """The content of a file or URL; None if it does not exist. Raises ValueError, one line, if it cannot be read."""
    try:
        if not is_remote(where):
            return Path(where).read_bytes()
        filesystem, path = fsspec.core.url_to_fs(where)
        return filesystem.cat_file(path)
    except FileNotFoundError:
        return None
    except ImportError as error:
        raise ValueError(f"{where}: {error}") from error
    except Exception as error:  # every backend raises its own types
        raise ValueError(f"{where} could not be read: {_one_line(error)}") from error


def read_range(url: str, start: int, end: int) -> bytes:
    """The bytes from `start` to `end` of a file behind a URL, fewer if it ends earlier.

    Thread-safe. A failed read is tried again twice, because one image in millions must not end a run. Raises OSError, one
    line, if that fails, too.
    """
    for wait in (*RETRY_AFTER_S, None):
        try:
            filesystem, path = fsspec.core.url_to_fs(url)
            return filesystem.cat_file(path, start=start, end=end)
        except Exception as error:  # every backend raises its own types
            if wait is None or isinstance(error, FileNotFoundError | PermissionError | ImportError):
                raise OSError(f"{url}: bytes {start} to {end} could not be read: {_one_line(error)}") from error
            time.sleep(wait)
    raise AssertionError("unreachable")


def write_atomically(where: str, data: bytes) -> None:
    """Writes a file or URL atomically: readers see the old content or the new. Raises OSError if that fails."""
    if is_remote(where):
        filesystem, path = fsspec.core.url_to_fs(where)
        filesystem.pipe_file(path, data)
    else:
        Path(f"{where}.part").write_bytes(data)
        os.replace(f"{where}.part", where)


def copy_file(url: str, path: str, size: int) -> None:
    """Copies `url` to the local `path`. Removes the file and raises OSError, one line, if that fails or the size is wrong.

    The error's `errno` is in DISK_FULL if the disk is full, otherwise None.
    """
    try:
        filesystem, remote = fsspec.core.url_to_fs(url)
        filesystem.get_file(remote, path)
        if size_of(path) != size:
            raise OSError(f"{size_of(path)} bytes instead of {size}: truncated or replaced")
    except Exception as error:  # every backend raises its own types
        Path(path).unlink(missing_ok=True)  # on a full disk the next attempt needs the space
        failed = OSError(f"{url} could not be copied to {os.path.dirname(path)}: {_one_line(error)}")
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            failed.errno = error.errno
        raise failed from error


def size_of(path: str) -> int:
    """Size of a local file in bytes; -1 if it does not exist."""
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return -1


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
