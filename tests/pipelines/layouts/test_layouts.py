"""The layouts of data sets: supported ones are read, others are refused with an explanation of what to do."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

import pytest
from support.ilsvrc import VAL_LABELS, WNIDS
from support.trees import by_content, make_tree, tar_of

from pipelines.layouts.splits import has_split
from pipelines.prepare import main
from pipelines.stores.class_checks import notes
from pipelines.stores.file_list import open_image_folder
from pipelines.stores.open import open_splits, open_store

TRAIN = {f"{c}/{c}_{i}.JPEG": f"{c}{i}".encode() for c in ("n01", "n02", "n03") for i in range(2)}
VAL_CLASSES = {"ILSVRC2012_val_00000001": "n02", "ILSVRC2012_val_00000002": "n01", "ILSVRC2012_val_00000003": "n03"}
VAL = {f"{stem}.JPEG": stem.encode() for stem in VAL_CLASSES}
TRAIN_EXPECTED = {data: name.split("/")[0] for name, data in TRAIN.items()}
VAL_EXPECTED = {stem.encode(): name for stem, name in VAL_CLASSES.items()}
CSV = "ImageId,PredictionString\n" + "".join(f"{stem},{name} 1 2 3 4 \n" for stem, name in VAL_CLASSES.items())


def below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


def flat(root: Path, inner: str = ".") -> Path:
    return make_tree(root, below(f"{inner}/train", TRAIN) | below(f"{inner}/val", VAL))


# --- supported layouts


@pytest.mark.parametrize(
    ("train", "val"),
    [("train", "validation"), ("train", "valid"), ("train", "test"), ("Training", "Testing"), ("TRAIN", "Val")],
)
def test_other_names_of_splits(tmp_path: Path, train: str, val: str) -> None:
    root = make_tree(tmp_path, below(train, TRAIN) | below(val, {"n01/v.jpg": b"v"}))
    for store, expected in zip(open_splits(str(root)), (TRAIN_EXPECTED, {b"v": "n01"}), strict=True):
        assert by_content(store) == expected
    store = open_store(str(root), "val")
    assert store.name(0) == f"{val}/n01/v.jpg"
    assert any("test images are used instead" in line for line in notes("val", store)) == (val in ("test", "Testing"))
    assert has_split(str(root))


def test_val_is_taken_before_test(tmp_path: Path) -> None:
    files = below("train", TRAIN) | {"test/n01/t.jpg": b"t", "validation/n01/v.jpg": b"v"}
    assert by_content(open_store(str(make_tree(tmp_path, files)), "val")) == {b"v": "n01"}
    store = open_store(str(make_tree(tmp_path, {"val/n01/w.jpg": b"w"})), "val")
    assert by_content(store) == {b"w": "n01"}
    assert dict(store.left_out.lines()) == {"1 folder that may be of this split, too": "validation"}


INNER = "ILSVRC/Data/CLS-LOC"


@pytest.mark.parametrize("location", [".", "ILSVRC", "ILSVRC/Data", INNER])
@pytest.mark.parametrize("text", [CSV.encode(), b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode()])
def test_imagenet_as_kaggle_has_it(tmp_path: Path, location: str, text: bytes) -> None:
    root = flat(tmp_path, INNER)
    make_tree(root, {"LOC_val_solution.csv": text, "LOC_synset_mapping.txt": b"-", f"{INNER}/test/t.JPEG": b"test"})
    train, val = open_splits(str(root / location))
    assert train.class_names == val.class_names == ["n01", "n02", "n03"]
    assert by_content(train) == TRAIN_EXPECTED
    assert by_content(val) == VAL_EXPECTED
    assert train.name(0) == str((Path(INNER) / "train/n01/n01_0.JPEG").relative_to(location))
    assert notes("train", train) + notes("val", val) == []


def test_kaggle_list_beside_train_and_val_and_what_it_lacks(tmp_path: Path) -> None:
    extra = b"ILSVRC2012_val_00000009,n01 1 1 2 2 n02 3 3 4 4\n"
    root = make_tree(flat(tmp_path), {"LOC_val_solution.csv": CSV.encode() + extra, "val/more.JPEG": b"", "val/x.txt": b""})
    val = open_store(str(root), "val")
    assert by_content(val) == VAL_EXPECTED
    assert dict(val.left_out.lines()) == {
        "1 label without an image": "ILSVRC2012_val_00000009",
        "1 image without a label": "val/more.JPEG",
        "1 .txt file": "x.txt",
    }
    shutil.rmtree(root / "train")  # val alone is enough for evaluation
    assert by_content(open_store(str(root), "val")) == VAL_EXPECTED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", r"LOC_val_solution.csv, line 1: must be 'ImageId,PredictionString', not 'a,b'"),
        ("", r"line 1: must be .*, not ''"),
        (CSV + "ILSVRC2012_val_00000004,\n", "line 5: 'ILSVRC2012_val_00000004,' is not an image and its class"),
        (
            CSV + "ILSVRC2012_val_00000001,n03 1\n",
            "line 5: ILSVRC2012_val_00000001 already has another class, n02",
        ),
        (CSV.replace("n03", "n09"), r"classes in .*LOC_val_solution.csv that are not in train: n09"),
        ("ImageId,PredictionString\nx,n01 1\n", r"has none of the 3 images in val \(ILSVRC2012_val_00000001.JPEG, "),
    ],
)
def test_damaged_list_is_refused_by_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    root = make_tree(flat(tmp_path), {"LOC_val_solution.csv": text.encode()})
    with pytest.raises(ValueError, match=message) as caught:
        open_splits(str(root))
    assert "\n" not in str(caught.value)


def test_tiny_imagenet(tmp_path: Path) -> None:
    train = {f"train/{c}/images/{c}_{i}.JPEG": f"{c}{i}".encode() for c in ("n01", "n02") for i in range(3)}
    train |= {f"train/{c}/{c}_boxes.txt": b"-" for c in ("n01", "n02")}
    val = {f"val/images/val_{i}.JPEG": f"v{i}".encode() for i in range(4)}
    lines = "".join(f"val_{i}.JPEG\tn0{1 + i % 2}\t0\t32\t44\t62\n" for i in range(4))
    files = train | val | {"val/val_annotations.txt": lines.encode(), "test/images/test_0.JPEG": b"", "wnids.txt": b"-"}
    opened = open_splits(str(make_tree(tmp_path, files)))
    assert by_content(opened[0]) == {f"{c}{i}".encode(): c for c in ("n01", "n02") for i in range(3)}
    assert by_content(opened[1]) == {f"v{i}".encode(): f"n0{1 + i % 2}" for i in range(4)}
    assert opened[1].name(0) == "val/images/val_0.JPEG"
    make_tree(tmp_path, {"val/val_annotations.txt": b"val_0.JPEG n01\n"})
    with pytest.raises(ValueError, match=r"val_annotations.txt, line 1: 'val_0.JPEG n01' is not an image and its class"):
        open_store(str(tmp_path), "val")


def test_imagenet_100_in_parts(tmp_path: Path) -> None:
    parts = {f"train.X{k + 1}/{name}": data for k, (name, data) in enumerate(sorted(TRAIN.items())) if k < 4}
    root = make_tree(tmp_path, parts | {"val.X/n01/v.JPEG": b"v", "Labels.json": b"{}"})
    train, val = open_splits(str(root))
    assert by_content(train) == {data: name.split("/")[1] for name, data in parts.items()}
    assert by_content(val) == {b"v": "n01"}
    assert {train.name(i) for i in range(len(train))} == set(parts)


@pytest.mark.parametrize("packed", [True, False])
def test_official_archives_unpacked_beside_the_development_kit(ilsvrc: Path, tmp_path: Path, packed: bool) -> None:
    root = tmp_path / "unpacked"
    for wnid in WNIDS.values():
        make_tree(root, {f"train/{wnid}/0.JPEG": wnid.encode()})
    with tarfile.open(ilsvrc / "ILSVRC2012_img_val.tar") as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not before Python 3.11.4
        tar.extractall(root / "val")
    kit = ilsvrc / "ILSVRC2012_devkit_t12.tar.gz"
    if packed:
        shutil.copy(kit, root)
    else:
        with tarfile.open(kit) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(root)
    expected = {
        (root / f"val/ILSVRC2012_val_{i + 1:08d}.JPEG").read_bytes(): WNIDS[label] for i, label in enumerate(VAL_LABELS)
    }
    assert by_content(open_splits(str(root))[1]) == expected
    first = root / "val/ILSVRC2012_val_00000001.JPEG"
    expected.pop(first.read_bytes())
    first.unlink()  # matched by number, not by position
    assert by_content(open_splits(str(root))[1]) == expected


# --- refused locations


@pytest.mark.parametrize(
    ("files", "location", "message"),
    [
        (below("in/train", TRAIN) | below("in/val", TRAIN), ".", "the data are one folder deeper: --data ROOT/in$"),
        (below("train", TRAIN) | below("val", TRAIN), "train", "is only one folder of a data set: .* ROOT$"),
        (below("train", TRAIN) | below("val", TRAIN), "val/n01", "is only one folder of a data set: .* ROOT$"),
        (TRAIN, ".", r"has 3 class folders \(n01, n02, n03\) and no train and val: .* split --data ROOT --out FOLDER"),
        (below("train", TRAIN), ".", "has train and no validation images .*: python -m pipelines.prepare split --data ROOT"),
        (
            below("train", TRAIN) | below("val", VAL),
            ".",
            "val has 3 images and no class folders, so .* LOC_val_solution.csv ",
        ),
        (
            below("train", VAL) | below("val", TRAIN),
            ".",
            "no class folders in ROOT/train, but 3 images; they must be",
        ),
        ({"train.tar": b"", "val.tar": b""}, ".", "has archives .train.tar, val.tar.*prepare shard --data TRAIN.tar"),
        ({"imagenette2.tgz": b""}, ".", r"has archives \(imagenette2.tgz\) and no folder for train: unpack"),
        ({"ILSVRC2012_img_train.tar": b""}, ".", "has ILSVRC2012_img_train.tar: .*pipelines.prepare unpack --source ROOT"),
        (VAL, ".", "has images without class folders"),
        ({"x.tar": b""}, "x.tar", "is a file; .*prepare shard --data TRAIN.tar VAL.tar --out FOLDER makes shards"),
        ({"notes.txt": b"", "docs/x.txt": b""}, ".", "has no folder 'train', but docs, notes.txt; needed are "),
    ],
)
def test_other_locations_are_refused_with_an_explanation(
    tmp_path: Path, files: dict[str, bytes], location: str, message: str
) -> None:
    root = make_tree(tmp_path, files)
    with pytest.raises(ValueError, match=message.replace("ROOT", re.escape(str(root)))) as caught:
        open_splits(str(root / location))
    assert str(caught.value).startswith(f"--data {root / location}: ")
    assert "\n" not in str(caught.value)


def test_folder_without_images_is_refused_with_an_explanation(tmp_path: Path) -> None:
    root = make_tree(tmp_path, {f"in/{name}": data for name, data in (below("train", TRAIN) | below("val", TRAIN)).items()})
    with pytest.raises(ValueError, match=f"has neither train and val nor images .*: --data {root}/in$"):
        open_image_folder(str(root), ["a"])
    store = open_image_folder(str(make_tree(tmp_path / "flat", VAL | {"x.tiff": b""})), ["a"])
    assert len(store) == 3
    assert dict(store.left_out.lines()) == {"1 .tiff file, a format that is not read": "x.tiff"}


def test_tars_and_trees_agree_on_a_class_folder_that_is_too_high(tmp_path: Path) -> None:
    tar_of(tmp_path / "x.tar", below("set/train", TRAIN))
    assert main(["shard", "--data", str(tmp_path / "x.tar"), str(tmp_path / "x.tar"), "--out", str(tmp_path / "out")]) == 0
    make_tree(tmp_path / "tree", below("train", TRAIN) | below("val", TRAIN))
    assert by_content(open_store(str(tmp_path / "out"), "train")) == by_content(open_store(str(tmp_path / "tree"), "train"))
