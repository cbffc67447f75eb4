"""Writes a split as class folders: the images of any store as files, or symbolic links to the files of another folder."""

from __future__ import annotations

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count, groupby
from pathlib import Path

import numpy as np

from pipelines.progress import Progress
from pipelines.stores.folder import FolderStore
from pipelines.stores.sample_store import SampleStore


def write_tree(store: SampleStore, split: str, out: Path, *, threads: int = 8) -> None:
    """Writes `store` as `out/split/<class>/`. Resumes an interrupted call; a no-op if `out/split` exists.

    Until it is complete, the split's folder is called `.split.part`, and a class folder `.class.part`.
    """
    if (out / split).exists():
        print(f"{out / split} exists already and is left as it is", file=sys.stderr)
        return
    part = out / f".{split}.part"
    part.mkdir(parents=True, exist_ok=True)
    rows = groupby(np.argsort(store.labels, kind="stable").tolist(), key=lambda index: store.labels[index])
    with ThreadPoolExecutor(threads) as pool, Progress(total=len(store), desc=f"{split} images", unit="image") as progress:
        for label, group in rows:
            indices = list(group)
            folder = part / store.class_names[label]
            if not folder.exists():
                unfinished = part / f".{folder.name}.part"
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                names = [store.name(index).rpartition(":")[2].rpartition("/")[2] for index in indices]
                for name, encoded in zip(names, pool.map(store.read, indices), strict=True):
                    unused(unfinished / name).write_bytes(encoded)
                unfinished.rename(folder)
            progress.update(len(indices))
    part.rename(out / split)


def unused(path: Path) -> Path:
    """The path itself if it is free; else, as for images of the same name in two subfolders, `1_NAME`, `2_NAME`, ..."""
    candidates = (path.with_name(f"{number}_{path.name}") for number in count(1))
    return path if not os.path.lexists(path) else next(other for other in candidates if not os.path.lexists(other))


def write_links(splits: dict[str, FolderStore], out: Path) -> None:
    """Writes each store as `out/split/<class>/`, a symbolic link for each image. `out` appears complete, or not at all.

    The links are relative, so they stay valid if the images and `out` are moved or mounted together. Raises OSError if `out`
    cannot be written, exists and is not empty, or lies on a file system without symbolic links.
    """
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _link(splits, part, out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if out.exists():
        out.rmdir()
    part.rename(out)


def _link(splits: dict[str, FolderStore], part: Path, out: Path) -> None:
    above = os.path.realpath(out.parent)
    for split, store in splits.items():
        for index, label in enumerate(store.labels.tolist()):
            inside = Path(split, store.class_names[label], store.files[index])
            target = os.path.join(os.path.realpath(store.root), store.name(index))
            (part / inside).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(os.path.relpath(target, os.path.join(above, out.name, inside.parent)), unused(part / inside))
