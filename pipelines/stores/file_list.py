"""Images without class folders: a list of files, or a folder of images whose labels, if any, come from a file.

The official ILSVRC validation and test sets are such folders. Labels, and the test server's predictions, are in the order of
the file names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.layouts.image_files import IMAGE_EXTENSIONS, LeftOut
from pipelines.layouts.splits import explain_missing_split
from pipelines.stores.folder import list_images
from pipelines.stores.sample_store import SampleStore

UNLABELLED = -1


class FileListStore(SampleStore):
    """The images in `files`, in that order; `labels` is UNLABELLED where the class is unknown."""

    def __init__(
        self,
        files: Sequence[str],
        class_names: list[str],
        labels: np.ndarray | None = None,
        left_out: LeftOut | None = None,
    ) -> None:
        self.files = list(files)
        self.left_out = left_out or LeftOut()
        self.class_names = class_names
        self.labels = np.full(len(self.files), UNLABELLED, np.int64) if labels is None else labels

    def read(self, index: int) -> bytes:
        """The content of the file. Raises OSError with its name."""
        return Path(self.files[index]).read_bytes()

    def length(self, index: int) -> int:
        """The size of the file in bytes. Raises OSError with its name."""
        return os.stat(self.files[index]).st_size

    def name(self, index: int) -> str:
        """The name of the file, without its folder."""
        return os.path.basename(self.files[index])

    def size(self, index: int) -> None:
        """None: unknown without opening the file."""
        return

    def subset(self, indices: np.ndarray) -> FileListStore:
        """The images at `indices`."""
        return FileListStore([self.files[index] for index in indices], self.class_names, self.labels[indices], self.left_out)


def open_image_folder(folder: str, class_names: list[str], labels: Sequence[str] | None = None) -> FileListStore:
    """The images of a folder, sorted by name. `labels`: the name of each image's class, in that order.

    Raises ValueError, one line, for a folder that is missing or has no images, and for labels that do not match.
    """
    left_out = LeftOut()
    try:
        names = list_images(folder, left_out)
        if not names:
            nothing = f"has neither train and val nor images ({' '.join(IMAGE_EXTENSIONS)})"
            raise ValueError(f"--data {folder}: {nothing}; {explain_missing_split(folder, 'val')}")
    except OSError as error:
        raise ValueError(f"--data {folder}: {error.strerror}") from error
    files = [os.path.join(folder, name) for name in names]
    if labels is None:
        return FileListStore(files, class_names, left_out=left_out)
    if len(labels) != len(files):
        raise ValueError(
            f"--labels: {len(labels)} labels for the {len(files)} images in {folder}; one per line, in the order of names"
        )
    number = {name: index for index, name in enumerate(class_names)}
    if unknown := sorted(set(labels) - set(number)):
        raise ValueError(f"--labels: classes unknown to the net: {', '.join(unknown[:5])}")
    return FileListStore(files, class_names, np.array([number[label] for label in labels], np.int64), left_out)
