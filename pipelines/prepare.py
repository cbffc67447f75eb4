"""Prepares data for `--data`: `python -m pipelines.prepare unpack | shard | check | synthetic`.

Exit status: 0 done, 1 `check` found images that cannot be decoded, 2 a mistake in the command or its files (one line on
stderr). A run that was stopped can be started again: what is whole is kept, and nothing half-written looks whole.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from pipelines.archives import open_class_tar, open_ilsvrc
from pipelines.images import UNREADABLE, Finding, inspect
from pipelines.progress import Progress
from pipelines.remote import write_whole
from pipelines.samples import SampleStore
from pipelines.shard_writer import write_shards
from pipelines.store import open_splits, open_unchecked, quarantine_list, read_quarantine
from pipelines.synthetic import SyntheticSpec, SyntheticStore


def unpack(
    *, source: Path, out: Path, format: Literal["shards", "tree"] = "shards", shard_size: int = 256, seed: int = 0
) -> int:
    """Turns the official ILSVRC-2012 archives into training data.

    Args:
        source: Folder with ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz.
        out: Folder to write; give it to --data afterwards.
        format: shards (tar files, fast on any file system) or tree (a folder a class, a file an image).
        shard_size: MB in a shard.
        seed: Of the order in which images are put into shards.
    """
    train, val = open_ilsvrc(source)
    _write({"train": train, "val": val}, out, format, shard_size, seed)
    return 0


def shard(*, data: list[str], out: Path, shard_size: int = 256, seed: int = 0) -> int:
    """Writes any data location as tar shards with indexes, for this project, webdataset and DALI.

    Args:
        data: A data location (folder, URL of shards, synthetic), or two tars of class folders: train, then val.
        out: Folder to write; give it, or the URL it is copied to, to --data afterwards.
        shard_size: MB in a shard.
        seed: Of the order in which images are put into shards.
    """
    if len(data) == 2:
        train = open_class_tar(Path(data[0]))
        splits: tuple[SampleStore, SampleStore] = train, open_class_tar(Path(data[1]), train.class_names)
    elif len(data) == 1:
        splits = open_splits(data[0])
    else:
        raise ValueError(f"--data: one location, or two tars (train, then val), not {len(data)} values")
    _write(dict(zip(("train", "val"), splits, strict=True)), out, "shards", shard_size, seed)
    return 0


def check(*, data: str, threads: int = os.cpu_count() or 1) -> int:
    """Decodes every image, lists what is unusual, and quarantines what cannot be decoded.

    Unreadable images (truncated, empty, not an image, of another format) go into quarantine.txt beside the data, and
    loaders leave them out; training, evaluation and prediction refuse the same ones, for the same reasons. CMYK, grey,
    alpha, 16-bit (scaled to 8), animated, EXIF-rotated and mis-named images, and those with damaged metadata, are listed
    only: they can be trained on. Exit status 1 if there are unreadable ones.

    Args:
        data: A data location: folder, or URL of shards.
        threads: Images decoded at once.
    """
    if threads < 1:
        raise ValueError(f"--threads {threads}: at least 1 is needed")
    stores = {split: open_unchecked(data, split) for split in ("train", "val")}
    found = [item for split, store in stores.items() for item in _inspect_all(store, split, threads)]
    found.sort(key=lambda item: (item[1].kind, item[0]))
    for name, finding in found:
        print(f"{finding.kind}\t{_printable(name)}\t{finding.detail}")
    count = sum(map(len, stores.values()))
    kinds = Counter(finding.kind for _, finding in found)
    print(f"{count} images: " + (", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())) or "all plain"))
    _write_quarantine(data, {name: finding.detail for name, finding in found if finding.kind == UNREADABLE})
    return 1 if kinds[UNREADABLE] else 0


def synthetic(
    *,
    out: Path,
    train: int = SyntheticSpec.train,
    val: int = SyntheticSpec.val,
    size: int = SyntheticSpec.size,
    seed: int = SyntheticSpec.seed,
) -> int:
    """Writes the built-in data as an image-folder tree.

    Args:
        out: Folder to write.
        train: Training images.
        val: Validation images.
        size: Smallest side of an image, px; the longer side is up to 4/3 of it.
        seed: Another seed draws other images of the same classes.
    """
    spec = SyntheticSpec(train=train, val=val, size=size, seed=seed)
    for split in ("train", "val"):
        # Drawn anew: what an interrupted run left may be of another seed.
        shutil.rmtree(out / f".{split}.part", ignore_errors=True)
        write_tree(SyntheticStore(spec, split), split, _folder(out))
    return 0


def _write(splits: dict[str, SampleStore], out: Path, format: str, shard_size: int, seed: int) -> None:
    if shard_size < 1:
        raise ValueError(f"--shard-size {shard_size}: at least 1 MB is needed")
    for split, store in splits.items():
        if format == "shards":
            write_shards(store, split, _folder(out), shard_bytes=shard_size * 10**6, seed=seed)
        else:
            write_tree(store, split, _folder(out))


def _folder(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; a folder is needed")
    return out


def write_tree(store: SampleStore, split: str, out: Path, *, threads: int = 8) -> None:
    """Writes `store` as `out/split/<class>/`, goes on where an interrupted call stopped, and is done if that is there.

    Until the last class is whole, the split is called `.split.part` and a class folder `.class.part`.
    """
    if (out / split).exists():
        print(f"{out / split} is there already and left as it is", file=sys.stderr)
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
                    (unfinished / name).write_bytes(encoded)
                unfinished.rename(folder)
            progress.update(len(indices))
    part.rename(out / split)


def _printable(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


def _inspect_all(store: SampleStore, split: str, threads: int) -> list[tuple[str, Finding]]:
    def inspect_some(indices: np.ndarray) -> list[tuple[str, Finding]]:
        found = []
        for index in indices.tolist():
            name = store.name(index)
            try:
                found += [(name, finding) for finding in inspect(store.read(index), name)]
            except OSError as error:
                found.append((name, Finding(UNREADABLE, str(error).removeprefix(f"{name}: "))))
            progress.update()
        return found

    # In chunks: a million futures would take more memory than all else here.
    chunks = np.array_split(np.arange(len(store)), len(store) // 64 + 1)
    with (
        Progress(total=len(store), desc=f"checking {split}", unit="image") as progress,
        warnings.catch_warnings(),
        ThreadPoolExecutor(threads) as pool,
    ):
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
        return [item for found in pool.map(inspect_some, chunks) for item in found]


def _write_quarantine(data: str, unreadable: dict[str, str]) -> None:
    """Replaces what an earlier check wrote; what a person added for other reasons stays."""
    if data.partition(":")[0] == "synthetic":
        return
    before = read_quarantine(data)
    kept = {name: reason for name, reason in before.items() if not reason.startswith(UNREADABLE)}
    entries = kept | {name: f"{UNREADABLE}: {detail}" for name, detail in unreadable.items()}
    if entries or before:
        text = "# Samples the loaders leave out: name, tab, reason.\n"
        text += "".join(f"{name}\t{reason}\n" for name, reason in sorted(entries.items()))
        write_whole(quarantine_list(data), text.encode("utf-8", "surrogateescape"))
        print(f"{len(entries)} samples in {quarantine_list(data)}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    commands: dict[str, Callable[..., int]] = {
        "unpack": unpack,
        "shard": shard,
        "check": check,
        "synthetic": synthetic,
    }
    try:
        return tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m pipelines.prepare", description=__doc__, args=arguments
        )
    except (ValueError, OSError) as error:
        print(f"prepare: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prepare: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
