"""Sets some of the training images aside for validation: the same ones for the same seed, the same share of each class."""

from __future__ import annotations

import hashlib
import os
from fractions import Fraction

import numpy as np

from pipelines.layouts.image_files import QUARANTINED, LeftOut
from pipelines.layouts.splits import find_split, what_lies_there
from pipelines.paths import is_remote
from pipelines.stores.class_checks import check_classes
from pipelines.stores.folder import FolderStore, list_classes, open_classes
from pipelines.stores.open import local_root
from pipelines.stores.quarantine import find_list, read_quarantine


def open_unsplit(location: str) -> FolderStore:
    """The images of a folder without a validation split (a test set may be there): of its folder `train`, or class folders.

    ValueError, one line, where there is one, or what is there cannot be trained on.
    """
    if is_remote(location):
        raise ValueError(f"--data {location}: is a URL; links are made to a folder of this machine")
    root = str(local_root(location))
    if (val := find_split(root, "val")) is not None and not val.is_test:
        raise ValueError(f"--data {location}: has a validation split already, {val.name}")
    train, left_out = find_split(root, "train"), LeftOut()
    if train is None and val is not None:
        raise ValueError(f"--data {location}: has {val.name} and no train")
    try:
        classes = list_classes(root, train.folders if train else ("",), left_out)
        if not classes:
            raise ValueError(f"--data {location}: {what_lies_there(root, 'train')}")
        store = open_classes(root, classes, list(classes), left_out)
    except OSError as error:
        raise ValueError(f"--data {location}: {error}") from error
    quarantined = store.find(read_quarantine(location, find_list(location, None)).keys())
    store.left_out.add(QUARANTINED, *(store.name(index) for index in quarantined.tolist()))
    store = store.subset(np.setdiff1d(np.arange(len(store)), quarantined))
    check_classes(store, location, "train")
    return store


def split_store(store: FolderStore, share: float, seed: int) -> tuple[FolderStore, FolderStore]:
    """Train and val: of each class `share` of the images, rounded, but one at least, and one stays for training.

    Which ones follows from the seed, the class and the file's name alone: images or classes that are added later do not
    change the rank of the others. ValueError for a share that cannot be.
    """
    if not 0 < share < 1:
        raise ValueError(f"--val {share}: must be a share between 0 and 1, for example 0.1")
    chosen = np.zeros(len(store), bool)
    for label in range(len(store.class_names)):
        rows = np.flatnonzero(store.labels == label)
        # Exactly the decimal that was typed, halves upwards: 0.1 of 25 are 3.
        count = int(len(rows) * Fraction(str(share)) + Fraction(1, 2))
        count = min(max(count, 1), len(rows) - 1)
        chosen[sorted(rows.tolist(), key=lambda row: _rank(store, row, seed))[:count]] = True
    return store.subset(np.flatnonzero(~chosen)), store.subset(np.flatnonzero(chosen))


def _rank(store: FolderStore, row: int, seed: int) -> bytes:
    key = os.path.join(store.class_names[store.labels[row]], store.files[row])
    return hashlib.sha256(f"{seed}/{key}".encode("utf-8", "surrogateescape")).digest()
