"""Finds the train and validation folders below a data location, in the layouts in which data sets come."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.layouts.image_files import is_folder, is_image_name, is_left_out_folder, listed, shown

SPLITS = ("train", "val")
# Names of folders, in order of preference; upper and lower case are equal.
TESTS = ("test", "testing")
_NAMES = {"train": ("train", "training"), "val": ("val", "validation", "valid", *TESTS)}
# Where Kaggle's ImageNet has its splits, from each of its upper folders.
_INNER = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")
_TARS = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


@dataclass(frozen=True)
class Split:
    """The folders of a split, as paths below the root: one, or several parts.

    `others`: folders that are not used although their names match, too.
    """

    folders: tuple[str, ...]
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The names of the folders, for messages."""
        return ", ".join(self.folders)

    @property
    def is_test(self) -> bool:
        """Whether it is a test set, which is used if there is no validation set."""
        return self.folders[0].rpartition("/")[2].lower() in TESTS


def find_split(root: str, split: str) -> Split | None:
    """The folders of `train` or `val` below the folder `root`; None if there are none."""
    for inner in _INNER:
        folder = os.path.join(root, inner)
        if not os.path.isdir(folder):
            continue
        inside = list(_folders(folder))
        prefix = f"{inner}/" if inner else ""
        names = _NAMES[split]
        found = [name for name in inside if name.lower() in names]
        found.sort(key=lambda name: (names.index(name.lower()), name not in names, name))
        if found:
            others = tuple(prefix + name for name in found[1:] if name.lower() not in TESTS)
            return Split((prefix + found[0],), others)
        # ImageNet-100 from Kaggle: train.X1 to train.X4, val.X.
        if parts := sorted(other for other in inside if re.fullmatch(rf"{split}\.X\d*", other)):
            return Split(tuple(prefix + part for part in parts))
    return None


def is_split_name(name: str) -> bool:
    """Whether a folder of this name is a split, not a class."""
    return any(name.lower() in names for names in _NAMES.values())


def has_split(location: str) -> bool:
    """Whether a local folder has a split, as folders or as shards."""
    shards = (f"{name}.index.npz" for names in _NAMES.values() for name in names)
    if any(os.path.isfile(os.path.join(location, name)) for name in shards):
        return True
    try:
        return any(find_split(location, split) is not None for split in SPLITS)
    except PermissionError:
        return False


def explain_missing_split(root: str, split: str) -> str:
    """The message for a folder without the split: what it contains instead, and what the user can do."""
    path, inside = Path(root), sorted(os.listdir(root))
    if not inside:
        return "is empty"
    folders = sorted(_folders(root))
    if found := [name for name in inside if name in _TARS]:
        return f"has {listed(found)}: unpack them first, python -m pipelines.prepare unpack --source {root} --out FOLDER"
    if any(re.fullmatch(r"(train|val)\.writing", name) for name in inside):
        return "has shards of an interrupted prepare run: repeat the same command"
    if any(name.endswith(".index.npz") for name in inside):
        return f"has shards, but none of {split} ({split}.index.npz is missing)"
    if tars := [name for name in inside if name.endswith((".tar", ".tar.gz", ".tgz", ".zip"))]:
        return (
            f"has archives ({listed(tars)}) and no folder for {split}: unpack them, or make shards from two tars, "
            "python -m pipelines.prepare shard --data TRAIN.tar VAL.tar --out FOLDER"
        )
    if deeper := [name for name in folders if has_split(str(path / name))]:
        others = f" (or {listed(deeper[1:])})" if deeper[1:] else ""
        return f"the data are one folder deeper: --data {path / deeper[0]}{others}"
    for below in (path, path.parent):
        splits = [find_split(str(below.parent), other) for other in SPLITS]
        if all(splits) and any(found is not None and below.name in found.folders for found in splits):
            return f"is only one folder of a data set: --data {below.parent}"
    known = find_split(root, "train" if split == "val" else "val")
    if known is not None and split == "val":
        return (
            f"has {shown(known.name)} and no validation images (val, validation, valid or test): "
            f"python -m pipelines.prepare split --data {root} --out FOLDER sets some of the training images aside"
        )
    classes = [name for name in folders if _has_image(path / name)] if known is None else []
    if len(classes) > 1:
        return (
            f"has {len(classes)} class folders ({listed(classes)}) and no train and val: python -m pipelines.prepare "
            f"split --data {root} --out FOLDER creates both"
        )
    if known is None and any(map(is_image_name, inside)):
        return "has images without class folders; needed are train/<class>/*.jpg and val/<class>/*.jpg"
    return (
        f"has no folder '{split}', but {listed(inside)}; needed are train/<class>/*.jpg and val/<class>/*.jpg, or shards "
        "with train.index.npz and val.index.npz"
    )


def _folders(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if not is_left_out_folder(entry.name) and is_folder(entry))


def _has_image(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(is_image_name(entry.name) or is_folder(entry) for entry in entries)
