"""The classes of images that lie in one folder, from the lists that data sets come with.

Known are Kaggle's LOC_val_solution.csv, tiny-imagenet's val_annotations.txt and ILSVRC-2012's development kit, which holds
the classes by the number in an image's name.
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
_LEVELS = 5  # from ILSVRC/Data/CLS-LOC/val to the folder with Kaggle's list


def find_list(folder: str) -> Path | None:
    """The list that goes with the images of an absolute `folder`: in it, or above; None where there is none."""
    for level in [Path(folder), *Path(folder).parents][:_LEVELS]:
        for name in (KAGGLE, TINY):
            if (level / name).is_file():
                return level / name
        if (kit := find_devkit(str(level))) is not None:
            return kit
    return None


def read_list(path: Path, images: Sequence[str]) -> dict[str, str]:
    """Stem of an image -> its class, for all that the list knows; of a development kit only for `images`.

    ValueError, one line that names file and line, where the list cannot be read.
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
            raise ValueError(f"{path}, line {line}: {image} has another class, {classes[image]}, in an earlier line")
    return classes


def _kaggle(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    """`ImageId,PredictionString`, of which the class is the first word; a box and more objects may follow."""
    rows = csv.reader(text.splitlines())
    header = next(rows, [])
    if [title.strip() for title in header[:2]] != ["ImageId", "PredictionString"]:
        raise ValueError(f"{path}, line 1: begins with {','.join(header)!r} and not with 'ImageId,PredictionString'")
    for row in rows:
        if not row:
            continue
        if len(row) < 2 or not row[0].strip() or not row[1].split():
            raise ValueError(f"{path}, line {rows.line_num}: {','.join(row)!r} is no image and its class")
        yield rows.line_num, row[0].strip().removesuffix(".JPEG"), row[1].split()[0]


def _tiny(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, str, str]]:
    """Image, class and box, with tabs between them."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        image, _, rest = line.partition("\t")
        name = rest.partition("\t")[0].strip()
        if not image.strip() or not name:
            raise ValueError(f"{path}, line {number}: {line!r} is no image and its class with a tab between them")
        yield number, os.path.splitext(image.strip())[0], name
