"""Prepares data for `--data`: `python -m pipelines.prepare unpack | shard | split | check | synthetic`.

Exit status: 0 done, 1 `check` found images that cannot be decoded, 2 a mistake in the command or its files (one line on
stderr). A run that was stopped can be started again: what is whole is kept, and nothing half-written looks whole.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro

from pipelines.cli import run_command
from pipelines.layouts.image_files import LeftOut, listed
from pipelines.pixels import MAX_PIXELS
from pipelines.preparation.folder_writer import write_links, write_tree
from pipelines.preparation.inspection import inspect_all
from pipelines.preparation.shard_writer import write_shards
from pipelines.preparation.split import open_unsplit, split_store
from pipelines.quoting import one_line, quoted
from pipelines.signals import end_with
from pipelines.stores.archives import open_class_tar, open_ilsvrc
from pipelines.stores.class_checks import check_classes, without_image
from pipelines.stores.open import open_splits
from pipelines.stores.quarantine import UNREADABLE, find_list, update_quarantine
from pipelines.stores.sample_store import SampleStore
from pipelines.stores.synthetic import SyntheticSpec, SyntheticStore


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


def shard(*, data: list[str], out: Path, shard_size: int = 256, seed: int = 0, quarantine: str | None = None) -> int:
    """Writes any data location as tar shards with indexes, for this project, webdataset and DALI.

    Args:
        data: A data location (folder, URL of shards, synthetic), or two tars of class folders or of a tar for each class:
            train, then val.
        out: Folder to write; give it, or the URL it is copied to, to --data afterwards.
        shard_size: MB in a shard.
        seed: Of the order in which images are put into shards.
        quarantine: The list of images to leave out, if check was given one.
    """
    if len(data) == 2:
        train = open_class_tar(Path(data[0]))
        check_classes(train, data[0], "train")
        splits: tuple[SampleStore, SampleStore] = train, open_class_tar(Path(data[1]), train.class_names)
    elif len(data) == 1:
        splits = open_splits(data[0], quarantine=find_list(data[0], quarantine))
    else:
        raise ValueError(f"--data: one location, or two tars (train, then val), not {len(data)} values")
    _write(dict(zip(("train", "val"), splits, strict=True)), out, "shards", shard_size, seed)
    return 0


def split(*, data: str, out: Path, val: float = 0.1, seed: int = 0) -> int:
    """Sets some of the training images aside for validation, the same share of each class, as a tree of links.

    Nothing is copied or moved: OUT/train and OUT/val have a symbolic link for each image. Which ones are taken follows from
    the seed and the names, so the same command gives the same split anywhere.

    Args:
        data: Folder with train/<class>/ and no validation images, or with the class folders themselves.
        out: Folder to make; give it to --data afterwards.
        val: Share of each class's images for validation.
        seed: Another seed takes other images.
    """
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out}: is there already")
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(data)):
        raise ValueError(f"--out {out}: lies in --data {data}, whose folders are classes; a folder beside it is needed")
    splits = dict(zip(("train", "val"), split_store(open_unsplit(data), val, seed), strict=True))
    try:
        write_links(splits, out)
    except OSError as error:
        raise ValueError(f"--out {out}: no links can be written there: {error.strerror}") from error
    for name, store in splits.items():
        print(f"{name}: {len(store)} images, {len(store.class_names)} classes, as links in {out / name}")
    splits["val"].left_out = LeftOut()  # the same as of train, which they come from
    _say_left_out(**splits)
    print(f"next: --data {out}; to copy the images, python -m pipelines.prepare shard --data {out} --out FOLDER")
    return 0


def check(
    *, data: str, threads: int = os.cpu_count() or 1, quarantine: str | None = None, max_pixels: int = MAX_PIXELS
) -> int:
    """Decodes every image, lists what is unusual, and quarantines what cannot be decoded.

    Unreadable images (truncated, empty, not an image, of another format, too large) go into quarantine.txt beside the
    data, or where it says if nothing can be written there, and loaders leave them out; training, evaluation and
    prediction refuse the same ones, for the same reasons. CMYK, grey, alpha, 16-bit (scaled to 8), animated, EXIF-rotated
    and mis-named images, and those with damaged metadata, are listed only: they can be trained on. So is what lies beside
    the images, by the reason for which it is left out. Exit status 1 if there are unreadable ones, 2 if training would
    refuse the data.

    Args:
        data: A data location: folder, or URL of shards.
        threads: Images decoded at once.
        quarantine: File or URL for the list, in place of quarantine.txt beside the data; give it to training, too.
        max_pixels: Images of more pixels are unreadable; the same as in training.
    """
    if threads < 1:
        raise ValueError(f"--threads {threads}: at least 1 is needed")
    stores = dict(zip(("train", "val"), open_splits(data, quarantined=True), strict=True))
    found = [item for split, store in stores.items() for item in inspect_all(store, split, threads, max_pixels)]
    found.sort(key=lambda item: (item[1].kind, item[0]))
    for name, finding in found:
        print(f"{finding.kind}\t{quoted(name)}\t{one_line(finding.detail)}")
    _say_left_out(**stores)
    count = sum(map(len, stores.values()))
    kinds = Counter(finding.kind for _, finding in found)
    print(f"{count} images: " + (", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())) or "all plain"))
    if not isinstance(stores["train"], SyntheticStore):
        unreadable = {name: finding.detail for name, finding in found if finding.kind == UNREADABLE}
        if line := update_quarantine(data, quarantine, unreadable):
            print(line)
    open_splits(data, quarantine=find_list(data, quarantine))  # as training does: a class may be quarantined altogether
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
        store = SyntheticStore(spec, split)
        write_tree(store, split, _folder(out))
        print(f"{split}: {len(store)} images, {len(store.class_names)} classes in {out / split}")
    print(f"next: --data {out}")
    return 0


def _say_left_out(**stores: SampleStore) -> None:
    """A line for each reason: split, the first names, number and reason; and one for classes without validation images."""
    for split, store in stores.items():
        for text, names in store.left_out.lines():
            print(f"left out of {split}\t{names}\t{text}")
        if split == "val" and (absent := without_image(store)):
            print(f"no image in val\t{listed(absent)}\t{len(absent)} of {len(store.class_names)} classes")


def _write(splits: dict[str, SampleStore], out: Path, format: str, shard_size: int, seed: int) -> None:
    if shard_size < 1:
        raise ValueError(f"--shard-size {shard_size}: at least 1 MB is needed")
    for split, store in splits.items():
        if format == "shards":
            shards = write_shards(store, split, _folder(out), shard_bytes=shard_size * 10**6, seed=seed)
            count, size = len(shards.shard_names), int(shards.shard_bytes.sum())
            form = f"{count} shard{'s' * (count != 1)}, {size:,} bytes"
        else:
            write_tree(store, split, _folder(out))
            form = f"{len(store)} files"
        print(f"{split}: {len(store)} images, {len(store.class_names)} classes, {form} in {out}")
    _say_left_out(**splits)
    print(f"next: python -m pipelines.prepare check --data {out}, then --data {out}")


def _folder(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; a folder is needed")
    return out


COMMANDS: dict[str, Callable[..., int]] = {
    "unpack": unpack,
    "shard": shard,
    "split": split,
    "check": check,
    "synthetic": synthetic,
}


def main(arguments: list[str] | None = None, prog: str = "python -m pipelines.prepare") -> int:
    """Runs the command line and returns its exit status."""

    def parse() -> Callable[[], int]:
        commands = {name: _parsed_only(command) for name, command in COMMANDS.items()}
        return tyro.extras.subcommand_cli_from_dict(commands, prog=prog, description=__doc__, args=arguments)

    def work(call: Callable[[], int]) -> int:
        end_with("; the same command goes on from here")
        return call()

    return run_command(prog, parse, work)


def _parsed_only(command: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """For tyro: takes the arguments of `command`, and returns the call without making it."""

    @functools.wraps(command)
    def parsed(**arguments: Any) -> Callable[[], int]:
        return functools.partial(command, **arguments)

    return parsed


if __name__ == "__main__":
    sys.exit(main())
