"""Data behind fsspec URLs (s3://, gs://, https://, ...): small files are read directly, large ones through a local cache."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
from filelock import FileLock

from pipelines.paths import is_remote


def cache_folder(cache: str | None) -> Path:
    """The folder for copies of remote files: `cache` if given, else `$VGG_DIST_CACHE`, else `~/.cache/vgg_dist`."""
    return Path(cache or os.environ.get("VGG_DIST_CACHE") or "~/.cache/vgg_dist").expanduser().absolute()


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


def write_atomically(where: str, data: bytes) -> None:
    """Writes a file or URL atomically: readers see the old content or the new. Raises OSError if that fails."""
    if is_remote(where):
        filesystem, path = fsspec.core.url_to_fs(where)
        filesystem.pipe_file(path, data)
    else:
        Path(f"{where}.part").write_bytes(data)
        os.replace(f"{where}.part", where)


def fetch(url: str, path: str, size: int) -> None:
    """Copies `url` to the local `path`, unless a file of `size` bytes is there already.

    Safe to call from several processes and threads at once: one copies, the others wait. Raises OSError, one line, if the
    copy fails or has another size.
    """
    if size_of(path) == size:
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # The kernel releases the lock when its holder dies. A killed process leaves only a .part file, which is overwritten.
    with FileLock(f"{path}.lock"):
        if size_of(path) == size:
            return
        part = f"{path}.part"
        try:
            filesystem, remote = fsspec.core.url_to_fs(url)
            filesystem.get_file(remote, part)
            if size_of(part) != size:
                raise OSError(f"{size_of(part)} bytes instead of {size}: truncated or replaced")
            os.replace(part, path)
        except Exception as error:  # every backend raises its own types
            Path(part).unlink(missing_ok=True)  # on a full disk the next attempt needs the space
            raise OSError(f"{url} could not be copied to {os.path.dirname(path)}: {_one_line(error)}") from error


def size_of(path: str) -> int:
    """Size of a local file in bytes; -1 if it does not exist."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
