"""Opens a split of a folder on this machine: class folders, or images in one folder with a list of their classes."""

from __future__ import annotations

import os

import numpy as np

from pipelines.layouts.image_files import NO_IMAGE, NO_LABEL, OTHER_SPLIT, LeftOut, alike, class_of, listed, shown
from pipelines.layouts.label_lists import KNOWN, TINY, find_list, read_list
from pipelines.layouts.splits import find_split, what_lies_there
from pipelines.stores.folder import FolderStore, UnknownClasses, list_classes, list_images, open_classes
from pipelines.stores.sample_store import Names


def open_tree(root: str, split: str) -> FolderStore:
    """The images of `train` or `val` below the folder `root`, its classes being those of `train`.

    ValueError, one line, where the split is not there or has other classes; OSError where a folder cannot be read.
    """
    source = find_split(root, split)
    if source is None:
        raise ValueError(f"--data {root}: {what_lies_there(root, split)}")
    left_out = LeftOut()
    left_out.add(OTHER_SPLIT, *source.others)
    classes = list_classes(root, source.folders, left_out)
    train = source if split == "train" else find_split(root, "train")  # to evaluate, val is enough
    known = classes if train == source else list_classes(root, train.folders, LeftOut()) if train else None
    flat = _image_folder(root, source.folders[0], classes) if split == "val" else None
    if flat is not None:
        left_out = LeftOut()  # the images are what has been left out so far
        left_out.add(OTHER_SPLIT, *source.others)
        return _open_with_label_list(root, flat, None if known is None else list(known), left_out)
    if split == "train" and not classes:
        count = len(list_images(os.path.join(root, source.folders[0]), LeftOut()))
        found = f", but {count} images directly; train/<class>/*.jpg is needed" if count else ""
        raise ValueError(f"--data {root}: no class folders in {root}/{source.name}{found}")
    names = list(classes if known is None else known)
    try:
        return open_classes(root, classes, names, left_out)
    except UnknownClasses as error:
        unknown = _compared(error.names, names)
        raise ValueError(f"--data {root}: classes in {source.name} that train lacks: {unknown}") from error


def _image_folder(root: str, folder: str, classes: dict[str, list[str]]) -> str | None:
    """The folder below `root` that holds a split's images side by side; None where they are in class folders."""
    if list(classes) == ["images"] and os.path.isfile(os.path.join(root, folder, TINY)):
        return f"{folder}/images"
    return folder if not classes and list_images(os.path.join(root, folder), LeftOut()) else None


def _open_with_label_list(root: str, folder: str, class_names: list[str] | None, left_out: LeftOut) -> FolderStore:
    images = list_images(os.path.join(root, folder), left_out)
    path = find_list(os.path.join(root, folder))
    if path is None:
        raise ValueError(
            f"--data {root}: {folder} holds {len(images)} images and no class folders; their classes are read from {KNOWN}, "
            f"beside {folder} or above, and none of these is there; "
            f"python -m pipelines.prepare split --data {root} --out FOLDER sets training images aside instead"
        )
    classes = {stem: class_of(name) for stem, name in read_list(path, images).items()}
    stems = [os.path.splitext(image)[0] for image in images]
    labelled = [place for place, stem in enumerate(stems) if stem in classes]
    left_out.add(NO_LABEL, *(f"{folder}/{image}" for image, stem in zip(images, stems, strict=True) if stem not in classes))
    left_out.add(NO_IMAGE, *sorted(classes.keys() - set(stems)))
    if not labelled:
        raise ValueError(f"--data {root}: {path} knows none of the {len(images)} images in {folder} ({listed(images)})")
    names = sorted(set(classes.values())) if class_names is None else class_names
    number = {name: label for label, name in enumerate(names)}
    if unknown := sorted({classes[stems[place]] for place in labelled} - set(number)):
        raise ValueError(f"--data {root}: classes in {path} that train lacks: {_compared(unknown, names)}")
    labels = np.array([number[classes[stems[place]]] for place in labelled], np.int64)
    files = Names.of(images[place] for place in labelled)
    return FolderStore(root, [folder], names, labels, np.zeros(len(labelled), np.int32), files, left_out)


def _compared(unknown: list[str], known: list[str]) -> str:
    """Unknown classes, with the known ones that look like them."""
    twin = next(((name, other) for name in unknown if (other := alike(name, known))), None)
    hint = f" (train has {shown(twin[1])}, which is not {shown(twin[0])})" if twin else ""
    return listed(unknown) + hint
