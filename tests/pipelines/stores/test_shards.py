"""Shards: the command that writes them, and other packages that read them."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from support.trees import by_content, make_tree, snapshot, tar_of

from pipelines.preparation.shard_plan import member_keys
from pipelines.prepare import main
from pipelines.stores.archives import open_class_tar
from pipelines.stores.open import open_splits, open_store


def test_member_keys_are_unique_and_safe(small_tree: Path) -> None:
    store = open_store(str(small_tree), "train")
    keys = member_keys(store)
    stems = [key.rpartition(".")[0] for key in keys]
    assert len(set(stems)) == len(store) == 67
    assert all(re.fullmatch(r"[^.\s]+\.(jpg|png)", key) and len(key.encode()) <= 100 for key in keys)
    plain = {store.name(i).removeprefix("train/"): key for i, key in enumerate(keys)}
    assert plain["cat/3.JPEG"] == "cat/3.jpg"
    assert plain["hot dog/3.JPEG"] == "hot_dog/3.jpg"
    assert plain["dog/ünï.jpg"] == "dog/ünï.jpg"
    assert sorted(plain[f"cat/a{c}b{c}c.{e}"][:6] for c, e in ((".", "jpg"), ("_", "jpg"), (" ", "png"))) != ["cat/a_"] * 3


# The package leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_shards_through_webdataset(small_tree: Path, small_shards: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    expected = by_content(open_store(str(small_tree), "train"))
    tars = sorted(map(str, small_shards.glob("train-*.tar")))
    assert len(tars) > 2
    class_names = open_store(str(small_shards), "train").class_names
    found = {}
    for sample in webdataset.WebDataset(tars, shardshuffle=False):
        encoded = sample.get("jpg") or sample["png"]
        found[encoded] = class_names[int(sample["cls"])]
    assert found == expected


def test_shards_through_dali(small_tree: Path, small_shards: Path) -> None:
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def

    tars = sorted(small_shards.glob("train-*.tar"))
    indexes = [str(tar.with_suffix(".idx")) for tar in tars]

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def read() -> tuple[object, object]:
        image, label = fn.readers.webdataset(
            paths=list(map(str, tars)), index_paths=indexes, ext=["jpg;png", "cls"], missing_component_behavior="error"
        )
        return image, label

    pipeline = read()
    pipeline.build()
    store = open_store(str(small_shards), "train")
    for index in range(len(store)):  # in the order of the tars, like our own index
        image, label = (np.array(output[0]).tobytes() for output in pipeline.run())
        assert image == store.read(index)
        assert int(label) == store.labels[index]
    assert by_content(store) == by_content(open_store(str(small_tree), "train"))


def test_dali_index_is_what_its_own_tool_writes(small_shards: Path, tmp_path: Path) -> None:
    wds2idx = pytest.importorskip("wds2idx")
    for tar in small_shards.glob("*.tar"):
        with wds2idx.IndexCreator(str(tar), str(tmp_path / "oracle.idx"), verbose=False) as creator:
            creator.create_index()
        oracle, ours = (tmp_path / "oracle.idx").read_text(), tar.with_suffix(".idx").read_text()
        # In some locales GNU tar lists names beyond ASCII escaped; everything else must be equal.
        assert [line for line in ours.splitlines() if line.isascii()] == [
            line for line in oracle.splitlines() if line.isascii() and "\\" not in line
        ]


def test_shards_are_plain_ustar_archives_of_bounded_size(small_shards: Path) -> None:
    tars = sorted(small_shards.glob("train-*.tar"))
    assert all(30_000 - 5_000 < tar.stat().st_size < 30_000 + 5_000 for tar in tars[:-1])
    for path in tars:
        assert path.read_bytes()[257:263] == b"ustar\0"
        with tarfile.open(path) as tar:
            names = tar.getnames()
        assert [name.rpartition(".")[0] for name in names[::2]] == [name.rpartition(".")[0] for name in names[1::2]]
        assert all(name.endswith(".cls") for name in names[1::2])


def test_shard_command_takes_any_location(small_tree: Path, small_shards: Path, tmp_path: Path) -> None:
    expected = [by_content(store) for store in open_splits(str(small_tree))]
    for source in (small_tree, small_shards):
        out = tmp_path / f"from-{source.name}"
        assert main(["shard", "--data", str(source), "--out", str(out)]) == 0
        assert [by_content(store) for store in open_splits(str(out))] == expected
    assert main(["shard", "--data", "synthetic:train=20,val=10", "--out", str(tmp_path / "synthetic")]) == 0
    assert len(open_store(str(tmp_path / "synthetic"), "train")) == 20


@pytest.mark.slow
def test_shard_command_takes_tars_of_class_folders(real_data: Path, tmp_path: Path) -> None:
    tar = real_data / "mnist-test.tar"
    store = open_class_tar(tar)
    assert store.class_names == list("0123456789")
    assert len(store) == 10_000
    with tarfile.open(tar) as oracle:
        for index in (0, 5000, 9999):
            name = store.name(index).partition(":")[2]
            assert store.class_names[store.labels[index]] == name.split("/")[0]
            assert store.read(index) == oracle.extractfile(f"./{name}").read()  # type: ignore[union-attr]

    some = {f"./{store.name(i).partition(':')[2]}": store.read(i) for i in range(0, 10_000, 50)}
    tar_of(tmp_path / "train.tar", some)
    tar_of(tmp_path / "val.tar", {name: encoded for name, encoded in some.items() if "/7/" in name})
    tars = [str(tmp_path / f"{split}.tar") for split in ("train", "val")]
    assert main(["shard", "--data", *tars, "--out", str(tmp_path / "out")]) == 0
    train, val = open_splits(str(tmp_path / "out"))
    assert by_content(train) == {encoded: name.split("/")[1] for name, encoded in some.items()}
    assert set(by_content(val).values()) == {"7"}
    assert train.size(77) == (28, 28)
    assert main(["shard", "--data", *reversed(tars), "--out", str(tmp_path / "wrong")]) == 2  # val has more classes


def test_quarantined_images_are_not_put_into_shards(small_tree: Path, tmp_path: Path) -> None:
    tree = make_tree(
        tmp_path / "tree",
        snapshot(small_tree) | {"train/cat/bad.jpg": b"", "quarantine.txt": b"train/cat/bad.jpg\t-\n"},
    )
    assert main(["shard", "--data", str(tree), "--out", str(tmp_path / "out")]) == 0
    assert by_content(open_store(str(tmp_path / "out"), "train")) == by_content(open_store(str(small_tree), "train"))
