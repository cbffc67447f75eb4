"""Stores of encoded images: class folders and shards, and which locations are refused."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import re
import resource
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.trees import contents, make_tree

from pipelines.preparation.shard_writer import write_shards
from pipelines.stores.open import open_splits, open_store
from pipelines.stores.sample_store import Names


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes. The content of each file is its name, so that a mix-up is detected."""
    names = [f"train/{c}/{i}.JPEG" for c in ("b", "a", "c") for i in range(4)] + ["val/a/v.png", "val/c/v.jpg"]
    return make_tree(tmp_path / "tree", {name: name.encode() for name in names})


# --- trees


def test_tree_has_sorted_classes_files_and_labels(tree: Path) -> None:
    train, val = open_splits(str(tree))
    assert train.class_names == val.class_names == ["a", "b", "c"]
    assert train.labels.dtype == np.int64
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert [train.name(i) for i in range(2)] == ["train/a/0.JPEG", "train/a/1.JPEG"]
    assert all(train.read(i) == train.name(i).encode() and train.length(i) == len(train.name(i)) for i in range(12))
    assert [val.name(i) for i in range(len(val))] == ["val/a/v.png", "val/c/v.jpg"]
    assert val.labels.tolist() == [0, 2]  # a class may be missing from val
    assert train.size(0) is None


def test_tree_agrees_with_torchvision_image_folder(real_data: Path, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    with tarfile.open(real_data / "cifar10-test.tar") as tar:
        members = [member for member in tar if re.search(r"000\d\.jpg$", member.name)]
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not before Python 3.11.4
        tar.extractall(tmp_path / "train", members)
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    store, oracle = open_store(str(tmp_path), "train"), ImageFolder(str(tmp_path / "train"))
    assert store.class_names == oracle.classes
    assert [(str(tmp_path / store.name(i)), int(store.labels[i])) for i in range(len(store))] == oracle.samples


def test_tree_takes_images_by_extension_and_ignores_the_rest(tree: Path) -> None:
    taken = ["x.JPG", "x.jpeg", "x.Png", "x.bmp", "x.WebP", "deeper/x.jpg", "ünï cödé.jpg"]
    ignored = [".hidden.jpg", "notes.txt", "x.jpg.part", ".cache/x.jpg"]
    make_tree(tree, {f"train/a/{name}": b"" for name in taken + ignored} | {"train/.git/x.jpg": b"", "train/x.jpg": b""})
    store = open_store(str(tree), "train")
    names = {store.name(i) for i in np.flatnonzero(store.labels == 0).tolist()}
    assert names == {f"train/a/{name}" for name in [*taken, "0.JPEG", "1.JPEG", "2.JPEG", "3.JPEG"]}
    assert store.class_names == ["a", "b", "c"]


def test_test_folder_is_taken_for_val(tree: Path) -> None:
    (tree / "val").rename(tree / "test")
    assert open_store(f"file://{tree}", "val").name(0) == "test/a/v.png"


def test_a_validation_set_alone_can_be_opened(tree: Path) -> None:
    shutil.rmtree(tree / "train")
    store = open_store(str(tree), "val")
    assert store.class_names == ["a", "c"]
    assert [store.read(i) for i in range(len(store))] == [b"val/a/v.png", b"val/c/v.jpg"]


def test_unreadable_file_is_an_oserror_with_its_name(tree: Path) -> None:
    store = open_store(str(tree), "train")
    (tree / "train/a/1.JPEG").unlink()
    with pytest.raises(OSError, match=r"^train/a/1\.JPEG: No such file"):
        store.read(1)


# --- refusals


def remove(root: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in list(root.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: root.rename(root.with_name("gone")), "does not exist"),
        (lambda root: remove(root, "*"), "is empty"),
        (lambda root: (root.rename(root.with_name("gone")), root.write_text("")), "is a file"),
        (lambda root: remove(root, "train"), "no folder 'train'"),
        (lambda root: remove(root, "val"), "has train and no validation images .*prepare split --data"),
        (lambda root: remove(root, "*/b", "*/c"), r"only one class \(a\)"),
        (lambda root: remove(root, "train/*"), "no class folders"),
        (lambda root: make_tree(root, {"val/z/x.jpg": b"", "val/y/x.jpg": b""}), "in val that are not in train: y, z"),
        (lambda root: (root / "train/d").mkdir(), "without an image in train: d"),
        (lambda root: remove(root, "val/*/*"), "no images in val"),
        (lambda root: (root / "train.index.npz").write_bytes(b"PK"), "train.index.npz is damaged"),
    ],
)
def test_bad_location_is_one_line_that_names_it(tree: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(tree)
    with pytest.raises(ValueError, match=message) as caught:
        open_splits(str(tree))
    assert str(tree) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_split_and_scheme_are_refused() -> None:
    with pytest.raises(ValueError, match="'validation': must be one of train, val"):
        open_store("synthetic", "validation")
    with pytest.raises(ValueError, match="nosuch"):
        open_store("nosuch://bucket/x", "train")
    with pytest.raises(ValueError, match=r"memory://nothing.*no train.index.npz"):
        open_store("memory://nothing", "train")


# --- quarantine


def test_quarantined_samples_are_left_out(tree: Path) -> None:
    (tree / "quarantine.txt").write_text("# a comment\ntrain/b/2.JPEG\tunreadable: zero bytes\nval/a/v.png\tmine\nx/y/z\t\n")
    train, val = open_splits(str(tree))
    assert len(train) == 11
    assert "train/b/2.JPEG" not in {train.name(i) for i in range(len(train))}
    assert all(train.read(i) == train.name(i).encode() for i in range(len(train)))
    assert [val.name(i) for i in range(len(val))] == ["val/c/v.jpg"]


def test_quarantined_samples_of_shards_are_left_out(cifar_shards: Path) -> None:
    whole = open_store(str(cifar_shards), "train")
    bad = [whole.name(i) for i in (0, 17, 299)]
    (cifar_shards / "quarantine.txt").write_text("".join(f"{name}\tunreadable\n" for name in bad))
    rest = open_store(str(cifar_shards), "train")
    assert len(rest) == 297
    assert {rest.name(i) for i in range(297)} == {whole.name(i) for i in range(300)} - set(bad)
    assert {rest.read(i) for i in range(297)} <= {whole.read(i) for i in range(300)}


def test_class_that_is_quarantined_altogether_is_refused(tree: Path) -> None:
    (tree / "quarantine.txt").write_text("".join(f"train/b/{i}.JPEG\tbad\n" for i in range(4)))
    with pytest.raises(ValueError, match="without an image in train: b"):
        open_store(str(tree), "train")


# --- shards


def test_shards_hold_the_same_samples_as_the_tree(cifar_shards: Path) -> None:
    source = open_splits(str(cifar_shards.parent / "cifar"))
    shards = open_splits(str(cifar_shards))
    assert len(list(cifar_shards.glob("train-*.tar"))) > 5
    for before, after in zip(source, shards, strict=True):
        assert contents(before) == contents(after)
        assert all(after.size(i) == (32, 32) and after.length(i) == len(after.read(i)) for i in range(len(after)))
    assert len(set(shards[0].labels[:30].tolist())) > 3  # shuffled


def test_size_is_that_of_the_stored_pixels(imagenet_samples: list[Path], tmp_path: Path) -> None:
    rotated = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 20)).save(rotated, "JPEG", exif=exif)
    files = {f"train/{i % 2}/{path.name}": path.read_bytes() for i, path in enumerate(imagenet_samples[:20])}
    tree = make_tree(tmp_path / "tree", files | {"train/0/rotated.jpg": rotated.getvalue(), "train/1/broken.jpg": b"no"})
    write_shards(open_store(str(tree), "train"), "train", tmp_path / "out", shard_bytes=10**6, seed=0)
    store = open_store(str(tmp_path / "out"), "train")
    for index in range(len(store)):
        if "broken" in store.name(index):
            assert store.size(index) is None
        else:
            image = Image.open(io.BytesIO(store.read(index)))
            assert store.size(index) == (image.height, image.width)
            assert ("rotated" in store.name(index)) == (store.size(index) == (20, 60))


