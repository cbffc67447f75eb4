"""Checks of a split's classes, and notes to the user about the opened data."""

from __future__ import annotations

import sys

import numpy as np

from pipelines.layouts.image_files import IMAGE_EXTENSIONS, listed, shown, similar_names
from pipelines.layouts.splits import TESTS
from pipelines.secrets import masked
from pipelines.stores.folder import FolderStore
from pipelines.stores.sample_store import SampleStore


def check_classes(store: SampleStore, location: str, split: str) -> None:
    """Raises ValueError, one line, for a split with a single class or no images, and for a class without training images."""
    if len(store.class_names) < 2:
        only = ", ".join(map(shown, store.class_names))
        raise ValueError(f"--data {location}: has only one class ({only}); at least two are needed")
    left_out_note = f"; left out: {store.left_out.summary()}" if len(store.left_out) else ""
    if len(store) == 0:
        extensions = " ".join(IMAGE_EXTENSIONS)
        raise ValueError(f"--data {location}: no images in {split} (extensions: {extensions}){left_out_note}")
    if split == "train" and (empty := without_image(store)):
        raise ValueError(
            f"--data {location}: classes without an image in train: {listed(empty)}: remove their folders, or add images"
            + left_out_note
        )


def without_image(store: SampleStore) -> list[str]:
    """The classes of which `store` has no image."""
    counts = np.bincount(store.labels, minlength=len(store.class_names))
    return [store.class_names[label] for label in np.flatnonzero(counts == 0)]


def notes(split: str, store: SampleStore) -> list[str]:
    """One line each on: images left out; a test set used as `val`; classes without images in `val`; look-alike classes."""
    lines = [f"{split}: left out: {store.left_out.summary()}"] if len(store.left_out) else []
    if split == "val" and isinstance(store, FolderStore) and store.folders[0].split("/")[0].lower() in TESTS:
        lines.append("val: missing, so the test images are used instead; prepare split makes one from training images")
    if split == "val" and (empty := without_image(store)):
        lines.append(f"val: {len(empty)} of {len(store.class_names)} classes have no image: {listed(empty)}")
    if split == "train" and (pairs := similar_names(store.class_names)):
        lines.append(f"train: classes that differ only in case or blanks count as different: {', '.join(pairs[:5])}")
    return lines


def print_notes(location: str, **stores: SampleStore) -> None:
    """Prints the notes on splits, given as `train=store`, to stderr."""
    for split, store in stores.items():
        for line in notes(split, store):
            print(f"{masked(f'--data {location}')}: {line}", file=sys.stderr)
