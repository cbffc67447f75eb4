"""Writes both splits of a data set as shards or as class folders, and prints what was written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from pipelines.preparation.folder_writer import write_tree
from pipelines.preparation.shard_writer import write_shards
from pipelines.preparation.summary import print_left_out
from pipelines.stores.sample_store import SampleStore
from pipelines.stores.synthetic import SyntheticSpec, SyntheticStore


def write_splits(
    splits: dict[str, SampleStore], out: Path, format: Literal["shards", "tree"], shard_size: int, seed: int
) -> None:
    """Writes `splits`, by name, into the folder `out`. `shard_size` in MB. ValueError for a size or folder that is wrong."""
    if shard_size < 1:
        raise ValueError(f"--shard-size {shard_size}: must be at least 1 (MB)")
    for split, store in splits.items():
        if format == "shards":
            shards = write_shards(store, split, _folder(out), shard_bytes=shard_size * 10**6, seed=seed)
            count, size = len(shards.shard_names), int(shards.shard_bytes.sum())
            form = f"{count} shard{'s' * (count != 1)}, {size:,} bytes"
        else:
            write_tree(store, split, _folder(out))
            form = f"{len(store)} files"
        print(f"{split}: {len(store)} images, {len(store.class_names)} classes, {form} in {out}")
    print_left_out(**splits)
    print(f"next: python -m pipelines.prepare check --data {out}, then --data {out}")


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
