"""Sets some of the training images aside for validation: the same share of each class, the same images for the same seed."""

from __future__ import annotations

import hashlib
import os
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipelines.layouts.image_files import QUARANTINED, LeftOut
from pipelines.layouts.splits import explain_missing_split, find_split
from pipelines.paths import is_remote
from pipelines.preparation.folder_writer import write_links
from pipelines.preparation.summary import print_left_out
from pipelines.stores.class_checks import check_classes
from pipelines.stores.folder import FolderStore, list_classes, open_classes
from pipelines.stores.open import local_root
from pipelines.stores.quarantine import find_list, read_quarantine


def write_split(data: str, out: Path, share: float, seed: int) -> None:
    """Writes the split as folders of links into the new folder `out`, and prints what was written.

    Raises ValueError, one line, for data that cannot be split and a folder that cannot be written.
    """
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out}: exists already")
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(data)):
        raise ValueError(f"--out {out}: is inside --data {data}, where folders are classes; choose a folder beside it")
    splits = dict(zip(("train", "val"), split_store(open_unsplit(data), share, seed), strict=True))
    try:
        write_links(splits, out)
    except OSError as error:
        raise ValueError(f"--out {out}: symbolic links cannot be written there: {error.strerror}") from error
    for name, store in splits.items():
        print(f"{name}: {len(store)} images, {len(store.class_names)} classes, as links in {out / name}")
    splits["val"].left_out = LeftOut()  # both have those of the training images; print them once
    print_left_out(**splits)
    print(f"next: --data {out}; to copy the images, python -m pipelines.prepare shard --data {out} --out FOLDER")


def open_unsplit(location: str) -> FolderStore:
    """The images of a folder that has no validation split: those in its folder `train`, or in the class folders themselves.

    A test set may be there. Raises ValueError, one line, if there is a validation split or the images cannot be trained on.
    """
    if is_remote(location):
        raise ValueError(f"--data {location}: is a URL; split needs a local folder, because it creates links")
    root = str(local_root(location))
    if (val := find_split(root, "val")) is not None and not val.is_test:
        raise ValueError(f"--data {location}: has a validation split already, {val.name}")
    train, left_out = find_split(root, "train"), LeftOut()
    if train is None and val is not None:
        raise ValueError(f"--data {location}: has {val.name}, but no train")
    try:
        classes = list_classes(root, train.folders if train else ("",), left_out)
        if not classes:
            raise ValueError(f"--data {location}: {explain_missing_split(root, 'train')}")
        store = open_classes(root, classes, list(classes), left_out)
    except OSError as error:
        raise ValueError(f"--data {location}: {error}") from error
    quarantined = store.find(read_quarantine(location, find_list(location, None)).keys())
    store.left_out.add(QUARANTINED, *(store.name(index) for index in quarantined.tolist()))
    store = store.subset(np.setdiff1d(np.arange(len(store)), quarantined))
    check_classes(store, location, "train")
    return store


def split_store(store: FolderStore, share: float, seed: int) -> tuple[FolderStore, FolderStore]:
    """Train and val. Val gets `share` of each class, rounded, but at least one image, and never the only one.

    The order in which images are chosen depends only on the seed, the class and the file's name, so adding images or classes
    does not change the rank of the others. Raises ValueError for a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"--val {share}: must be between 0 and 1, for example 0.1")
    chosen = np.zeros(len(store), bool)
    for label in range(len(store.class_names)):
        rows = np.flatnonzero(store.labels == label)
        # Computed with the exact decimal, halves round up: 0.1 of 25 is 3.
        count = int(len(rows) * Fraction(str(share)) + Fraction(1, 2))
        count = min(max(count, 1), len(rows) - 1)
        chosen[sorted(rows.tolist(), key=lambda row: _rank(store, row, seed))[:count]] = True
    return store.subset(np.flatnonzero(~chosen)), store.subset(np.flatnonzero(chosen))


def _rank(store: FolderStore, row: int, seed: int) -> bytes:
    key = os.path.join(store.class_names[store.labels[row]], store.files[row])
    return hashlib.sha256(f"{seed}/{key}".encode("utf-8", "surrogateescape")).digest()
