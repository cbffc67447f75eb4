"""Folders and tars of small images for tests, and the content of a store."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.stores.sample_store import SampleStore


def picture(number: int, extension: str = "JPEG", mode: str = "RGB", **options: object) -> bytes:
    """A small image, different for each number."""
    pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), np.uint8)
    stream = io.BytesIO()
    image = Image.fromarray(pixels).convert(mode)
    if mode.endswith("A"):
        image.putalpha(100)
    image.save(stream, extension, **options)
    return stream.getvalue()


def tar_of(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def make_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def by_content(store: SampleStore) -> dict[bytes, str]:
    return {store.read(i): store.class_names[store.labels[i]] for i in range(len(store))}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def contents(store: SampleStore) -> dict[str, tuple[str, bytes]]:
    """Class and file stem -> (class name, bytes): the content of a store, which must not depend on its kind."""
    found = {}
    for index in range(len(store)):
        class_name = store.class_names[store.labels[index]]
        found[f"{class_name}/{Path(store.name(index)).stem}"] = class_name, store.read(index)
    return found


def left_out(store: SampleStore) -> dict[str, str]:
    """Count and reason -> first names of what was left out."""
    return dict(store.left_out.lines())


def unpacked(tar: Path, folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(["tar", "--extract", "--file", tar, "--directory", folder], check=True)
    return folder
