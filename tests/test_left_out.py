"""Which images folders and tars give, of which class, and what is left out; torchvision and GNU tar are the oracles."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from trees import by_content, make_tree, picture, tar_of

from pipelines.archives import open_class_tar
from pipelines.class_checks import remarks
from pipelines.prepare import main
from pipelines.samples import SampleStore
from pipelines.store import open_splits, open_store
from pipelines.tar_members import read_members


def contents_by_path(store: SampleStore) -> dict[str, bytes]:
    """Class and path below the class's folder, as a tree has it -> content."""
    return {store.name(i).partition("train/")[2]: store.read(i) for i in range(len(store))}


def left_out(store: SampleStore) -> dict[str, str]:
    """Number and reason -> first names."""
    return dict(store.left_out.lines())


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
    assert remarks("train", store) == []


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
    for class_name in "ab":  # each links to the other once, as for torchvision before it comes round again
        label = store.class_names.index(class_name)
        assert {store.read(i) for i in range(len(store)) if store.labels[i] == label} == here | there
    reasons = left_out(store)
    assert {text.partition(" ")[2] for text in reasons} == {"links in a circle", "broken links"}
    circles = next(names for text, names in reasons.items() if "circle" in text)
    assert "train/all" in circles
    assert "train/gone" in next(names for text, names in reasons.items() if "broken" in text)


def test_everything_left_out_is_counted_by_reason(tmp_path: Path) -> None:
    beside = {
        "train/a/x.tiff": b"", "train/a/y.TIF": b"", "train/a/z.tiff": b"", "train/b/notes.txt": b"", "train/b/README": b"",
        "train/a/.hidden.jpg": b"", "train/.git/x.jpg": b"", "train/a/._0.jpg": b"", "train/__MACOSX/a/._0.jpg": b"",
        "train/lost+found/x.jpg": b"", "train/a/@eaDir/0.jpg/SYNOPHOTO.jpg": b"", "train/b/Thumbs.db": b"",
        "train/$RECYCLE.BIN/x.jpg": b"", "train/.ipynb_checkpoints/0.jpg": b"", "train/a/.DS_Store": b"",
        "train/stray.jpg": b"", "train/desktop.ini": b"",
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
        "hidden files": 2,
        "image in no class folder": 1,
        "device, pipe or socket": 1,
    }
    (line,) = remarks("train", store)
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


@pytest.mark.parametrize(("known", "other"), [("cat", "Cat"), ("cat", "cat "), ("ﬁsh", "fish")])
def test_class_that_looks_like_another_is_shown_beside_it(tmp_path: Path, known: str, other: str) -> None:
    files = {f"train/{known}/0.jpg": b"", "train/zebra/0.jpg": b"", f"val/{other}/0.jpg": b""}
    shown = repr(other) if other != other.strip() else other
    with pytest.raises(ValueError, match=f"in val that train lacks: {shown} \\(train has {known}, which is not {shown}\\)"):
        open_splits(str(make_tree(tmp_path, files)))


def test_empty_class_folders_are_refused_in_train_and_said_in_val(tmp_path: Path) -> None:
    root = two_classes(tmp_path, {"train/c/x.tiff": b"", "val/unknown/.keep": b""})
    with pytest.raises(ValueError, match=r"without an image in train: c: .*left out: 1 \.tiff file, .* \(train/c/x.tiff\)"):
        open_splits(str(root))
    make_tree(root, {"train/c/x.jpg": b""})
    train, val = open_splits(str(root))
    assert remarks("train", train) == ["train: left out: 1 .tiff file, a format that is not read (train/c/x.tiff)"]
    assert remarks("val", val)[-1] == "val: 1 of 3 classes have no image in it: c"


def test_folder_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    root = two_classes(tmp_path, {"train/a/closed/x.jpg": b""})
    (root / "train/a/closed").chmod(0)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
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


# --- tars


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname, member.mode = kind, len(data), link, 0o644
    tar.addfile(member, io.BytesIO(data))


HARD, SYMBOLIC = tarfile.LNKTYPE, tarfile.SYMTYPE


