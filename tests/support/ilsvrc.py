"""Miniature ILSVRC-2012 archives."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from support.trees import picture, tar_of

# Sorted by wnid, and numbered in another order by the development kit, as in the original.
WNIDS = {3: "n01440764", 1: "n01443537", 4: "n01484850", 2: "n01491361"}
TRAIN_IMAGES = 12
VAL_LABELS = [2, 4, 4, 1, 3, 2]


def write_ilsvrc(folder: Path) -> None:
    """Writes miniatures of the three official files, with exactly the same structure."""
    from scipy.io import savemat

    classes = {}
    for number, wnid in reversed(WNIDS.items()):
        files = {f"{wnid}_{i}.JPEG": picture(1000 * number + i) for i in range(TRAIN_IMAGES)}
        tar_of(folder / "class.tar", files)
        classes[f"{wnid}.tar"] = (folder / "class.tar").read_bytes()
    tar_of(folder / "ILSVRC2012_img_train.tar", classes)
    pictures = {f"ILSVRC2012_val_{i + 1:08d}.JPEG": picture(i) for i in range(len(VAL_LABELS))}
    tar_of(folder / "ILSVRC2012_img_val.tar", dict(reversed(pictures.items())))

    fields = [
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    ]
    leaves = [
        (float(i), wnid, f"fish {i}", "a fish", 0.0, np.array([]), 0.0, float(TRAIN_IMAGES)) for i, wnid in WNIDS.items()
    ]
    inner = [
        (5.0, "n00001740", "entity", "that which is", 1.0, np.array([6.0]), 2.0, 0.0),
        (6.0, "n00015388", "animal", "a living thing", 4.0, np.array([1.0, 2.0, 3.0, 4.0]), 1.0, 0.0),
    ]
    rows = sorted(leaves) + inner
    synsets = np.array(rows, dtype=[(field, object) for field in fields]).reshape(-1, 1)
    savemat(folder / "meta.mat", {"synsets": synsets})
    truth = "".join(f"{label}\n" for label in VAL_LABELS).encode()
    kit = {
        "ILSVRC2012_devkit_t12/readme.txt": b"-",
        "ILSVRC2012_devkit_t12/data/meta.mat": (folder / "meta.mat").read_bytes(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": truth,
    }
    tar_of(folder / "ILSVRC2012_devkit_t12.tar.gz", kit, "w:gz")
    (folder / "class.tar").unlink()
    (folder / "meta.mat").unlink()
