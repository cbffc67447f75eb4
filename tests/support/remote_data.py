"""Data behind a URL."""

from __future__ import annotations

from pathlib import Path

import fsspec


def upload(folder: Path, url: str) -> None:
    filesystem, path = fsspec.core.url_to_fs(url)
    for file in folder.iterdir():
        filesystem.pipe_file(f"{path}/{file.name}", file.read_bytes())
