"""The prepare command: unpacking the ILSVRC-2012 archives, resuming, the built-in data, and errors."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.ilsvrc import TRAIN_IMAGES, VAL_LABELS, WNIDS
from support.trees import by_content, make_tree, picture, snapshot, tar_of

from pipelines.preparation.folder_writer import write_tree
from pipelines.preparation.shard_writer import write_shards
from pipelines.prepare import main
from pipelines.stores.archives import open_ilsvrc
from pipelines.stores.folder import FolderStore
from pipelines.stores.open import open_splits, open_store
from pipelines.stores.sample_store import SampleStore


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


# --- unpack


@pytest.mark.parametrize("form", ["shards", "tree"])
def test_unpack_ilsvrc(ilsvrc: Path, tmp_path: Path, form: str) -> None:
    assert main(["unpack", "--source", str(ilsvrc), "--out", str(tmp_path / "out"), "--format", form]) == 0
    train, val = open_splits(str(tmp_path / "out"))
    assert train.class_names == sorted(WNIDS.values())
    images = {picture(1000 * number + i): wnid for number, wnid in WNIDS.items() for i in range(TRAIN_IMAGES)}
    assert by_content(train) == images
    assert by_content(val) == {picture(i): WNIDS[label] for i, label in enumerate(VAL_LABELS)}
    stems = {f"{wnid}/{wnid}_{i}" for wnid in WNIDS.values() for i in range(TRAIN_IMAGES)}
    separator = "train/" if form == "tree" else ":"
    assert {train.name(i).partition(separator)[2].rpartition(".")[0] for i in range(len(train))} == stems
    if form == "tree":
        assert (tmp_path / "out/train/n01440764/n01440764_0.JPEG").is_file()


def test_development_kit_is_read_as_torchvision_reads_it(
    ilsvrc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import imagenet

    kit = (ilsvrc / "ILSVRC2012_devkit_t12.tar.gz").read_bytes()
    make_tree(tmp_path, {"ILSVRC2012_devkit_t12.tar.gz": kit})
    checksum = hashlib.md5(kit, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(imagenet.ARCHIVE_META, "devkit", ("ILSVRC2012_devkit_t12.tar.gz", checksum))
    imagenet.parse_devkit_archive(tmp_path)
    words, val_wnids = imagenet.load_meta_file(tmp_path)
    train, val = open_ilsvrc(ilsvrc)
    assert train.class_names == sorted(words)
    by_name = sorted(range(len(val)), key=val.name)
    assert [val.class_names[val.labels[i]] for i in by_name] == val_wnids


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "ILSVRC2012_img_val.tar").unlink(), "ILSVRC2012_img_val.tar is missing"),
        (lambda folder: cut(folder / "ILSVRC2012_img_train.tar", 30_000), "ILSVRC2012_img_train.tar is truncated"),
        (lambda folder: cut(folder / "ILSVRC2012_img_val.tar", 2_000), "ILSVRC2012_img_val.tar is truncated"),
        (lambda folder: cut(folder / "ILSVRC2012_devkit_t12.tar.gz", 500), "not a readable .* development kit"),
        (lambda folder: (folder / "ILSVRC2012_img_val.tar").write_bytes(b"no tar"), "not an uncompressed tar"),
        (lambda folder: tar_of(folder / "ILSVRC2012_img_val.tar", {"a.JPEG": b"x"}), "has 1 images, .* has labels for 6"),
        (lambda folder: tar_of(folder / "ILSVRC2012_img_val.tar", {"a.tif": b"x"}), "has 0 images, .*; left out: 1 .tif"),
        (
            lambda folder: tar_of(folder / "ILSVRC2012_img_train.tar", {"train/n1/x.JPEG": b"x", "y.JPEG": b""}),
            "have different classes: n01440764, n01443537, n01484850, n01491361, n1",
        ),
        (lambda folder: tar_of(folder / "ILSVRC2012_img_train.tar", {"n01440764.tar": b"x" * 999}), "damaged"),
    ],
)
def test_unpack_refuses_damaged_archives(
    ilsvrc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], message: str
) -> None:
    source = make_tree(tmp_path / "source", {path.name: path.read_bytes() for path in ilsvrc.glob("*.*") if path.is_file()})
    spoil(source)
    assert main(["unpack", "--source", str(source), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("pipelines.prepare: ")
    assert re.search(message, last)


@pytest.mark.parametrize("form", ["shards", "tree"])
def test_unpack_again_changes_nothing(ilsvrc: Path, tmp_path: Path, form: str) -> None:
    command = ["unpack", "--source", str(ilsvrc), "--out", str(tmp_path / "out"), "--format", form]
    assert main(command) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


# --- interruption


class Failing(FolderStore):
    """A store whose disk fails after a number of reads."""

    reads_left = 0

    def read(self, index: int) -> bytes:
        if self.reads_left == 0:
            raise OSError(f"{self.name(index)}: Input/output error")
        self.reads_left -= 1
        return super().read(index)


def failing(store: SampleStore, reads: int) -> Failing:
    assert isinstance(store, FolderStore)
    copy = Failing(store.root, store.folders, store.class_names, store.labels, store.folder, store.files)
    copy.reads_left = reads
    return copy


def test_interrupted_shards_do_not_look_whole_and_are_gone_on_with(
    small_tree: Path, small_shards: Path, tmp_path: Path
) -> None:
    store, out = open_store(str(small_tree), "train"), tmp_path / "out"
    for reads in (25, 20):
        with pytest.raises(OSError, match="Input/output error"):
            write_shards(failing(store, reads), "train", out, shard_bytes=30_000, seed=0, threads=1)
        with pytest.raises(ValueError, match="has shards of an interrupted prepare run: repeat the same command"):
            open_store(str(out), "train")
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert len(finished) >= 2
    write_shards(store, "train", out, shard_bytes=30_000, seed=0)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert snapshot(out) == {name: data for name, data in snapshot(small_shards).items() if name.startswith("train")}


def test_other_settings_do_not_mix_with_unfinished_or_finished_shards(small_tree: Path, tmp_path: Path) -> None:
    store, out = open_store(str(small_tree), "train"), tmp_path / "out"
    with pytest.raises(OSError, match="Input/output error"):
        write_shards(failing(store, 25), "train", out, shard_bytes=30_000, seed=0, threads=1)
    before = snapshot(out)
    with pytest.raises(ValueError, match=f"--out {out}: has shards of an unfinished run with other"):
        write_shards(store, "train", out, shard_bytes=30_000, seed=1)
    assert snapshot(out) == before
    write_shards(store, "train", out, shard_bytes=30_000, seed=0)
    with pytest.raises(ValueError, match=f"--out {out}: has other shards of train"):
        write_shards(store, "train", out, shard_bytes=31_000, seed=0)
    (out / "train.index.npz").unlink()
    with pytest.raises(ValueError, match="without their index"):
        write_shards(store, "train", out, shard_bytes=30_000, seed=0)


def test_interrupted_tree_does_not_look_whole_and_is_gone_on_with(ilsvrc: Path, small_tree: Path, tmp_path: Path) -> None:
    store = open_store(str(small_tree), "val")
    with pytest.raises(OSError, match="Input/output error"):
        write_tree(failing(store, 4), "val", tmp_path, threads=1)
    assert not (tmp_path / "val").exists()
    finished = tmp_path / ".val.part/cat"
    assert sorted(path.name for path in finished.iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
    before = finished.stat().st_mtime_ns
    write_tree(store, "val", tmp_path)
    assert (tmp_path / "val/cat").stat().st_mtime_ns == before
    assert snapshot(tmp_path) == {name: data for name, data in snapshot(small_tree).items() if name.startswith("val")}


@pytest.mark.slow
def test_killed_command_is_gone_on_with(tmp_path: Path) -> None:
    """SIGKILL after two shards: the resumed run writes the same files as an uninterrupted one."""
    arguments = ["shard", "--data", "synthetic:train=1500,val=20", "--shard-size", "1", "--out"]
    command = [sys.executable, "-m", "pipelines.prepare", *arguments]
    process = subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(tmp_path.glob("killed/train-*.tar"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/val.index.npz").exists()
    assert main([*arguments, str(tmp_path / "killed")]) == 0
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    assert snapshot(tmp_path / "killed") == snapshot(tmp_path / "whole")


# --- synthetic, and the command line


def test_synthetic_command_writes_the_built_in_set(tmp_path: Path) -> None:
    flags = ["--train", "40", "--val", "20", "--size", "32", "--seed", "5"]
    assert main(["synthetic", "--out", str(tmp_path / "out"), *flags]) == 0
    for written, drawn in zip(
        open_splits(str(tmp_path / "out")), open_splits("synthetic:train=40,val=20,size=32,seed=5"), strict=True
    ):
        assert written.class_names == drawn.class_names
        assert by_content(written) == by_content(drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--data", "/nonexistent/data"], "/nonexistent/data: does not exist"),
        (["check", "--data", "synthetic", "--threads", "0"], "--threads 0: must be at least 1"),
        (["shard", "--data", "synthetic", "--out", "OUT", "--shard-size", "0"], "--shard-size 0: must be at least 1 (MB)"),
        (["shard", "--data", "synthetic", "--out", "FILE"], "FILE: is a file"),
        (["shard", "--data", "a.tar", "b.tar", "--out", "OUT"], "a.tar does not exist"),
        (["shard", "--data", "a", "b", "c", "--out", "OUT"], "--data: takes one location, or two tars"),
        (["synthetic", "--out", "OUT", "--train", "5"], "train=5: must be at least 10"),
        (["synthetic", "--out", "FILE"], "FILE: is a file"),
        (["unpack", "--source", "OUT", "--out", "OUT"], "ILSVRC2012_img_train.tar is missing"),
    ],
)
def test_user_mistake_is_one_line_and_status_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "FILE").write_text("")
    where = {"OUT": str(tmp_path / "OUT"), "FILE": str(tmp_path / "FILE")}
    assert main([where.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pipelines.prepare: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "OUT").exists()


@pytest.mark.parametrize("arguments", [[], ["shuffle"], ["check"], ["check", "--data", "synthetic", "--quick"]])
def test_unknown_commands_and_flags_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shard", "--data", "x"], ["--out"]),
        (["shard", "--data", "x", "--out", "y", "--seeds", "3"], ["--seeds", "mean --seed?"]),
        (["shrad"], ["shrad", "mean shard?"]),
        ([], ["shard"]),
    ],
)
def test_a_mistake_in_the_command_line_is_one_line(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    error = capsys.readouterr().err
    assert (end.value.code, error.count("\n")) == (2, 1)
    assert error.startswith("pipelines.prepare: ")
    assert all(word in error for word in words), error
