"""Data behind a URL."""

from __future__ import annotations

from pathlib import Path

import fsspec


def upload(folder: Path, url: str) -> None:
    filesystem, path = fsspec.core.url_to_fs(url)
    for file in folder.iterdir():
        filesystem.pipe_file(f"{path}/{file.name}", file.read_bytes())


def flip_bit(url: str, at: int) -> None:
    """Flips a bit of the byte at `at` in a file behind a URL."""
    filesystem, path = fsspec.core.url_to_fs(url)
    content = bytearray(filesystem.cat_file(path))
    content[at] ^= 1
    filesystem.pipe_file(path, bytes(content))
