"""The store of images in local class folders, and the walk that finds them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np

from pipelines.layouts.image_files import (
    BROKEN_LINK,
    CIRCLE,
    EMPTY,
    IMAGE_EXTENSIONS,
    NO_CLASS,
    SPECIAL,
    SUBFOLDER,
    LeftOut,
    class_of,
    is_file,
    is_folder,
    is_image_name,
    is_left_out_folder,
    listed,
    why_left_out,
)
from pipelines.stores.sample_store import Names, SampleStore


class UnknownClasses(ValueError):
    """Classes that have images but are not in the given list of classes."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(listed(names))
        self.names = names


class FolderStore(SampleStore):
    """Files in or below `folders`, which are paths below `root`. `folder`: int32 (N,), the index of each file's folder."""

    def __init__(
        self,
        root: str,
        folders: Sequence[str],
        class_names: list[str],
        labels: np.ndarray,
        folder: np.ndarray,
        files: Names,
        left_out: LeftOut | None = None,
    ) -> None:
        self.root = root
        self.folders = list(folders)
        self.class_names = class_names
        self.labels = labels
        self.folder = folder
        self.files = files
        self.left_out = left_out or LeftOut()

    def read(self, index: int) -> bytes:
        """The content of the file. Raises OSError with the sample's name."""
        try:
            with open(os.path.join(self.root, self.name(index)), "rb") as file:
                return file.read()
        except OSError as error:
            raise OSError(f"{self.name(index)}: {error.strerror}") from error

    def length(self, index: int) -> int:
        """The size of the file in bytes. Raises OSError with the sample's name."""
        try:
            return os.stat(os.path.join(self.root, self.name(index))).st_size
        except OSError as error:
            raise OSError(f"{self.name(index)}: {error.strerror}") from error

    def name(self, index: int) -> str:
        """The path below the root, for example `train/n01440764/x.JPEG`."""
        return f"{self.folders[self.folder[index]]}/{self.files[index]}"

    def size(self, index: int) -> None:
        """None: unknown without opening the file."""
        return

    def subset(self, indices: np.ndarray) -> FolderStore:
        """The samples at `indices`."""
        columns = self.labels[indices], self.folder[indices], self.files.take(indices)
        return type(self)(self.root, self.folders, self.class_names, *columns, self.left_out)

    def find(self, names: Set[str]) -> np.ndarray:
        """Indices of the samples with these names."""
        ends = {name[at:] for name in names for at in [0, *(k + 1 for k, letter in enumerate(name) if letter == "/")]}
        found = [i for i, file in enumerate(self.files) if file in ends and self.name(i) in names]
        return np.array(found, dtype=np.int64)


def list_classes(root: str, splits: Sequence[str], left_out: LeftOut) -> dict[str, list[str]]:
    """The class folders directly in the folders `splits`: class name -> paths below `root`, sorted by class.

    Everything beside the class folders is counted in `left_out`. Raises OSError if a folder cannot be listed.
    """
    classes: dict[str, list[str]] = {}
    for split in splits:
        with os.scandir(os.path.join(root, split)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                where = f"{split}/{entry.name}" if split else entry.name
                if is_left_out_folder(entry.name):
                    left_out.add(why_left_out(entry.name), where)
                elif is_folder(entry):
                    if entry.is_symlink() and _is_cycle(entry.path, (os.path.realpath(os.path.join(root, split)),)):
                        left_out.add(CIRCLE, where)
                    else:
                        classes.setdefault(class_of(entry.name), []).append(where)
                else:
                    left_out.add(_reason(entry, NO_CLASS), where)
    return dict(sorted(classes.items()))


def open_classes(root: str, classes: dict[str, list[str]], class_names: list[str], left_out: LeftOut) -> FolderStore:
    """The images in and below the folders of `classes`, sorted by class, folder and file.

    Raises UnknownClasses for images of a class that is not in `class_names`, OSError if a folder cannot be listed.
    """
    folders = [folder for some in classes.values() for folder in some]
    # In threads, because listing folders on a network file system is mostly waiting.
    with ThreadPoolExecutor(8) as pool:
        listings = list(pool.map(lambda folder: _images_below(root, folder), folders))
    counts = [len(images) for images, _ in listings]
    left_out.merge(others for _, others in listings)
    left_out.add(EMPTY, *(f for f, (images, rest) in zip(folders, listings, strict=True) if not images and not len(rest)))
    number = {name: label for label, name in enumerate(class_names)}
    owners = [name for name, some in classes.items() for _ in some]
    if unknown := [name for name, count in zip(owners, counts, strict=True) if count and name not in number]:
        raise UnknownClasses(list(dict.fromkeys(unknown)))
    labels = np.repeat(np.array([number.get(name, -1) for name in owners], np.int64), counts)
    folder = np.repeat(np.arange(len(folders), dtype=np.int32), counts)
    files = Names.of(chain.from_iterable(images for images, _ in listings))
    return FolderStore(root, folders, class_names, labels, folder, files, left_out)


def list_images(folder: str, left_out: LeftOut) -> list[str]:
    """The names of the images directly in a folder, sorted. Raises OSError if it cannot be listed."""
    images = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_image_name(entry.name) and is_file(entry):
                images.append(entry.name)
            elif is_left_out_folder(entry.name) or not is_folder(entry):
                left_out.add(_reason(entry), entry.name)
            else:
                left_out.add(SUBFOLDER, entry.name)
    return sorted(images)


def _images_below(root: str, folder: str) -> tuple[list[str], LeftOut]:
    left_out = LeftOut()
    return sorted(_walk(os.path.join(root, folder), "", folder, left_out, ())), left_out


def _walk(path: str, prefix: str, where: str, left_out: LeftOut, followed: tuple[str, ...]) -> Iterator[str]:
    """The paths of the images below `path`. `followed`: the real folders that have the symbolic links followed so far."""
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            # The common case first: it needs no system call, except for links.
            if name.lower().endswith(IMAGE_EXTENSIONS) and name[0] != "." and is_file(entry):
                yield prefix + name
            elif is_left_out_folder(name) or not is_folder(entry):
                left_out.add(_reason(entry), f"{where}/{name}")
            elif not entry.is_symlink():
                yield from _walk(entry.path, f"{prefix}{name}/", f"{where}/{name}", left_out, followed)
            elif _is_cycle(entry.path, deeper := (*followed, os.path.realpath(path))):
                left_out.add(CIRCLE, f"{where}/{name}")
            else:
                yield from _walk(entry.path, f"{prefix}{name}/", f"{where}/{name}", left_out, deeper)


def _is_cycle(link: str, followed: Sequence[str]) -> bool:
    """Whether a link leads to a folder that contains it, directly or through the links followed so far."""
    target = os.path.realpath(link)
    return any(os.path.commonpath([target, folder]) == target for folder in followed)


def _reason(entry: os.DirEntry[str], image: str = SPECIAL) -> str:
    """Why an entry that is not a folder is left out; `image` is the reason if it is an image file."""
    if entry.is_symlink() and not os.path.exists(entry.path):
        return BROKEN_LINK
    if not is_image_name(entry.name):
        return why_left_out(entry.name)
    return image if is_file(entry) else SPECIAL
