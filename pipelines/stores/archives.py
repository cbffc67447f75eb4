"""Stores of the images inside plain tar archives, without unpacking: tars of class folders, and the ILSVRC-2012 archives.

The headers of an archive are read once. Reading an image is then one `pread` at its offset, also for a tar within a tar.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.layouts.devkit import DEVKIT, read_devkit
from pipelines.layouts.image_files import IMAGE_EXTENSIONS, NO_CLASS, LeftOut, class_of, listed, shown, similar_name
from pipelines.layouts.splits import is_split_name
from pipelines.stores.sample_store import Names
from pipelines.stores.shard_files import ShardFolder
from pipelines.stores.shard_index import ShardIndex
from pipelines.stores.shards import ShardStore
from pipelines.stores.tar_members import Span, read_members

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"


def open_class_tar(path: Path, class_names: list[str] | None = None) -> ShardStore:
    """The images of a tar with class folders, or with one tar per class.

    `class_names`: the classes of the training split, to open another split. All class folders may lie in a common folder
    such as `train/`. Raises ValueError, one line, if the file is not an uncompressed tar, is truncated, or has no class
    folders or unknown ones.
    """
    members, left_out = read_members(path)
    images, classes = _in_class_folders(members, class_names, left_out)
    if not images:
        left_out_note = f"; left out: {left_out.summary()}" if len(left_out) else ""
        raise ValueError(f"{path}: has no class folders with images ({' '.join(IMAGE_EXTENSIONS)}){left_out_note}")
    found = sorted(set(classes))
    if class_names is None and len(found) > 1 and all(map(is_split_name, found)):
        fix = "make one tar per split, or unpack it"
        raise ValueError(f"{path}: has {listed(found)}, which are splits and not classes: {fix}")
    known = found if class_names is None else class_names
    if unknown := sorted(set(classes) - set(known)):
        similar = next((f" (train has {shown(other)})" for name in unknown if (other := similar_name(name, known))), "")
        raise ValueError(f"{path}: classes that are not in train: {listed(unknown)}{similar}")
    return _store(path, images, classes, known, left_out)


def open_ilsvrc(folder: Path) -> tuple[ShardStore, ShardStore]:
    """Train and val of the official ILSVRC-2012 archives in `folder`. Classes are the sorted WordNet ids.

    Raises ValueError, one line, if an archive is missing or truncated, or does not match the development kit.
    """
    for name in (TRAIN_TAR, VAL_TAR, DEVKIT):
        if not (folder / name).is_file():
            raise ValueError(f"--source {folder}: {name} is missing (needed: {TRAIN_TAR}, {VAL_TAR}, {DEVKIT})")
    wnids, val_labels = read_devkit(folder / DEVKIT)

    members, left_out = read_members(folder / TRAIN_TAR)
    members, classes = _in_class_folders(members, None, left_out)
    found = sorted(set(classes))
    if found != sorted(wnids.values()):
        differing = listed(sorted(set(found) ^ set(wnids.values())))
        raise ValueError(f"{folder / TRAIN_TAR} and {DEVKIT} have different classes: {differing}")
    train = _store(folder / TRAIN_TAR, members, classes, found, left_out)

    members, left_out = read_members(folder / VAL_TAR)
    members.sort()
    if len(members) != len(val_labels):
        left_out_note = f"; left out: {left_out.summary()}" if len(left_out) else ""
        raise ValueError(
            f"{folder / VAL_TAR} has {len(members)} images, but {DEVKIT} has labels for {len(val_labels)}{left_out_note}"
        )
    return train, _store(folder / VAL_TAR, members, [wnids[label] for label in val_labels], found, left_out)


def _class_depth(names: Sequence[str], class_names: list[str] | None) -> int:
    """The depth of the class folders: the number of folders above them, which all images have in common.

    A common folder whose name is in the training split's `class_names` is itself the class folder.
    """
    folders = [name.split("/")[:-1] for name in names if "/" in name]
    depth = 0
    while folders:
        here = {class_of(parts[depth]) for parts in folders if len(parts) > depth}
        deeper = any(len(parts) > depth + 1 for parts in folders)
        if len(here) > 1 or not deeper or (class_names is not None and here <= set(class_names)):
            break
        depth += 1
        if is_split_name(here.pop()):
            break
    return depth


def _in_class_folders(
    members: Sequence[tuple[str, Span]], class_names: list[str] | None, left_out: LeftOut
) -> tuple[list[tuple[str, Span]], list[str]]:
    """The images in class folders, and the class of each; others are counted in `left_out`."""
    depth = _class_depth([name for name, _ in members], class_names)
    images = [(name, span) for name, span in members if name.count("/") > depth]
    left_out.add(NO_CLASS, *(name for name, _ in members if name.count("/") <= depth))
    return images, [class_of(name.split("/", depth + 1)[depth]) for name, _ in images]


def _store(
    path: Path, members: Sequence[tuple[str, Span]], classes: Sequence[str], class_names: list[str], left_out: LeftOut
) -> ShardStore:
    number = {name: label for label, name in enumerate(class_names)}
    order = sorted(range(len(members)), key=lambda index: (classes[index], members[index][0]))
    offsets, lengths = np.array([members[index][1] for index in order], np.int64).T
    zeros = np.zeros(len(members), np.int32)
    index = ShardIndex(
        class_names=class_names,
        shard_names=[path.name],
        shard_bytes=np.array([path.stat().st_size]),
        shard=zeros,
        offset=offsets,
        length=lengths,
        label=np.array([number[classes[index]] for index in order], np.int64),
        height=zeros,
        width=zeros,
        names=Names.of(members[index][0] for index in order),
    )
    return ShardStore(index, ShardFolder(str(path.parent)), left_out)
