"""Images inside plain tar archives as stores, without unpacking them.

That is a tar of class folders, or the official ILSVRC-2012 archives. The headers of an archive are read once; an image
is then one `pread` from where it lies, also in a tar within a tar.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from pipelines.failures import what_failed
from pipelines.progress import Progress
from pipelines.samples import Names
from pipelines.shard_index import ShardIndex
from pipelines.shards import ShardFolder, ShardStore
from pipelines.store import IMAGE_EXTENSIONS

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"

Member = tuple[str, int, int]
"""Name, offset of the data in the archive, length in bytes."""


def open_class_tar(path: Path, class_names: list[str] | None = None) -> ShardStore:
    """A tar with one folder a class, at any depth. `class_names`: those of the training split, if this is another.

    Raises ValueError, one line, if it is not an uncompressed tar, is truncated, or has no or unknown class folders.
    """
    members = [member for member in _members(path) if "/" in member[0].removeprefix("./")]
    if not members:
        raise ValueError(f"{path}: no class folders with images ({' '.join(IMAGE_EXTENSIONS)}) in it")
    classes = [name.split("/")[-2] for name, _, _ in members]
    known = sorted(set(classes)) if class_names is None else class_names
    if unknown := sorted(set(classes) - set(known)):
        raise ValueError(f"{path}: classes that train lacks: {', '.join(unknown[:5])}")
    return _store(path, members, classes, known)


def open_ilsvrc(folder: Path) -> tuple[ShardStore, ShardStore]:
    """Train and val of the official ILSVRC-2012 archives in `folder`; classes are the WordNet ids, sorted.

    Raises ValueError, one line, where an archive is missing or truncated, or does not fit the development kit.
    """
    for name in (TRAIN_TAR, VAL_TAR, DEVKIT):
        if not (folder / name).is_file():
            raise ValueError(f"--source {folder}: {name} is not there (needed: {TRAIN_TAR}, {VAL_TAR}, {DEVKIT})")
    wnids, val_labels = read_devkit(folder / DEVKIT)

    members = list(_nested_members(folder / TRAIN_TAR))
    found = sorted({wnid for wnid, _ in members})
    if found != sorted(wnids.values()):
        differing = ", ".join(sorted(set(found) ^ set(wnids.values()))[:5])
        raise ValueError(f"{folder / TRAIN_TAR} and {DEVKIT} differ in their classes: {differing}")
    train = _store(folder / TRAIN_TAR, [member for _, member in members], [wnid for wnid, _ in members], found)

    pictures = sorted(_members(folder / VAL_TAR))
    if len(pictures) != len(val_labels):
        raise ValueError(f"{folder / VAL_TAR} holds {len(pictures)} images, {DEVKIT} labels {len(val_labels)}")
    return train, _store(folder / VAL_TAR, pictures, [wnids[label] for label in val_labels], found)


def read_devkit(path: Path) -> tuple[dict[int, str], list[int]]:
    """The development kit: ILSVRC2012_ID -> WordNet id of each class, and the id of each validation image, by name.

    ValueError, one line, if it is no kit or damaged.
    """
    from scipy.io import loadmat

    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):  # whole: its checksum is at its end, and a damaged meta.mat can crash SciPy
            content = gzip.decompress(content)
        with tarfile.open(fileobj=io.BytesIO(content)) as kit:
            files = {os.path.basename(member.name): member for member in kit if member.isfile()}
            synsets = loadmat(_extract(kit, files["meta.mat"]), squeeze_me=True)["synsets"]
            truth = _extract(kit, files["ILSVRC2012_validation_ground_truth.txt"]).read().split()
        # Inner nodes of the WordNet tree are listed too; the classes are the leaves.
        leaves = synsets[synsets["num_children"] == 0]
        wnids = {int(number): str(wnid) for number, wnid in zip(leaves["ILSVRC2012_ID"], leaves["WNID"], strict=True)}
        labels = [int(number) for number in truth]
        if unknown := set(labels) - set(wnids):
            raise ValueError(f"labels without a class: {sorted(unknown)[:5]}")
    except Exception as error:  # SciPy has many kinds for a damaged file
        raise ValueError(f"{path}: not a readable ILSVRC-2012 development kit: {what_failed(error)}") from error
    return wnids, labels


def _extract(kit: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = kit.extractfile(member)
    assert file is not None  # a regular file
    return file


def _store(path: Path, members: list[Member], classes: list[str], class_names: list[str]) -> ShardStore:
    number = {name: label for label, name in enumerate(class_names)}
    order = sorted(range(len(members)), key=lambda index: (classes[index], members[index][0]))
    offsets, lengths = np.array([members[index][1:] for index in order], np.int64).T
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
        names=Names.of(members[index][0].removeprefix("./") for index in order),
    )
    return ShardStore(index, ShardFolder(str(path.parent)))


def _members(path: Path) -> Iterator[Member]:
    """The images of a tar, in its order, hidden ones passed over."""
    with _open(path) as tar:
        for member in Progress(_checked(tar, path, path.stat().st_size), f"reading {path.name}", unit="image"):
            if _is_image(member):
                yield member.name, member.offset_data, member.size


def _nested_members(path: Path) -> Iterator[tuple[str, Member]]:
    """(class, image) for the images of a tar of tars, one a class, with offsets in the outer one."""
    with _open(path) as outer:
        for inner in Progress(_checked(outer, path, path.stat().st_size), f"reading {path.name}", unit="class"):
            wnid, extension = os.path.splitext(os.path.basename(inner.name))
            if extension != ".tar" or not inner.isfile():
                continue
            try:
                with tarfile.open(fileobj=_extract(outer, inner), mode="r:") as tar:
                    for member in _checked(tar, f"{path}:{inner.name}", inner.size):
                        if _is_image(member):
                            name = f"{wnid}/{os.path.basename(member.name)}"
                            yield wnid, (name, inner.offset_data + member.offset_data, member.size)
            except tarfile.TarError as error:
                raise ValueError(f"{path}: {inner.name} in it is damaged: {error}") from error


def _open(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:")
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except tarfile.TarError as error:
        raise ValueError(f"{path} is not an uncompressed tar archive: {error}") from error


def _checked(tar: tarfile.TarFile, path: Path | str, size: int) -> Iterator[tarfile.TarInfo]:
    """The members; ValueError where the archive, of `size` bytes, is damaged or lacks the empty block that ends it."""
    end = 0
    try:
        for member in tar:
            end = member.offset_data + (member.size + tarfile.BLOCKSIZE - 1) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
            if end > size:
                break
            yield member
    except tarfile.TarError as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    if end + tarfile.BLOCKSIZE > size:
        raise ValueError(f"{path} is truncated: {size} bytes, and no end of archive")


def _is_image(member: tarfile.TarInfo) -> bool:
    name = os.path.basename(member.name)
    return member.isfile() and not name.startswith(".") and name.lower().endswith(IMAGE_EXTENSIONS)
