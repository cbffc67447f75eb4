"""Opens the data that `--data` names: `open_splits(location)`, or `open_store(location, split)` for one split.

A location is

- a folder with class folders, `ROOT/train/<class>/*.jpg` and `ROOT/val/<class>/*.jpg`, or in one of the other layouts of
  `pipelines.layouts.splits`,
- a folder or an fsspec URL (`s3://bucket/imagenet`) with tar shards, as `python -m pipelines.prepare shard` writes them,
- `synthetic`, or `synthetic:train=4000,val=500,size=64,seed=0`: the built-in data.

Samples in `ROOT/quarantine.txt`, which `python -m pipelines.prepare check` writes, are left out (see stores/quarantine.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.layouts.image_files import QUARANTINED, listed
from pipelines.paths import is_remote
from pipelines.stores.class_checks import check_classes
from pipelines.stores.folder_tree import open_tree
from pipelines.stores.quarantine import read_quarantine
from pipelines.stores.sample_store import SampleStore
from pipelines.stores.shards import open_shards
from pipelines.stores.synthetic import SyntheticSpec, SyntheticStore

__all__ = ["SampleStore", "open_splits", "open_store"]

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "test")}


def open_store(location: str, split: str, *, cache: str | None = None, quarantine: str | None = None) -> SampleStore:
    """Opens one split, `train` or `val`, without the quarantined samples.

    `quarantine`: a list in addition to the one beside the data (`pipelines.stores.quarantine.find_list`). `cache`: local
    folder for shards from a URL; default `$VGG_DIST_CACHE`, else `~/.cache/vgg_dist`. Raises ValueError, one line, for a
    location that is missing, empty or unreadable, or that has a single class, a class without training images, or a class
    in `val` that is not in `train`.
    """
    store = open_unchecked(location, split, cache=cache)
    if not isinstance(store, SyntheticStore):
        quarantined = store.find(read_quarantine(location, quarantine).keys())
        if len(quarantined):
            store.left_out.add(QUARANTINED, *(store.name(index) for index in quarantined.tolist()))
            store = store.subset(np.setdiff1d(np.arange(len(store)), quarantined))
    check_classes(store, location, split)
    return store


def open_splits(
    location: str, *, cache: str | None = None, quarantine: str | None = None, quarantined: bool = False
) -> tuple[SampleStore, SampleStore]:
    """Opens `train` and `val`, as training and `check` do. Raises as `open_store`.

    `quarantined`: include the quarantined samples.
    """
    if quarantined:
        train, val = open_unchecked(location, "train", cache=cache), open_unchecked(location, "val", cache=cache)
        check_classes(train, location, "train")
        check_classes(val, location, "val")
    else:
        train, val = (open_store(location, split, cache=cache, quarantine=quarantine) for split in ("train", "val"))
    if train.class_names != val.class_names:
        differing = listed(sorted(set(train.class_names) ^ set(val.class_names)))
        raise ValueError(f"--data {location}: train and val were sharded with different classes: {differing}")
    return train, val


def open_unchecked(location: str, split: str, *, cache: str | None = None) -> SampleStore:
    """As `open_store`, but with the quarantined samples and without a check of the classes."""
    if split not in SPLIT_FOLDERS:
        raise ValueError(f"split {split!r}: must be one of {', '.join(SPLIT_FOLDERS)}")
    if location.partition(":")[0] == "synthetic":
        return SyntheticStore(SyntheticSpec.parse(location), split)
    try:
        root = location if is_remote(location) else str(local_root(location))
        shards = open_shards(root, SPLIT_FOLDERS[split], cache=cache)
        if shards is not None:
            return shards
        if not is_remote(location):
            return open_tree(root, split)
    except OSError as error:
        raise ValueError(f"--data {location}: {error}") from error
    raise ValueError(
        f"--data {location}: has no {split}.index.npz; a URL must have shards, "
        "as python -m pipelines.prepare shard writes them"
    )


def local_root(location: str) -> Path:
    """The absolute path of a local location. Raises ValueError if it is not a folder, or is empty."""
    root = Path(location.removeprefix("file://")).expanduser().absolute()
    if not root.exists():
        raise ValueError(f"--data {location}: does not exist")
    if not root.is_dir():
        shard = "python -m pipelines.prepare shard --data TRAIN.tar VAL.tar --out FOLDER"
        hint = f"; {shard} makes shards from two tars" if root.suffix == ".tar" else ""
        raise ValueError(f"--data {location}: is a file; must be a folder, a URL of shards or 'synthetic'{hint}")
    if not any(root.iterdir()):
        raise ValueError(f"--data {location}: is empty")
    return root
