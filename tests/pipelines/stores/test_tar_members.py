"""Images in tar archives: their classes, members left out, and archives refused. GNU tar is the oracle."""

from __future__ import annotations

import io
import subprocess
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from support.trees import by_content, left_out, make_tree, tar_of, unpacked

from pipelines.preparation.folder_writer import write_tree
from pipelines.stores.archives import open_class_tar
from pipelines.stores.open import open_store
from pipelines.stores.sample_store import SampleStore
from pipelines.stores.tar_members import read_members


def contents_by_path(store: SampleStore) -> dict[str, bytes]:
    """Class and path below the class folder -> content."""
    return {store.name(i).partition("train/")[2]: store.read(i) for i in range(len(store))}


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname, member.mode = kind, len(data), link, 0o644
    tar.addfile(member, io.BytesIO(data))


HARD, SYMBOLIC = tarfile.LNKTYPE, tarfile.SYMTYPE


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_gives_what_gnu_tar_unpacks(tmp_path: Path, form: int) -> None:
    path = tmp_path / "classes.tar"
    with tarfile.open(path, "w", format=form) as tar:
        for name in ("train/", "train/a/", "train/b/"):
            add(tar, name, kind=tarfile.DIRTYPE)
        add(tar, "train/a/0.jpg", b"first")
        add(tar, "train/b/hard.jpg", kind=HARD, link="train/a/0.jpg")  # to the first member, which is replaced later:
        add(tar, "train/a/0.jpg", b"second")
        add(tar, "train/b/later.jpg", kind=SYMBOLIC, link="../a/1.jpg")
        add(tar, "train/a/1.jpg", b"1")
        add(tar, "train/b/chain.jpg", kind=SYMBOLIC, link="later.jpg")
        add(tar, "train/b/chain2.jpg", kind=SYMBOLIC, link="../b/./chain.jpg")
        add(tar, "train/c", kind=SYMBOLIC, link="a")  # a class that is a link
        add(tar, "train/b/folder", kind=SYMBOLIC, link="../a/deeper")
        add(tar, "./train/a/deeper/down//2.jpg", b"2")
        add(tar, "train/b/through.jpg", kind=SYMBOLIC, link="folder/down/2.jpg")
        add(tar, "train/b/up.jpg", kind=SYMBOLIC, link="folder/../1.jpg")  # train/a/1.jpg: link first, then ..
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
    assert len(store) == len(oracle) == 20
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
        "links out of the archive", "broken links", "links in a circle", "device, pipe or socket", "hidden files or folders",
    }  # fmt: skip
    assert {"b/absolute.jpg", "b/above.jpg"} <= set(
        left_out(store)["4 links out of the archive"].split(" and ")[0].split(", ")
    )


def test_hard_link_to_a_later_member_is_taken(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "b/0.jpg", kind=HARD, link="./a/0.jpg")
        add(tar, "a/0.jpg", b"a")
    assert contents_by_class(open_class_tar(tmp_path / "x.tar")) == {"a": {b"a"}, "b": {b"a"}}


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
        (spoil_header, "is damaged: no valid header at byte 1024"),
        (lambda raw: raw + raw, "has another archive after its end, at byte 10240"),
        (lambda raw: raw[:2048], "is truncated: it has 2048 bytes and no end"),
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


def test_compressed_tar_is_refused_with_the_command_that_unpacks_it(tmp_path: Path) -> None:
    for mode, tool in {"w:gz": "gunzip", "w:bz2": "bunzip2", "w:xz": "unxz"}.items():
        tar_of(tmp_path / "x.tar", {"a/0.jpg": b"a"}, mode)
        with pytest.raises(ValueError, match=f"is not an uncompressed tar archive: {tool} {tmp_path}/x.tar makes it one"):
            read_members(tmp_path / "x.tar")


def test_images_of_one_name_in_subfolders_stay_apart_as_files(tmp_path: Path) -> None:
    files = {f"{c}/{sub}0.jpg": f"{c}{sub}".encode() for c in "ab" for sub in ("", "s/", "t/", "t/u/")}
    tar_of(tmp_path / "x.tar", files | {"a/s/1_0.jpg": b"1"})
    store = open_class_tar(tmp_path / "x.tar")
    write_tree(store, "train", tmp_path / "out")
    tree = open_store(str(tmp_path / "out"), "train")
    assert by_content(tree) == by_content(store)
    assert len(tree) == 9


def test_tar_of_both_splits_is_refused(tmp_path: Path) -> None:
    tar_of(tmp_path / "x.tar", {f"set/{split}/{c}/0.jpg": b"" for split in ("train", "val") for c in "ab"})
    with pytest.raises(ValueError, match=r"x.tar: has train, val, which are splits and not classes"):
        open_class_tar(tmp_path / "x.tar")
