"""The lines that `python -m pipelines.prepare` prints about samples that are left out."""

from __future__ import annotations

from pipelines.layouts.image_files import listed
from pipelines.stores.class_checks import without_image
from pipelines.stores.sample_store import SampleStore


def print_left_out(**stores: SampleStore) -> None:
    """Prints a line for each reason (split, first names, count, reason), and one for classes without validation images."""
    for split, store in stores.items():
        for text, names in store.left_out.lines():
            print(f"left out of {split}\t{names}\t{text}")
        if split == "val" and (absent := without_image(store)):
            print(f"no image in val\t{listed(absent)}\t{len(absent)} of {len(store.class_names)} classes")
