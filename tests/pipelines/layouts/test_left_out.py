"""Which files in class folders are images, and how the others are left out and counted. torchvision is the oracle."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import unicodedata
from pathlib import Path

import pytest
from support.trees import by_content, left_out, make_tree, picture, tar_of, unpacked

from pipelines.prepare import main
from pipelines.stores.class_checks import notes
from pipelines.stores.open import open_splits, open_store


def two_classes(root: Path, more: dict[str, bytes] | None = None) -> Path:
    files = {f"{split}/{c}/{i}.jpg": f"{split}{c}{i}".encode() for split in ("train", "val") for c in "ab" for i in range(2)}
    return make_tree(root, files | (more or {}))


# --- folders


def test_links_are_followed_as_torchvision_follows_them(tmp_path: Path) -> None:
    from torchvision.datasets.folder import find_classes, make_dataset

    root = two_classes(tmp_path / "data", {"train/a/deeper/still/x.PNG": b"x"})
    make_tree(tmp_path / "elsewhere", {"c/0.jpg": b"c0", "c/sub/1.JPG": b"c1", "more/2.jpeg": b"b2", "one.bmp": b"one"})
    (root / "train/c").symlink_to(tmp_path / "elsewhere/c")  # a class
    (root / "train/b/more").symlink_to("../../../elsewhere/more")  # a folder of images
    (root / "train/b/again.bmp").symlink_to(tmp_path / "elsewhere/one.bmp")  # an image
    os.link(root / "train/a/0.jpg", root / "train/a/hard.jpg")
    store = open_store(str(root), "train")
    classes, numbers = find_classes(root / "train")
    assert store.class_names == classes == ["a", "b", "c"]
    expected = make_dataset(root / "train", numbers, extensions=(".jpg", ".jpeg", ".png", ".bmp", ".webp"))
    assert len(expected) == 10
    found = [(str(root / store.name(i)), int(label)) for i, label in enumerate(store.labels)]
    assert sorted(found) == sorted(expected)
    assert all(store.read(i) == (root / store.name(i)).read_bytes() for i in range(len(store)))
    assert notes("train", store) == []


def test_links_in_a_circle_and_broken_ones_are_counted(tmp_path: Path) -> None:
    root = two_classes(tmp_path / "data", {"train/a/in/x.jpg": b"x"})
    (root / "train/a/in/up").symlink_to("..")
    (root / "train/all").symlink_to(".")
    (root / "train/a/to-b").symlink_to("../b")
    (root / "train/b/to-a").symlink_to("../a")
    (root / "train/b/gone.jpg").symlink_to("/nonexistent/x.jpg")
    (root / "train/b/gone").symlink_to("nowhere")
    (root / "train/gone").symlink_to("nowhere")
    (root / "train/b/itself.jpg").symlink_to("itself.jpg")
    store = open_store(str(root), "train")
    assert store.class_names == ["a", "b"]
    here, there = {b"traina0", b"traina1", b"x"}, {b"trainb0", b"trainb1"}
    for class_name in "ab":  # each follows the link to the other once, as torchvision does before it meets the cycle
        label = store.class_names.index(class_name)
        assert {store.read(i) for i in range(len(store)) if store.labels[i] == label} == here | there
    reasons = left_out(store)
    assert reasons.keys() == {"5 links in a circle", "7 broken links"}  # those in b are also found through a
    assert "train/all" in reasons["5 links in a circle"]


def test_everything_left_out_is_counted_by_reason(tmp_path: Path) -> None:
    beside = {
        "train/a/x.tiff": b"", "train/a/y.TIF": b"", "train/a/z.tiff": b"", "train/b/notes.txt": b"", "train/b/README": b"",
        "train/a/.hidden.jpg": b"", "train/.git/x.jpg": b"", "train/a/._0.jpg": b"", "train/__MACOSX/a/._0.jpg": b"",
        "train/lost+found/x.jpg": b"", "train/a/@eaDir/0.jpg/SYNOPHOTO.jpg": b"", "train/b/Thumbs.db": b"",
        "train/$RECYCLE.BIN/x.jpg": b"", "train/.ipynb_checkpoints/0.jpg": b"", "train/a/.DS_Store": b"",
        "train/stray.jpg": b"", "train/desktop.ini": b"", "train/b/x.jpg ": b"",
    }  # fmt: skip
    root = two_classes(
        tmp_path, beside | {f"train/a/read.{suffix}": b"" for suffix in ("JPE", "jfif", "WebP", "Bmp", "PNG")}
    )
    os.mkfifo(root / "train/a/pipe.jpg")
    store = open_store(str(root), "train")
    assert store.class_names == ["a", "b"]
    assert len(store) == 4 + 5
    counts = {text.partition(" ")[2]: int(text.split()[0]) for text in left_out(store)}
    assert counts == {
        "system files or folders": 9,
        ".tiff files, a format that is not read": 2,
        ".tif file, a format that is not read": 1,
        ".txt file": 1,
        "file without a suffix": 1,
        "hidden files or folders": 2,
        "file with another suffix": 1,
        "image in no class folder": 1,
        "device, pipe or socket": 1,
    }
    (line,) = notes("train", store)
    assert line.startswith("train: left out: 9 system files or folders (")
    assert "2 .tiff files, a format that is not read (train/a/x.tiff); " in line


def test_class_names_composed_and_decomposed_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    files = {f"train/{decomposed}/0.jpg": b"0", f"train/{composed}/1.jpg": b"1", "train/tea/2.jpg": b"2"}
    train, val = open_splits(str(make_tree(tmp_path, files | {f"val/{composed}/3.jpg": b"3"})))
    assert train.class_names == val.class_names == [composed, "tea"]
    assert by_content(train) == {b"0": composed, b"1": composed, b"2": "tea"}
    assert by_content(val) == {b"3": composed}
    assert train.find({f"train/{decomposed}/0.jpg"}).size == 1


def test_classes_that_look_alike_stay_apart_and_are_said(tmp_path: Path) -> None:
    store = open_store(
        str(make_tree(tmp_path, {f"train/{name}/0.jpg": b"" for name in ("Cat", "cat", "cat ", "dog")})), "train"
    )
    assert store.class_names == ["Cat", "cat", "cat ", "dog"]
    assert notes("train", store) == [
        "train: classes that differ only in case or blanks count as different: Cat = cat = 'cat '"
    ]


@pytest.mark.parametrize(("known", "other"), [("cat", "Cat"), ("cat", "cat "), ("ﬁsh", "fish")])
def test_class_that_looks_like_another_is_shown_beside_it(tmp_path: Path, known: str, other: str) -> None:
    files = {f"train/{known}/0.jpg": b"", "train/zebra/0.jpg": b"", f"val/{other}/0.jpg": b""}
    shown = repr(other) if other != other.strip() else other
    with pytest.raises(
        ValueError, match=f"in val that are not in train: {shown} \\(train has {known}, which is not {shown}\\)"
    ):
        open_splits(str(make_tree(tmp_path, files)))


def test_empty_class_folders_are_refused_in_train_and_said_in_val(tmp_path: Path) -> None:
    root = two_classes(tmp_path, {"train/c/x.tiff": b"", "val/unknown/.keep": b""})
    with pytest.raises(ValueError, match=r"without an image in train: c: .*left out: 1 \.tiff file, .* \(train/c/x.tiff\)"):
        open_splits(str(root))
    make_tree(root, {"train/c/x.jpg": b""})
    train, val = open_splits(str(root))
    assert notes("train", train) == ["train: left out: 1 .tiff file, a format that is not read (train/c/x.tiff)"]
    assert notes("val", val)[-1] == "val: 1 of 3 classes have no image: c"


def test_folder_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    root = two_classes(tmp_path, {"train/a/closed/x.jpg": b""})
    (root / "train/a/closed").chmod(0)
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith(tempfile.gettempdir() + os.sep):
            folder.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ValueError, match=f"^--data {root}: .*Permission denied: '{root}/train/a/closed'"):
            open_store(str(root), "train")
    finally:
        os.seteuid(user)
        (root / "train/a/closed").chmod(0o755)


# --- the commands


def test_shard_and_check_say_what_is_there_and_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {f"{c}/{i}.jfif": picture(10 * i + ord(c)) for c in "abc" for i in range(4)}
    tar_of(tmp_path / "train.tar", files | {"a/x.tiff": b"", "a/y.tiff": b""})
    tar_of(tmp_path / "val.tar", {name: data for name, data in files.items() if name[0] != "c"})
    tars = [str(tmp_path / f"{split}.tar") for split in ("train", "val")]
    assert main(["shard", "--data", *tars, "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    sizes = [sum(tar.stat().st_size for tar in (tmp_path / "out").glob(f"{split}-*.tar")) for split in ("train", "val")]
    assert lines == [
        f"train: 12 images, 3 classes, 1 shard, {sizes[0]:,} bytes in {tmp_path}/out",
        f"val: 8 images, 3 classes, 1 shard, {sizes[1]:,} bytes in {tmp_path}/out",
        "left out of train\ta/x.tiff, a/y.tiff\t2 .tiff files, a format that is not read",
        "no image in val\tc\t1 of 3 classes",
        f"next: python -m pipelines.prepare check --data {tmp_path}/out, then --data {tmp_path}/out",
    ]
    with tarfile.open(tmp_path / "out/val-00000.tar") as shard:
        assert shard.getnames()[0].endswith(".jpg")

    tree = unpacked(tmp_path / "train.tar", tmp_path / "unpacked")
    (tree / "train").mkdir()
    for name in "abc":
        shutil.move(tree / name, tree / "train" / name)
    shutil.copytree(tree / "train", tree / "val")
    capsys.readouterr()
    assert main(["check", "--data", str(tree)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "left out of train\ttrain/a/x.tiff, train/a/y.tiff\t2 .tiff files, a format that is not read"
    assert lines[-1] == "24 images: all plain"


def test_check_refuses_what_training_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_tree(
        tmp_path,
        {f"{split}/{c}/0.jpg": picture(ord(c)) for split in ("train", "val") for c in "ab"} | {"train/c/x.gif": b""},
    )
    with pytest.raises(ValueError, match="without an image in train: c") as refused:
        open_splits(str(root))
    assert main(["check", "--data", str(root)]) == 2
    assert capsys.readouterr().err == f"pipelines.prepare: {refused.value}\n"

    make_tree(root, {"train/c/x.jpg": b"no image"})  # check quarantines all images of this class
    assert main(["check", "--data", str(root)]) == 2
    written = capsys.readouterr()
    assert "1 unreadable" in written.out
    with pytest.raises(ValueError, match=r"without an image in train: c.*1 quarantined image") as refused:
        open_splits(str(root))
    assert written.err.splitlines()[-1] == f"pipelines.prepare: {refused.value}"
