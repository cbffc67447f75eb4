"""Where the encoded images lie: `open_splits(location)` opens what `--data` names.

A location is

- a folder with an image-folder tree, `ROOT/train/<class>/*.jpg` and `ROOT/val/<class>/*.jpg` (`test` does for `val`),
- a folder or an fsspec URL (`s3://bucket/imagenet`) of tar shards, as `python -m pipelines.prepare shard` writes them,
- `synthetic`, or `synthetic:train=4000,val=500,size=64,seed=0`: the built-in set.

Samples listed in `ROOT/quarantine.txt` are left out; `python -m pipelines.prepare check` writes it (`pipelines.quarantine`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipelines.quarantine import read_quarantine
from pipelines.remote import is_remote
from pipelines.samples import Names, SampleStore
from pipelines.shards import open_shards
from pipelines.synthetic import SyntheticSpec, SyntheticStore

__all__ = ["FolderStore", "SampleStore", "open_splits", "open_store"]

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "test")}


class FolderStore(SampleStore):
    """The images below `root/split/<class>/`."""

    def __init__(self, root: str, split: str, class_names: list[str], labels: np.ndarray, files: Names) -> None:
        self.root = root
        self.split = split
        self.class_names = class_names
        self.labels = labels
        self._files = files

    def read(self, index: int) -> bytes:
        """The file's bytes; OSError with the sample's name."""
        try:
            with open(os.path.join(self.root, self.name(index)), "rb") as file:
                return file.read()
        except OSError as error:
            raise OSError(f"{self.name(index)}: {error.strerror}") from error

    def length(self, index: int) -> int:
        """The file's size in bytes; OSError with the sample's name."""
        try:
            return os.stat(os.path.join(self.root, self.name(index))).st_size
        except OSError as error:
            raise OSError(f"{self.name(index)}: {error.strerror}") from error

    def name(self, index: int) -> str:
        """The path below the root, for example `train/n01440764/x.JPEG`."""
        return f"{self.split}/{self.class_names[self.labels[index]]}/{self._files[index]}"

    def size(self, index: int) -> None:
        """Not known without opening the file."""
        return

    def subset(self, indices: np.ndarray) -> FolderStore:
        """The samples at `indices`."""
        labels, files = self.labels[indices], self._files.take(indices)
        return FolderStore(self.root, self.split, self.class_names, labels, files)

    def find(self, names: Set[str]) -> np.ndarray:
        """Indices of the samples with these names."""
        files = {name.split("/", 2)[-1] for name in names}
        found = [i for i, file in enumerate(self._files) if file in files and self.name(i) in names]
        return np.array(found, dtype=np.int64)


def open_store(location: str, split: str, *, cache: str | None = None, quarantine: str | None = None) -> SampleStore:
    """Opens one split, `train` or `val`, without what is quarantined.

    `quarantine`: a list besides that beside the data (`pipelines.quarantine.find_list`). `cache`:
    node-local folder for shards read from a URL; default `$VGG_DIST_CACHE`, else `~/.cache/vgg_dist`.
    Raises ValueError, one line, for a location that is missing, empty or unreadable, or has a single class, a class
    without training images, or a class in `val` that `train` lacks.
    """
    store = open_unchecked(location, split, cache=cache)
    if not isinstance(store, SyntheticStore):
        quarantined = store.find(read_quarantine(location, quarantine).keys())
        if len(quarantined):
            store = store.subset(np.setdiff1d(np.arange(len(store)), quarantined))
    _check_classes(store, location, split)
    return store


def open_splits(
    location: str, *, cache: str | None = None, quarantine: str | None = None
) -> tuple[SampleStore, SampleStore]:
    """Opens `train` and `val` and checks that they have the same classes. Raises as `open_store`."""
    train, val = (open_store(location, split, cache=cache, quarantine=quarantine) for split in ("train", "val"))
    if train.class_names != val.class_names:
        differing = _some(sorted(set(train.class_names) ^ set(val.class_names)))
        raise ValueError(f"--data {location}: train and val have been sharded with other classes: {differing}")
    return train, val


def open_unchecked(location: str, split: str, *, cache: str | None = None) -> SampleStore:
    """As `open_store`, but with the quarantined samples, and whatever its classes are: what `prepare` works on."""
    if split not in SPLIT_FOLDERS:
        raise ValueError(f"split {split!r}: must be one of {', '.join(SPLIT_FOLDERS)}")
    if location.partition(":")[0] == "synthetic":
        return SyntheticStore(SyntheticSpec.parse(location), split)
    try:
        root = location if is_remote(location) else str(local_root(location))
        shards = open_shards(root, SPLIT_FOLDERS[split], cache=cache)
        if shards is not None:
            return shards
        if not is_remote(location):
            return _open_folder(Path(root), split)
    except OSError as error:
        raise ValueError(f"--data {location}: {error}") from error
    raise ValueError(
        f"--data {location}: no {split}.index.npz there; behind a URL there must be shards, "
        "as python -m pipelines.prepare shard writes them"
    )


def local_root(location: str) -> Path:
    """The absolute path of a local location; ValueError where it is no folder, or an empty one."""
    root = Path(location.removeprefix("file://")).expanduser().absolute()
    if not root.exists():
        raise ValueError(f"--data {location}: does not exist")
    if not root.is_dir():
        raise ValueError(f"--data {location}: is a file; a folder, a URL of shards or 'synthetic' is needed")
    if not any(root.iterdir()):
        raise ValueError(f"--data {location}: is empty")
    return root


def _open_folder(root: Path, split: str) -> FolderStore:
    folder = _split_folder(root, split)
    train = _split_folder(root, "train") or folder  # to evaluate, val is enough
    if train is None or folder is None:
        raise ValueError(
            f"--data {root}: no folder '{split}' in it; needed are "
            f"train/<class>/*.jpg and val/<class>/*.jpg, or shards with train.index.npz and val.index.npz"
        )
    class_names = _list_classes(train)
    if not class_names:
        raise ValueError(f"--data {root}: no class folders in {train}")
    if unknown := sorted(set(_list_classes(folder)) - set(class_names)):
        raise ValueError(f"--data {root}: classes in {folder.name} that train lacks: {_some(unknown)}")
    # Threads, since listing a network file system is mostly waiting.
    with ThreadPoolExecutor(8) as pool:
        listings = list(pool.map(_list_images, (folder / name for name in class_names)))
    labels = np.repeat(np.arange(len(class_names)), [len(listing) for listing in listings])
    files = Names.of(name for listing in listings for name in listing)
    return FolderStore(str(root), folder.name, class_names, labels, files)


def _split_folder(root: Path, split: str) -> Path | None:
    return next((root / name for name in SPLIT_FOLDERS[split] if (root / name).is_dir()), None)


def _list_classes(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _list_images(folder: Path) -> list[str]:
    return sorted(_walk(str(folder), "")) if folder.is_dir() else []


def _walk(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
                yield prefix + entry.name


def _check_classes(store: SampleStore, location: str, split: str) -> None:
    if len(store.class_names) < 2:
        only = ", ".join(store.class_names)
        raise ValueError(f"--data {location}: only one class ({only}); at least two are needed")
    if len(store) == 0:
        extensions = " ".join(IMAGE_EXTENSIONS)
        raise ValueError(f"--data {location}: no images in {split} (by extension: {extensions})")
    if split == "train":
        counts = np.bincount(store.labels, minlength=len(store.class_names))
        if empty := [store.class_names[label] for label in np.flatnonzero(counts == 0)]:
            raise ValueError(f"--data {location}: classes without an image in train: {_some(empty)}")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
