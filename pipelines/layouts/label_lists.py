"""The classes of images in one folder, from the label lists that come with data sets.

Supported are Kaggle's LOC_val_solution.csv, tiny-imagenet's val_annotations.txt and the ILSVRC-2012 development kit, whose
list is indexed by the number in an image's name.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipelines.layouts.devkit import DEVKIT, classes_by_number, find_devkit

KAGGLE = "LOC_val_solution.csv"
TINY = "val_annotations.txt"
KNOWN = f"{KAGGLE} (Kaggle), {TINY} (tiny-imagenet) or {DEVKIT}"
_MAX_LEVELS = 5  # from ILSVRC/Data/CLS-LOC/val up to the folder with Kaggle's list


def find_label_list(folder: str) -> Path | None:
    """The label list for the images in an absolute `folder`: in it, or in a folder above; None if there is none."""
    for level in [Path(folder), *Path(folder).parents][:_MAX_LEVELS]:
        for name in (KAGGLE, TINY):
            if (level / name).is_file():
                return level / name
        if (kit := find_devkit(str(level))) is not None:
            return kit
    return None


def read_label_list(path: Path, images: Sequence[str]) -> dict[str, str]:
    """Stem of an image -> class, for all images in the list; for a development kit, only for `images`.

    Raises ValueError, one line that names the file and the line, if the list cannot be read.
    """
    stems = [os.path.splitext(image)[0] for image in images]
    if path.name not in (KAGGLE, TINY):
        return classes_by_number(path, stems)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    classes: dict[str, str] = {}
    for line, image, name in _kaggle(path, text) if path.name == KAGGLE else _tiny(path, text.splitlines()):
        if classes.setdefault(image, name) != name:
            raise ValueError(f"{path}, line {line}: {image} already has another class, {classes[image]}, in an earlier line")
    return classes


def _kaggle(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, image and class. A row is `ImageId,PredictionString`; the class is the first word of the latter."""
    rows = csv.reader(text.splitlines())
    header = next(rows, [])
    if [title.strip() for title in header[:2]] != ["ImageId", "PredictionString"]:
        raise ValueError(f"{path}, line 1: must be 'ImageId,PredictionString', not {','.join(header)!r}")
    for row in rows:
        if not row:
            continue
        if len(row) < 2 or not row[0].strip() or not row[1].split():
            raise ValueError(f"{path}, line {rows.line_num}: {','.join(row)!r} is not an image and its class")
        yield rows.line_num, row[0].strip().removesuffix(".JPEG"), row[1].split()[0]


def _tiny(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, str, str]]:
    """Line number, image and class. A line has the image, the class and a box, separated by tabs."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        image, _, rest = line.partition("\t")
        name = rest.partition("\t")[0].strip()
        if not image.strip() or not name:
            raise ValueError(f"{path}, line {number}: {line!r} is not an image and its class, separated by a tab")
        yield number, os.path.splitext(image.strip())[0], name
