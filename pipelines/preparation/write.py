"""Writes both splits of a data set as shards or as class folders, and prints what was written."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Literal

import numpy as np

from pipelines.preparation.folder_writer import write_tree
from pipelines.preparation.restart_markers import NO_JPEGTRAN, find_jpegtran
from pipelines.preparation.shard_writer import write_shards
from pipelines.preparation.summary import print_left_out
from pipelines.stores.sample_store import SampleStore
from pipelines.stores.shard_index import ShardIndex
from pipelines.stores.synthetic import SyntheticSpec, SyntheticStore


def write_splits(
    splits: dict[str, SampleStore],
    out: Path,
    format: Literal["shards", "tree"],
    *,
    shard_size: int,
    seed: int,
    restart_markers: bool,
) -> None:
    """Writes `splits`, by name, into the folder `out`. ValueError for a size or folder that is wrong.

    The last three arguments are about shards: the size of each in MB, the seed of their order, and whether JPEGs get restart
    markers.
    """
    if shard_size < 1:
        raise ValueError(f"--shard-size {shard_size}: must be at least 1 (MB)")
    folder = _folder(out)  # before jpegtran is missed: a mistake is one line
    jpegtran = find_jpegtran() if restart_markers else None
    if format == "shards" and restart_markers and jpegtran is None:
        print(NO_JPEGTRAN, file=sys.stderr)
    for split, store in splits.items():
        if format == "shards":
            size = shard_size * 10**6
            form = _described(write_shards(store, split, folder, shard_bytes=size, seed=seed, jpegtran=jpegtran))
        else:
            write_tree(store, split, folder)
            form = f"{len(store)} files"
        print(f"{split}: {len(store)} images, {len(store.class_names)} classes, {form} in {out}")
    print_left_out(**splits)
    print(f"next: python -m pipelines.prepare check --data {out}, then --data {out}")


def _described(shards: ShardIndex) -> str:
    count, size = len(shards.shard_names), int(shards.shard_bytes.sum())
    marked = 0 if shards.header_end is None else int(np.count_nonzero(shards.header_end))
    markers = f", restart markers in {marked} JPEG{'s' * (marked != 1)}" if marked else ""
    return f"{count} shard{'s' * (count != 1)}, {size:,} bytes{markers}"


def write_synthetic(spec: SyntheticSpec, out: Path) -> None:
    """Writes the built-in data as class folders into `out`."""
    for split in ("train", "val"):
        # Starts from scratch: the leftovers of an interrupted run may have another seed.
        shutil.rmtree(out / f".{split}.part", ignore_errors=True)
        store = SyntheticStore(spec, split)
        write_tree(store, split, _folder(out))
        print(f"{split}: {len(store)} images, {len(store.class_names)} classes in {out / split}")
    print(f"next: --data {out}")


def _folder(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file; must be a folder")
    return out
