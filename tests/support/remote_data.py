"""Data behind a URL, and shards with checksums."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np

from pipelines.stores.shard_index import ShardIndex


def upload(folder: Path, url: str) -> None:
    filesystem, path = fsspec.core.url_to_fs(url)
    for file in folder.iterdir():
        filesystem.pipe_file(f"{path}/{file.name}", file.read_bytes())


def add_checksums(folder: Path) -> None:
    """Gives the indexes in a folder of shards the checksums of the records as they are."""
    for file in folder.glob("*.index.npz"):
        index = ShardIndex.from_bytes(file.read_bytes(), str(file))
        tars = [(folder / name).read_bytes() for name in index.shard_names]
        records = [
            tars[shard][offset : offset + length]
            for shard, offset, length in zip(index.shard, index.offset, index.length, strict=True)
        ]
        file.write_bytes(replace(index, checksum=np.array([zlib.crc32(record) for record in records], np.uint32)).to_bytes())


def flip_bit(url: str, at: int) -> None:
    """Flips a bit of the byte at `at` in a file behind a URL."""
    filesystem, path = fsspec.core.url_to_fs(url)
    content = bytearray(filesystem.cat_file(path))
    content[at] ^= 1
    filesystem.pipe_file(path, bytes(content))
