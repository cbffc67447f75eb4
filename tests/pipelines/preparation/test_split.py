"""`prepare split`, which sets training images aside for validation."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.trees import by_content, make_tree

from pipelines.prepare import main
from pipelines.stores.open import open_splits, open_store


def pets(root: Path, counts: dict[str, int]) -> Path:
    return make_tree(root, {f"{c}/{c}_{i}.jpg": f"{c}{i}".encode() for c, n in counts.items() for i in range(n)})


def split(data: Path, out: Path, *flags: object) -> int:
    return main(["split", "--data", str(data), "--out", str(out), *map(str, flags)])


def validation(location: Path) -> set[bytes]:
    return set(by_content(open_store(str(location), "val")))


@pytest.mark.parametrize("inner", [".", "train"])
def test_split_takes_the_same_share_of_each_class(tmp_path: Path, inner: str, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"cat": 25, "dog": 10, "hot dog": 4, "newt": 1}
    data = tmp_path / "data"
    pets(data / inner, counts)
    make_tree(data, {"quarantine.txt": f"{Path(inner, 'dog/dog_0.jpg')}\tbad\n".encode()})
    assert split(data, tmp_path / "out") == 0
    train, val = open_splits(str(tmp_path / "out"))
    assert np.bincount(val.labels, minlength=4).tolist() == [3, 1, 1, 0]  # halves round up, and at least one image
    assert np.bincount(train.labels, minlength=4).tolist() == [22, 8, 3, 1]
    whole = {f"{c}{i}".encode(): c for c, n in counts.items() for i in range(n) if f"{c}{i}" != "dog0"}
    assert by_content(train) | by_content(val) == whole
    assert not by_content(train).keys() & by_content(val).keys()
    out = capsys.readouterr().out
    assert f"train: 34 images, 4 classes, as links in {tmp_path}/out/train\nval: 5 images" in out
    assert "1 quarantined image" in out
    assert "no image in val\tnewt\t1 of 4 classes\n" in out


def test_split_is_the_same_for_the_same_seed_and_moves_with_the_data(tmp_path: Path) -> None:
    data = pets(tmp_path / "here/data", {"cat": 30, "dog": 30})
    for name, flags in {"a": [], "b": [], "other": ["--seed", 1], "half": ["--val", 0.5]}.items():
        assert split(data, tmp_path / "here" / name, *flags) == 0
    chosen = {
        name: set(by_content(open_store(str(tmp_path / "here" / name), "val"))) for name in ("a", "b", "other", "half")
    }
    assert chosen["a"] == chosen["b"] != chosen["other"]
    assert chosen["a"] < chosen["half"]
    assert {name: len(images) for name, images in chosen.items()} == {"a": 6, "b": 6, "other": 6, "half": 30}
    pets(data, {"emu": 10})  # adding a class does not change the choice in the others
    assert split(data, tmp_path / "here/more") == 0
    assert {image for image in by_content(open_store(str(tmp_path / "here/more"), "val")) if b"emu" not in image} == chosen[
        "a"
    ]
    (tmp_path / "here").rename(tmp_path / "there")
    assert validation(tmp_path / "there/a") == chosen["a"]
    assert main(["shard", "--data", str(tmp_path / "there/a"), "--out", str(tmp_path / "shards")]) == 0
    assert validation(tmp_path / "shards") == chosen["a"]


def test_split_reads_what_links_lead_to(tmp_path: Path) -> None:
    data = pets(tmp_path / "data", {"cat": 4})
    pets(tmp_path / "elsewhere", {"dog": 4})
    (data / "dog").symlink_to("../elsewhere/dog")
    (tmp_path / "link").symlink_to("data")
    assert split(tmp_path / "link", tmp_path / "deep/er/out") == 0
    train, val = open_splits(str(tmp_path / "deep/er/out"))
    assert (len(train), len(val)) == (6, 2)
    assert len(by_content(train) | by_content(val)) == 8


def test_a_test_set_is_no_validation_set(tmp_path: Path) -> None:
    pets(tmp_path / "data/train", {"cat": 4, "dog": 4})
    make_tree(tmp_path / "data", {"test/7.jpg": b"", "test/8.jpg": b""})
    with pytest.raises(ValueError, match=r"test has 2 images and no class folders, .*prepare split --data"):
        open_splits(str(tmp_path / "data"))
    assert split(tmp_path / "data", tmp_path / "out") == 0
    assert len(validation(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("spoil", "flags", "message"),
    [
        (lambda root: make_tree(root, {"data/test/0.jpg": b""}), [], "has test, but no train"),
        (lambda root: make_tree(root, {"data/val/cat/0.jpg": b""}), [], "has a validation split already, val"),
        (lambda root: make_tree(root, {"out/x": b""}), [], "out: exists already"),
        (lambda root: None, ["--val", 1], "--val 1.0: must be between 0 and 1"),
        (lambda root: None, ["--val", "nan"], "--val nan: must be between 0 and 1"),
        (lambda root: shutil.rmtree(root / "data/dog"), [], r"only one class \(cat\)"),
        (lambda root: make_tree(root, {"data/emu/x.gif": b""}), [], "without an image in train: emu"),
        (lambda root: shutil.rmtree(root / "data"), [], "data: does not exist"),
    ],
)
def test_split_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], flags: list[object], message: str
) -> None:
    pets(tmp_path / "data", {"cat": 4, "dog": 4})
    spoil(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert split(tmp_path / "data", tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_split_into_the_data_itself_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = pets(tmp_path / "data", {"cat": 4, "dog": 4})
    assert split(data, data / "split") == 2
    assert "is inside --data" in capsys.readouterr().err