def unpacked(tar: Path, folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(["tar", "--extract", "--file", tar, "--directory", folder], check=True)
    return folder


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_gives_what_gnu_tar_unpacks(tmp_path: Path, form: int) -> None:
    path = tmp_path / "classes.tar"
    with tarfile.open(path, "w", format=form) as tar:
        for name in ("train/", "train/a/", "train/b/"):
            add(tar, name, kind=tarfile.DIRTYPE)
        add(tar, "train/a/0.jpg", b"first")
        add(tar, "train/b/hard.jpg", kind=HARD, link="train/a/0.jpg")  # of the first, which is replaced:
        add(tar, "train/a/0.jpg", b"second")
        add(tar, "train/b/later.jpg", kind=SYMBOLIC, link="../a/1.jpg")
        add(tar, "train/a/1.jpg", b"1")
        add(tar, "train/b/chain.jpg", kind=SYMBOLIC, link="later.jpg")
        add(tar, "train/b/chain2.jpg", kind=SYMBOLIC, link="../b/./chain.jpg")
        add(tar, "train/c", kind=SYMBOLIC, link="a")  # a class that is a link
        add(tar, "train/b/folder", kind=SYMBOLIC, link="../a/deeper")
        add(tar, "./train/a/deeper/down//2.jpg", b"2")
        add(tar, "train/b/through.jpg", kind=SYMBOLIC, link="folder/down/2.jpg")
        add(tar, f"train/a/{'long' * 60}.jpg", b"long")
        add(tar, "train/a/ünï.jpg", b"u")
        add(tar, "train/a/blob", b"content")  # an image's content under a name without suffix
        add(tar, "train/a/blob.jpg", kind=SYMBOLIC, link="blob")
        add(tar, "train/b/was-a-link.jpg", kind=SYMBOLIC, link="hard.jpg")
        add(tar, "train/b/was-a-link.jpg", b"file")
    store = open_class_tar(path)
    tree = unpacked(path, tmp_path / "unpacked")
    oracle = open_store(str(tree), "train")
    assert store.class_names == oracle.class_names == ["a", "b", "c"]
    assert contents_by_path(store) == contents_by_path(oracle)
    assert len(store) == len(oracle) == 19
    assert all(store.class_names[store.labels[i]] == store.name(i).split("/")[1] for i in range(len(store)))
    assert left_out(store) == {
        "2 members replaced by a later one of the same name": "train/a/0.jpg, train/b/was-a-link.jpg",
        "2 files without a suffix": "train/a/blob, train/c/blob",
    }


def test_links_that_lead_nowhere_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "classes.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "a/0.jpg", b"a")
        add(tar, "b/0.jpg", b"b")
        add(tar, "b/absolute.jpg", kind=SYMBOLIC, link="/data/x.jpg")
        add(tar, "b/above.jpg", kind=SYMBOLIC, link="../../x.jpg")
        add(tar, "b/gone.jpg", kind=SYMBOLIC, link="../a/9.jpg")
        add(tar, "b/gone-hard.jpg", kind=HARD, link="a/9.jpg")
        add(tar, "b/one.jpg", kind=SYMBOLIC, link="two.jpg")
        add(tar, "b/two.jpg", kind=SYMBOLIC, link="one.jpg")
        add(tar, "b/up", kind=SYMBOLIC, link="..")
        add(tar, "b/pipe.jpg", kind=tarfile.FIFOTYPE)
        add(tar, "b/.hidden.jpg", kind=SYMBOLIC, link="0.jpg")
        add(tar, "a/to-b", kind=SYMBOLIC, link="../b")
        add(tar, "b/to-a", kind=SYMBOLIC, link="../a")
    store = open_class_tar(path)
    assert contents_by_class(store) == {"a": {b"a", b"b"}, "b": {b"a", b"b"}}
    counts = {text.partition(" ")[2] for text in left_out(store)}
    assert counts == {
        "links out of the archive", "broken links", "links in a circle", "device, pipe or socket", "hidden files",
    }  # fmt: skip
    assert {"b/absolute.jpg", "b/above.jpg"} <= set(
        left_out(store)["4 links out of the archive"].split(" and ")[0].split(", ")
    )


def contents_by_class(store: SampleStore) -> dict[str, set[bytes]]:
    found: dict[str, set[bytes]] = {}
    for index in range(len(store)):
        found.setdefault(store.class_names[store.labels[index]], set()).add(store.read(index))
    return found


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["a/0.jpg", "b/0.jpg"], ["a", "b"]),
        (["./a/0.jpg", "./b/0.jpg"], ["a", "b"]),
        (["/data/set/a/0.jpg", "/data/set/b/0.jpg"], ["a", "b"]),
        (["train/a/images/0.jpg", "train/b/images/0.jpg"], ["a", "b"]),
        (["a/red/0.jpg", "a/blue/0.jpg", "b/0.jpg"], ["a", "b"]),
        (["train/a/red/0.jpg", "train/a/blue/0.jpg"], ["a"]),
        (["set/train/a/0.jpg", "set/train/b/0.jpg", "set/stray.jpg", "stray.jpg"], ["a", "b"]),
        (["train/a/0.jpg", "train/b/0.jpg", "__MACOSX/train/a/._0.jpg", "._train/x.jpg"], ["a", "b"]),
        (["../set/a/0.jpg", "../set/b/0.jpg"], ["a", "b"]),
        ([f"{unicodedata.normalize('NFD', 'é')}/0.jpg", "é/1.jpg", "b/0.jpg"], ["b", "é"]),
    ],
)
def test_class_is_the_first_folder_below_those_in_common(tmp_path: Path, names: list[str], classes: list[str]) -> None:
    tar_of(tmp_path / "x.tar", {name: name.encode() for name in names})
    assert open_class_tar(tmp_path / "x.tar").class_names == classes


