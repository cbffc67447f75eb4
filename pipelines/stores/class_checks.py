"""What must hold of a split's classes, and what a user should know of the data that were opened."""

from __future__ import annotations

import sys

import numpy as np

from pipelines.layouts.image_files import IMAGE_EXTENSIONS, listed, lookalikes, shown
from pipelines.layouts.splits import TESTS
from pipelines.secrets import masked
from pipelines.stores.folder import FolderStore
from pipelines.stores.sample_store import SampleStore


def check_classes(store: SampleStore, location: str, split: str) -> None:
    """ValueError, one line, for a split with one class or without images, and for a class without training images."""
    if len(store.class_names) < 2:
        only = ", ".join(map(shown, store.class_names))
        raise ValueError(f"--data {location}: only one class ({only}); at least two are needed")
    passed_over = f"; left out: {store.left_out.summary()}" if len(store.left_out) else ""
    if len(store) == 0:
        extensions = " ".join(IMAGE_EXTENSIONS)
        raise ValueError(f"--data {location}: no images in {split} (by extension: {extensions}){passed_over}")
    if split == "train" and (empty := without_image(store)):
        raise ValueError(
            f"--data {location}: classes without an image in train: {listed(empty)}: remove their folders, or fill them"
            + passed_over
        )


def without_image(store: SampleStore) -> list[str]:
    """The classes without an image in `store`."""
    counts = np.bincount(store.labels, minlength=len(store.class_names))
    return [store.class_names[label] for label in np.flatnonzero(counts == 0)]


def remarks(split: str, store: SampleStore) -> list[str]:
    """What is left out of a split, and of `val` the classes without an image, and whether it is a test set: a line each."""
    lines = [f"{split}: left out: {store.left_out.summary()}"] if len(store.left_out) else []
    if split == "val" and isinstance(store, FolderStore) and store.folders[0].split("/")[0].lower() in TESTS:
        lines.append("val: there is none, and the test images are taken for it; prepare split makes one of training images")
    if split == "val" and (empty := without_image(store)):
        lines.append(f"val: {len(empty)} of {len(store.class_names)} classes have no image in it: {listed(empty)}")
    if split == "train" and (twins := lookalikes(store.class_names)):
        lines.append(f"train: classes that look alike but for case or blanks are told apart: {', '.join(twins[:5])}")
    return lines


def tell_remarks(location: str, **stores: SampleStore) -> None:
    """Prints the remarks on splits, such as `train=store`, to stderr."""
    for split, store in stores.items():
        for line in remarks(split, store):
            print(f"{masked(f'--data {location}')}: {line}", file=sys.stderr)
