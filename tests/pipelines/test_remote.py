"""Shards behind URLs: copied once, by the first process that reads them, completely or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support.remote_data import upload
from support.trees import contents

from pipelines.preparation.shard_writer import write_shards
from pipelines.stores.open import open_splits, open_store


@pytest.fixture
def memory_url(cifar_shards: Path) -> Iterator[str]:
    upload(cifar_shards, "memory://bucket/cifar")
    yield "memory://bucket/cifar"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_shards_behind_a_url_are_copied_once(memory_url: str, cifar_shards: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    store = open_store(memory_url, "train", cache=str(cache))
    assert not cache.exists()  # nothing is fetched before it is read
    store.read(0)
    assert [path.name for path in cache.glob("*/*.tar")] == ["train-00000.tar"]
    tars = {f"{memory_url}/{tar.name}": tar.stat().st_size for tar in sorted(cifar_shards.glob("train-*.tar"))[1:]}
    assert store.to_fetch() == tars
    store.prefetch(threads=3)
    assert store.to_fetch() == {}
    assert contents(store) == contents(open_store(str(cifar_shards), "train"))
    assert not list(cache.glob("*/*.part"))

    filesystem = fsspec.filesystem("memory")
    for path in filesystem.glob("/bucket/cifar/train-*.tar"):
        filesystem.rm(path)
    assert contents(open_store(memory_url, "train", cache=str(cache))) == contents(store)


def test_processes_share_the_copying(memory_url: str, tmp_path: Path) -> None:
    store = open_store(memory_url, "train", cache=str(tmp_path))
    shards = len(store.to_fetch())
    assert shards > 3
    store.prefetch(1, 3)
    assert len(store.to_fetch()) == shards - len(range(1, shards, 3))
    store.prefetch(0, 3)
    store.prefetch(2, 3)
    assert store.to_fetch() == {}


def test_cache_folder_from_the_environment(memory_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGG_DIST_CACHE", str(tmp_path / "elsewhere"))
    open_store(memory_url, "val").read(0)
    assert len(list((tmp_path / "elsewhere").glob("cifar-val-*/*.tar"))) == 1


def test_quarantine_list_behind_a_url_is_honoured(memory_url: str, tmp_path: Path) -> None:
    name = open_store(memory_url, "train").name(5)
    fsspec.filesystem("memory").pipe_file("/bucket/cifar/quarantine.txt", f"{name}\tunreadable\n".encode())
    assert len(open_store(memory_url, "train")) == 299


def test_truncated_remote_shard_leaves_nothing_in_the_cache(memory_url: str, tmp_path: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    whole = filesystem.cat_file("/bucket/cifar/train-00000.tar")
    filesystem.pipe_file("/bucket/cifar/train-00000.tar", whole[:-512])
    store = open_store(memory_url, "train", cache=str(tmp_path / "cache"))
    with pytest.raises(OSError, match=rf"^{re.escape(store.name(0))}: .*{len(whole) - 512} bytes .* {len(whole)}"):
        store.read(0)
    assert not [path for path in tmp_path.glob("cache/*/*") if path.suffix != ".lock"]
    filesystem.pipe_file("/bucket/cifar/train-00000.tar", whole)
    store.read(0)


def test_a_shard_that_ends_too_early_is_told_where_images_are_read_one_by_one(
    memory_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG_DIST_CACHE_SIZE", "0")
    filesystem, store = fsspec.filesystem("memory"), open_store(memory_url, "train", cache=str(tmp_path / "cache"))
    whole = store.read(0)
    filesystem.pipe_file("/bucket/cifar/train-00000.tar", filesystem.cat_file("/bucket/cifar/train-00000.tar")[:600])
    with pytest.raises(
        OSError, match=rf"^{re.escape(store.name(0))}: only 88 of {len(whole)} bytes: the shard is truncated$"
    ):
        store.read(0)
    filesystem.rm("/bucket/cifar/train-00000.tar")
    with pytest.raises(
        OSError, match=rf"^{re.escape(store.name(0))}: {memory_url}/train-00000.tar: bytes [^\n]*not be read"
    ):
        store.read(0)
    assert not list(tmp_path.glob("cache/*/*.tar"))


def test_a_failed_read_of_one_image_is_tried_again(memory_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGG_DIST_CACHE_SIZE", "0")
    monkeypatch.setattr("pipelines.remote.RETRY_AFTER_S", (0.0, 0.0))
    store, kind = open_store(memory_url, "train", cache=str(tmp_path)), type(fsspec.filesystem("memory"))
    whole, cat_file, failures = store.read(5), kind.cat_file, [2]

    def failing(self: Any, path: str, **span: Any) -> bytes:
        if failures[0]:
            failures[0] -= 1
            raise ConnectionError("503 Slow Down")
        return cat_file(self, path, **span)

    monkeypatch.setattr(kind, "cat_file", failing)
    assert store.read(5) == whole
    failures[0] = 3
    with pytest.raises(OSError, match=r"ConnectionError: 503 Slow Down$"):
        store.read(5)


def test_the_index_of_another_shard_set_is_told(memory_url: str, cifar_shards: Path, tmp_path: Path) -> None:
    source = open_store(str(cifar_shards), "train")
    write_shards(source, "train", tmp_path / "again", shard_bytes=40_000, seed=4)
    fsspec.filesystem("memory").pipe_file(
        "/bucket/cifar/train.index.npz", (tmp_path / "again" / "train.index.npz").read_bytes()
    )
    store = open_store(memory_url, "train", cache=str(tmp_path / "cache"))
    with pytest.raises(OSError, match=rf"^{memory_url}/train-000\d\d.tar[^\n]*(checksum|truncated or replaced)[^\n]*$"):
        store.prefetch()


def test_rewritten_shards_do_not_meet_the_old_copies(memory_url: str, cifar_shards: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    open_store(memory_url, "train", cache=cache).prefetch()
    source = open_store(str(cifar_shards.parent / "cifar"), "train")
    write_shards(source, "train", tmp_path / "again", shard_bytes=40_000, seed=4)
    upload(tmp_path / "again", memory_url)
    assert contents(open_store(memory_url, "train", cache=cache)) == contents(source)


@pytest.mark.slow
def test_shards_on_s3(cifar_shards: Path, tmp_path: Path, s3: Any) -> None:
    upload(cifar_shards, "s3://bucket/data/cifar")
    train, val = open_splits("s3://bucket/data/cifar/", cache=str(tmp_path / "cache"))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(train.read, range(len(train))))
    local = open_store(str(cifar_shards), "train")
    assert found == [local.read(i) for i in range(len(local))]
    assert val.class_names == local.class_names
    with pytest.raises(ValueError, match=r"s3://nobucket/x.*no train.index.npz"):
        open_store("s3://nobucket/x", "train")