def test_validation_tar_with_one_class_keeps_that_class(tmp_path: Path) -> None:
    for names in (["b/0.jpg"], ["val/b/0.jpg", "val/b/1.jpg"], ["x/val/b/deep/0.jpg", "x/val/b/er/0.jpg"]):
        tar_of(tmp_path / "val.tar", dict.fromkeys(names, b""))
        store = open_class_tar(tmp_path / "val.tar", ["a", "b"])
        assert {store.class_names[label] for label in store.labels} == {"b"}


def test_tar_of_a_tar_for_each_class(tmp_path: Path) -> None:
    inner = {}
    for name, files in {
        "n01": {"n01_0.jpg": b"0", "sub/n01_0.jpg": b"1"},
        "n02": {"n02/2.jpg": b"2", "n02/2.tif": b""},
        "n03": {"./3.jpg": b"3", "._3.jpg": b""},
    }.items():
        tar_of(tmp_path / "inner.tar", files)
        inner[f"train/{name}.tar"] = (tmp_path / "inner.tar").read_bytes()
    tar_of(tmp_path / "outer.tar", inner | {"train/._n01.tar": b"no tar", "train/README.md": b""})
    store = open_class_tar(tmp_path / "outer.tar")
    assert by_content(store) == {b"0": "n01", b"1": "n01", b"2": "n02", b"3": "n03"}
    assert len({store.name(i) for i in range(4)}) == 4
    assert sum(store.left_out.counts.values()) == 4


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_members_are_not_taken_for_their_bytes(tmp_path: Path, form: str) -> None:
    for name in ("a", "b"):
        make_tree(tmp_path, {f"data/{name}/0.jpg": name.encode() * 700})
    with (tmp_path / "data/a/holes.jpg").open("wb") as file:
        file.write(b"x" * 4096)
        file.seek(1 << 20)
        file.write(b"y" * 4096)
    command = ["tar", "--create", "--sparse", f"--format={form}", "--file", tmp_path / "x.tar"]
    subprocess.run([*command, "--directory", tmp_path, "data"], check=True)
    assert (tmp_path / "x.tar").stat().st_size < 1 << 19
    store = open_class_tar(tmp_path / "x.tar")
    assert contents_by_class(store) == {"a": {b"a" * 700}, "b": {b"b" * 700}}
    assert left_out(store) == {"1 sparse member": "data/a/holes.jpg"}


def spoil_header(raw: bytes) -> bytes:
    at = raw.index(b"b/0.jpg")
    return raw[:at] + b"B" + raw[at + 1 :]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_header, "is damaged: no header of a member at byte 1024"),
        (lambda raw: raw + raw, "has another archive behind its end, at byte 10240"),
        (lambda raw: raw[:2048], "is truncated: 2048 bytes, and no end"),
        (lambda raw: raw[:1700], "is truncated"),
    ],
)
def test_damaged_tar_is_refused_and_not_read_in_part(tmp_path: Path, spoil: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "x.tar"
    tar_of(path, {"a/0.jpg": b"a", "b/0.jpg": b"b"})
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        read_members(path)
    assert str(path) in str(caught.value)


def test_tar_of_both_splits_is_refused(tmp_path: Path) -> None:
    tar_of(tmp_path / "x.tar", {f"set/{split}/{c}/0.jpg": b"" for split in ("train", "val") for c in "ab"})
    with pytest.raises(ValueError, match=r"x.tar: holds train, val, which are splits and not classes"):
        open_class_tar(tmp_path / "x.tar")


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
        "val: 1 of 3 classes have no image in it: c",
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
    assert capsys.readouterr().err == f"prepare: error: {refused.value}\n"

    make_tree(root, {"train/c/x.jpg": b"no image"})  # a class that the check itself empties
    assert main(["check", "--data", str(root)]) == 2
    written = capsys.readouterr()
    assert "1 unreadable" in written.out
    with pytest.raises(ValueError, match=r"without an image in train: c.*1 quarantined image") as refused:
        open_splits(str(root))
    assert written.err.splitlines()[-1] == f"prepare: error: {refused.value}"
