"""Opens a split of a local folder: class folders, or one folder of images with a list of their classes."""

from __future__ import annotations

import os

import numpy as np

from pipelines.layouts.image_files import NO_IMAGE, NO_LABEL, OTHER_SPLIT, LeftOut, class_of, listed, shown, similar_name
from pipelines.layouts.label_lists import KNOWN, TINY, find_label_list, read_label_list
from pipelines.layouts.splits import explain_missing_split, find_split
from pipelines.stores.folder import FolderStore, UnknownClasses, list_classes, list_images, open_classes
from pipelines.stores.sample_store import Names


def open_tree(root: str, split: str) -> FolderStore:
    """The images of `train` or `val` below the folder `root`. The classes are always those of `train`.

    Raises ValueError, one line, if the split is missing or has other classes; OSError if a folder cannot be read.
    """
    source = find_split(root, split)
    if source is None:
        raise ValueError(f"--data {root}: {explain_missing_split(root, split)}")
    left_out = LeftOut()
    left_out.add(OTHER_SPLIT, *source.others)
    classes = list_classes(root, source.folders, left_out)
    train = (
        source if split == "train" else find_split(root, "train")
    )  # None if there is only val, which is enough for evaluation
    known = classes if train == source else list_classes(root, train.folders, LeftOut()) if train else None
    image_folder = _image_folder(root, source.folders[0], classes) if split == "val" else None
    if image_folder is not None:
        left_out = LeftOut()  # list_classes counted the images as left out
        left_out.add(OTHER_SPLIT, *source.others)
        return _open_with_label_list(root, image_folder, None if known is None else list(known), left_out)
    if split == "train" and not classes:
        count = len(list_images(os.path.join(root, source.folders[0]), LeftOut()))
        found = f", but {count} images; they must be in train/<class>/*.jpg" if count else ""
        raise ValueError(f"--data {root}: no class folders in {root}/{source.name}{found}")
    names = list(classes if known is None else known)
    try:
        return open_classes(root, classes, names, left_out)
    except UnknownClasses as error:
        unknown = _with_similar(error.names, names)
        raise ValueError(f"--data {root}: classes in {source.name} that are not in train: {unknown}") from error


def _image_folder(root: str, folder: str, classes: dict[str, list[str]]) -> str | None:
    """The folder below `root` that has all images of a split directly in it; None if they are in class folders."""
    if list(classes) == ["images"] and os.path.isfile(os.path.join(root, folder, TINY)):
        return f"{folder}/images"
    return folder if not classes and list_images(os.path.join(root, folder), LeftOut()) else None


def _open_with_label_list(root: str, folder: str, class_names: list[str] | None, left_out: LeftOut) -> FolderStore:
    images = list_images(os.path.join(root, folder), left_out)
    path = find_label_list(os.path.join(root, folder))
    if path is None:
        raise ValueError(
            f"--data {root}: {folder} has {len(images)} images and no class folders, so a list of their classes is needed: "
            f"{KNOWN}, in {folder} or a folder above it; or "
            f"python -m pipelines.prepare split --data {root} --out FOLDER sets training images aside instead"
        )
    classes = {stem: class_of(name) for stem, name in read_label_list(path, images).items()}
    stems = [os.path.splitext(image)[0] for image in images]
    labelled = [place for place, stem in enumerate(stems) if stem in classes]
    left_out.add(NO_LABEL, *(f"{folder}/{image}" for image, stem in zip(images, stems, strict=True) if stem not in classes))
    left_out.add(NO_IMAGE, *sorted(classes.keys() - set(stems)))
    if not labelled:
        raise ValueError(f"--data {root}: {path} has none of the {len(images)} images in {folder} ({listed(images)})")
    names = sorted(set(classes.values())) if class_names is None else class_names
    number = {name: label for label, name in enumerate(names)}
    if unknown := sorted({classes[stems[place]] for place in labelled} - set(number)):
        raise ValueError(f"--data {root}: classes in {path} that are not in train: {_with_similar(unknown, names)}")
    labels = np.array([number[classes[stems[place]]] for place in labelled], np.int64)
    files = Names.of(images[place] for place in labelled)
    return FolderStore(root, [folder], names, labels, np.zeros(len(labelled), np.int32), files, left_out)


def _with_similar(unknown: list[str], known: list[str]) -> str:
    """The unknown classes, and a known class that looks like one of them, if there is one."""
    pair = next(((name, other) for name in unknown if (other := similar_name(name, known))), None)
    hint = f" (train has {shown(pair[1])}, which is not {shown(pair[0])})" if pair else ""
    return listed(unknown) + hint
