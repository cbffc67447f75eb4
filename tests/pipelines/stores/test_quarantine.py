"""Quarantine lists: where they are written, which commands read them, and unusual file names in them."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
from support.loaders import Images, make
from support.remote_data import upload
from support.trees import make_tree, picture, snapshot

from pipelines.loading.epoch_plan import evaluation_samples
from pipelines.loading.preprocessing import Preprocessing
from pipelines.prepare import main
from pipelines.quoting import one_line, quoted, unquoted
from pipelines.stores.open import open_splits, open_store
from pipelines.stores.quarantine import find_list, list_beside, list_of_this_machine, read_list, write_list
from vgg_dist.config import EvalConfig, TrainConfig

NAMES = [
    "plain.jpg",
    "two words.jpg",
    "tab\tin it.jpg",
    "line\nend.jpg",
    "carriage\rreturn\r.jpg",
    "both\r\n.jpg",
    "back\\slash\\n.jpg",
    "back\\\tslash.jpg",
    '"quoted".jpg',
    'half"\t.jpg',
    "# no comment.jpg",
    "\ufeffmark.jpg",
    "line\u2028separator\x85\x0b\x0c.jpg",
    "no\u00a0break.jpg",
    "nu\u0308ll \u00fc.jpg",
    os.fsdecode(b"latin-\xfc.jpg"),
    os.fsdecode(b"\xff\xfe\t.jpg"),
    "\\u00fc.jpg",
    "%41 &amp; <b>.jpg",
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VGG_DIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {f"train/{name}/{k}.jpg": picture(k) for name in "ab" for k in range(3)}
    return make_tree(
        tmp_path / "data", files | {"train/a/bad.jpg": b"", "val/a/0.jpg": picture(0), "val/b/0.jpg": picture(1)}
    )


def read_only(folder: Path) -> None:
    """Makes a folder read-only, also for root, who ignores permissions."""
    (folder / "quarantine.txt.part").mkdir()


@pytest.mark.parametrize("name", NAMES)
def test_names_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    assert unquoted(quoted(name)) == (name, "")
    assert unquoted(f"{quoted(name)}\tfor\ta reason") == (name, "for\ta reason")
    assert quoted(name).isprintable()
    quoted(name).encode()
    write_list(str(tmp_path / "list"), {name: "bad", "train/a/x.jpg": ""})
    assert read_list(str(tmp_path / "list")) == {name: "bad", "train/a/x.jpg": ""}


def test_of_names_of_all_kinds_the_listed_are_left_out_and_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"train/{'ab'[k % 2]}/{name}": b"" if k % 3 else picture(k) for k, name in enumerate(NAMES)}
    root = make_tree(tmp_path / "data", files | {"val/a/0.jpg": picture(0), "val/b/0.jpg": picture(1)})
    for _ in range(2):
        assert main(["check", "--data", str(root)]) == 1
        *found, counts, where = capsys.readouterr().out.encode().decode().split("\n")[:-1]
        bad = {name for name, content in files.items() if not content}
        assert {unquoted(line.partition("\t")[2])[0] for line in found} == bad
        assert counts == f"{len(files) + 2} images: {len(bad)} unreadable"
        assert where == f"{len(bad)} samples in {root}/quarantine.txt"
        train, _ = open_splits(str(root))
        assert {train.name(k) for k in range(len(train))} == files.keys() - bad


def test_lists_of_people_and_of_earlier_versions_are_read(tmp_path: Path) -> None:
    lines = [
        "# a comment",
        "train/a/x.jpg\tunreadable: cut",
        "val/back\\slash\\t.jpg\t",
        'train/"a"/y z.jpg',
        '"odd\twhy',
        "",
    ]
    expected = {"train/a/x.jpg": "unreadable: cut", "val/back\\slash\\t.jpg": "", 'train/"a"/y z.jpg': "", '"odd': "why"}
    for text in ("\n".join(lines), "\r\n".join([*lines, ""]), "\ufeff" + "\n".join([*lines, ""])):
        (tmp_path / "list").write_bytes(text.encode())
        assert read_list(str(tmp_path / "list")) == expected
    (tmp_path / "list").write_bytes(b"train/a/\xff.jpg\tunreadable\n")
    assert read_list(str(tmp_path / "list")) == {os.fsdecode(b"train/a/\xff.jpg"): "unreadable"}


def test_data_that_cannot_be_written_to_have_a_list_on_this_machine(
    tree: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "quarantine.txt").write_text("train/a/0.jpg\tshows nothing\n")
    read_only(tree)
    before = snapshot(tree)
    assert main(["check", "--data", str(tree)]) == 1
    own = Path(list_of_this_machine(str(tree)))
    assert own.is_relative_to(cache)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"1 samples in {own}, because {tree}/quarantine.txt cannot be written (")
    assert "--quarantine" in said
    assert snapshot(tree) == before

    # However the location is written, training, evaluation and `shard` leave out the samples in both lists.
    (tmp_path / "link").symlink_to(tree)
    monkeypatch.chdir(tmp_path)
    for place in (str(tree), f"{tree}/", f"file://{tree}", str(tmp_path / "link"), "data"):
        for config in (TrainConfig(data=place), EvalConfig(nets=("x",), data=place)):
            resolved = config.resolved()
            assert resolved.quarantine == str(own)
            train, _ = open_splits(str(resolved.data), quarantine=resolved.quarantine)
            assert {train.name(k) for k in range(len(train))} == {
                f"train/{name}/{k}.jpg" for name in "ab" for k in range(3)
            } - {"train/a/0.jpg"}
    assert main(["shard", "--data", str(tree), "--out", str(tmp_path / "shards")]) == 0
    assert len(open_store(str(tmp_path / "shards"), "train")) == 5

    # A node without this file reports an error, instead of using another set of images.
    own.rename(tmp_path / "elsewhere.txt")
    with pytest.raises(
        ValueError, match=f"^--quarantine {own}: does not exist on this machine; .* all nodes must .* read it$"
    ):
        open_splits(str(tree), quarantine=str(own))
    assert TrainConfig(data=str(tree)).resolved().quarantine is None

    # Once the data can be written to, the list is beside them, and this machine's list is removed.
    (tmp_path / "elsewhere.txt").rename(own)
    (tree / "quarantine.txt.part").rmdir()
    assert main(["check", "--data", str(tree)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"2 samples in {tree}/quarantine.txt"
    assert not own.exists()
    assert find_list(str(tree), None) is None


def test_a_list_that_is_named(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for where in (str(tmp_path / "new" / "list.txt"), "memory://lists/bad.txt"):
        assert main(["check", "--data", str(tree), "--quarantine", where]) == 1
        assert capsys.readouterr().out.splitlines()[-1] == f"1 samples in {where}"
        assert not Path(list_beside(str(tree))).exists()
        config = TrainConfig(data=str(tree), quarantine=where).resolved()
        assert len(open_splits(config.data, quarantine=config.quarantine)[0]) == 6
        assert len(open_splits(config.data)[0]) == 7
        (tree / "train/a/bad.jpg").write_bytes(picture(9))
        assert (
            main(["check", "--data", str(tree), "--quarantine", where]) == 0
        )  # no unreadable images; the list stays, because runs may name it
        assert capsys.readouterr().out.splitlines()[-1] == f"0 samples in {where}"
        assert len(open_splits(config.data, quarantine=where)[0]) == 7
        (tree / "train/a/bad.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^--quarantine nowhere\.txt: does not exist on this machine"):
        open_splits(str(tree), quarantine="nowhere.txt")


def test_data_behind_a_url_without_leave_to_write(
    tree: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["shard", "--data", str(tree), "--out", str(tmp_path / "shards")]) == 0
    url = "memory://bucket/read-only"
    upload(tmp_path / "shards", url)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", refused)
    assert main(["check", "--data", url]) == 1
    own = list_of_this_machine(url)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"1 samples in {own}, because {url}/quarantine.txt cannot be written (Access Denied): ")
    config = TrainConfig(data=url).resolved()
    assert len(open_splits(config.data, quarantine=config.quarantine)[0]) == 6
    cache.rename(tmp_path / "gone")
    cache.write_text("no folder")
    assert main(["check", "--data", url]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"pipelines.prepare: {url}/quarantine.txt cannot be written (")


def test_bad_images_of_all_names_are_told_in_a_line() -> None:
    class Named(Images):
        def name(self, index: int) -> str:
            return NAMES[index]

    loader = make("reference", Named([b"<x>\n"] * len(NAMES)), Preprocessing(16, (0.0,) * 3, (1.0,) * 3))
    list(loader.batches([evaluation_samples(np.arange(len(NAMES)), 16)]))
    assert len(loader.bad_images) == len(NAMES)
    for index, told in loader.bad_images.items():
        assert told.isprintable()
        told.encode()
        assert told.startswith(quoted(NAMES[index]) + ": ")
    assert one_line("a\nb\t\udcff c") == "a b \\udcff c"