@pytest.mark.parametrize("change", ["truncate", "delete", "cut index"])
def test_shards_that_do_not_fit_their_index_are_refused(cifar_shards: Path, change: str) -> None:
    tar, index = cifar_shards / "train-00002.tar", cifar_shards / "train.index.npz"
    if change == "truncate":
        tar.write_bytes(tar.read_bytes()[:-1000])
    elif change == "delete":
        tar.unlink()
    else:
        index.write_bytes(index.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{index if change == 'cut index' else tar}.*(truncated|missing|damaged)"):
        open_store(str(cifar_shards), "train")


def test_shard_truncated_after_opening_is_an_oserror_with_the_name(cifar_shards: Path) -> None:
    store = open_store(str(cifar_shards), "train")
    (cifar_shards / "train-00000.tar").write_bytes(b"")
    with pytest.raises(OSError, match=f"^{store.name(0)}: .*truncated"):
        store.read(0)


@pytest.mark.slow
def test_reading_in_threads_and_beyond_the_open_file_limit(cifar_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [open_store(str(cifar_shards), "train").read(i) for i in range(300)]
    # Three files stay open, a quarter of the limit; most shards are opened for each read.
    monkeypatch.setattr(resource, "getrlimit", lambda _: (12, 12))
    store = open_store(str(cifar_shards), "train")
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(store.read, list(range(300)) * 3)) == expected * 3


@pytest.mark.parametrize("kind", ["tree", "shards", "synthetic"])
@pytest.mark.slow
def test_pickled_store_reads_the_same_and_stays_light(cifar_shards: Path, kind: str) -> None:
    location = {"tree": cifar_shards.parent / "cifar", "shards": cifar_shards, "synthetic": "synthetic:train=300"}[kind]
    store = open_store(str(location), "train")
    expected = [store.read(i) for i in range(300)]
    pickled = pickle.dumps(store)
    assert len(pickled) < 40_000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(pickle.loads(pickled).read, range(300)) == expected


# --- names


def test_names_round_trip_and_take() -> None:
    texts = ["", "a.jpg", "ünï cödé.JPEG", "undecodable \udcff.png", "日本.webp"]
    names = Names.of(texts)
    assert list(names) == [names[i] for i in range(5)] == texts
    assert names[-1] == texts[-1]
    assert list(names.take(np.array([4, 0, 4, 1]))) == [texts[4], texts[0], texts[4], texts[1]]
    assert list(Names.of([])) == list(names.take(np.array([], np.int64))) == []
    with pytest.raises(IndexError):
        names[5]
