"""The ILSVRC-2012 development kit: the numbers of the classes, and the classes of the validation images."""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path

from pipelines.failures import what_failed

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_META, _TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"


def find_devkit(folder: str) -> Path | None:
    """The kit in a folder, packed or unpacked; None if there is none."""
    names = (DEVKIT, DEVKIT.removesuffix(".gz"), DEVKIT.removesuffix(".tar.gz"))
    return next((Path(folder, name) for name in names if os.path.exists(os.path.join(folder, name))), None)


def read_devkit(path: Path) -> tuple[dict[int, str], list[int]]:
    """ILSVRC2012_ID -> WordNet id of each class, and the ILSVRC2012_ID of each validation image, in the order of names.

    `path`: the archive, or the folder unpacked from it. Raises ValueError, one line, if it is not a kit or is damaged.
    """
    from scipy.io import loadmat

    try:
        files = _unpacked(path) if path.is_dir() else _packed(path.read_bytes())
        synsets = loadmat(io.BytesIO(files[_META]), squeeze_me=True)["synsets"]
        # The list includes inner nodes of the WordNet tree; the classes are its leaves.
        leaves = synsets[synsets["num_children"] == 0]
        wnids = {int(number): str(wnid) for number, wnid in zip(leaves["ILSVRC2012_ID"], leaves["WNID"], strict=True)}
        labels = [int(number) for number in files[_TRUTH].split()]
        if unknown := set(labels) - set(wnids):
            raise ValueError(f"labels without a class: {sorted(unknown)[:5]}")
    except Exception as error:  # SciPy raises many types for a damaged file
        raise ValueError(f"{path}: not a readable ILSVRC-2012 development kit: {what_failed(error)}") from error
    return wnids, labels


def classes_by_number(kit: Path, stems: Iterable[str]) -> dict[str, str]:
    """Stem of a validation image, such as `ILSVRC2012_val_00000001`, -> class, for those of `stems` that the kit has."""
    wnids, labels = read_devkit(kit)
    numbers = {stem: int(found[1]) for stem in stems if (found := re.fullmatch(r"ILSVRC2012_val_(\d{8})", stem))}
    return {stem: wnids[labels[number - 1]] for stem, number in numbers.items() if 0 < number <= len(labels)}


def _packed(content: bytes) -> dict[str, bytes]:
    if content.startswith(b"\x1f\x8b"):  # in full, to check the checksum at its end: a damaged meta.mat can crash SciPy
        content = gzip.decompress(content)
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as kit:
        for member in kit:
            if (name := os.path.basename(member.name)) in (_META, _TRUTH) and (file := kit.extractfile(member)):
                files[name] = file.read()
    return files


def _unpacked(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.name in (_META, _TRUTH)}
