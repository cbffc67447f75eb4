"""Prepares data for `--data`: `python -m pipelines.prepare unpack | shard | split | check | synthetic`.

Exit status: 0 for success, 1 if `check` found images that cannot be decoded, 2 for a mistake in the command or its files
(one line on stderr). An interrupted command resumes when it is given again: complete files are kept, and incomplete files
are never mistaken for complete ones.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro

from pipelines.cli import run_command
from pipelines.pixels import MAX_PIXELS
from pipelines.preparation.check import check_data
from pipelines.preparation.split import write_split
from pipelines.preparation.write import write_splits, write_synthetic
from pipelines.signals import end_with
from pipelines.stores.archives import open_class_tar, open_ilsvrc
from pipelines.stores.class_checks import check_classes
from pipelines.stores.open import open_splits
from pipelines.stores.quarantine import find_list
from pipelines.stores.sample_store import SampleStore
from pipelines.stores.synthetic import SyntheticSpec


def unpack(
    *,
    source: Path,
    out: Path,
    format: Literal["shards", "tree"] = "shards",
    shard_size: int = 256,
    seed: int = 0,
    restart_markers: bool = True,
) -> int:
    """Turns the official ILSVRC-2012 archives into training data.

    Args:
        source: Folder with ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz.
        out: Folder to write; afterwards, pass it to --data.
        format: shards (tar files, fast on any file system) or tree (one folder per class, one file per image).
        shard_size: Size of a shard, MB, before restart markers are added.
        seed: Seed of the order of the images in the shards.
        restart_markers: Transcode JPEGs in shards without loss, so that training reads and decodes only what a crop needs;
            needs jpegtran, of libjpeg-turbo.
    """
    train, val = open_ilsvrc(source)
    splits: dict[str, SampleStore] = {"train": train, "val": val}
    write_splits(splits, out, format, shard_size=shard_size, seed=seed, restart_markers=restart_markers)
    return 0


def shard(
    *,
    data: list[str],
    out: Path,
    shard_size: int = 256,
    seed: int = 0,
    quarantine: str | None = None,
    restart_markers: bool = True,
) -> int:
    """Writes any data location as tar shards with indexes, for this project, webdataset and DALI.

    Args:
        data: A data location (folder, URL of shards, synthetic), or two tars, train and then val, each with class folders
            or with one tar per class.
        out: Folder to write; afterwards, pass it, or the URL it is copied to, to --data.
        shard_size: Size of a shard, MB, before restart markers are added.
        seed: Seed of the order of the images in the shards.
        quarantine: List of images to leave out, if one was passed to check.
        restart_markers: Transcode JPEGs without loss, so that training reads and decodes only what a crop needs; the files
            grow by 3 to 4 %. Needs jpegtran, of libjpeg-turbo.
    """
    if len(data) == 2:
        train = open_class_tar(Path(data[0]))
        check_classes(train, data[0], "train")
        splits: tuple[SampleStore, SampleStore] = train, open_class_tar(Path(data[1]), train.class_names)
    elif len(data) == 1:
        splits = open_splits(data[0], quarantine=find_list(data[0], quarantine))
    else:
        raise ValueError(f"--data: takes one location, or two tars (train, then val), not {len(data)} values")
    named = dict(zip(("train", "val"), splits, strict=True))
    write_splits(named, out, "shards", shard_size=shard_size, seed=seed, restart_markers=restart_markers)
    return 0


def split(*, data: str, out: Path, val: float = 0.1, seed: int = 0) -> int:
    """Sets some of the training images aside for validation, the same share of each class, as folders of links.

    Nothing is copied or moved: OUT/train and OUT/val have a symbolic link for each image. The choice depends only on the
    seed and the names, so the same command gives the same split everywhere.

    Args:
        data: Folder with train/<class>/ and no validation images, or with the class folders themselves.
        out: Folder to create; afterwards, pass it to --data.
        val: Share of each class's images for validation.
        seed: Seed of the choice of images.
    """
    write_split(data, out, val, seed)
    return 0


def check(
    *, data: str, threads: int = os.cpu_count() or 1, quarantine: str | None = None, max_pixels: int = MAX_PIXELS
) -> int:
    """Decodes every image, lists unusual ones, and quarantines those that cannot be decoded.

    Unreadable images (truncated, empty, not an image, in another format, too large) are listed in quarantine.txt beside the
    data, or in the file that the output names if nothing can be written there. Loaders leave them out; training, evaluation
    and prediction refuse the same images, for the same reasons. CMYK, greyscale, alpha, 16-bit (scaled to 8), animated,
    EXIF-rotated and mis-named images, and images with damaged metadata, are only reported: they can be trained on. Other
    files among the images are reported, too, by the reason why they are left out. Exit status 1 if there are unreadable
    images, 2 if training would refuse the data.

    Args:
        data: A data location: folder, or URL of shards.
        threads: Number of images decoded in parallel.
        quarantine: File or URL for the list, instead of quarantine.txt beside the data; pass it to training, too.
        max_pixels: Images with more pixels count as unreadable; use the same value as in training.
    """
    if threads < 1:
        raise ValueError(f"--threads {threads}: must be at least 1")
    return 0 if check_data(data, threads, quarantine, max_pixels) else 1


def synthetic(
    *,
    out: Path,
    train: int = SyntheticSpec.train,
    val: int = SyntheticSpec.val,
    size: int = SyntheticSpec.size,
    seed: int = SyntheticSpec.seed,
) -> int:
    """Writes the built-in data as class folders.

    Args:
        out: Folder to write.
        train: Number of training images.
        val: Number of validation images.
        size: Smallest side of an image, px; the longer side is up to 4/3 of it.
        seed: Seed of the images; the classes are always the same.
    """
    write_synthetic(SyntheticSpec(train=train, val=val, size=size, seed=seed), out)
    return 0


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
        end_with("; the same command resumes from here")
        return call()

    return run_command(prog, parse, work, improve=_suggested)


def _suggested(message: str) -> str:
    """tyro's message about an unknown word, with the subcommand or flag that is spelled most like it."""
    flags = {
        f"--{name.replace('_', '-')}" for command in COMMANDS.values() for name in inspect.signature(command).parameters
    }
    known = [*COMMANDS, *sorted(flags)]
    word = message.removeprefix("Unrecognized options: ").split(",")[0]
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7) if word != message else []
    return f"{message}; did you mean {close[0]}?" if close else message


def _parsed_only(command: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """For tyro: takes the arguments of `command`, and returns the call without making it."""

    @functools.wraps(command)
    def parsed(**arguments: Any) -> Callable[[], int]:
        return functools.partial(command, **arguments)

    return parsed


if __name__ == "__main__":
    sys.exit(main())
