"""The node's cache of shards: bounded, shared by processes that may be killed, on disks that may be full."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from support.remote_data import flip_bit, upload
from support.trees import contents

from pipelines.remote import cache_limit, copy_file, size_of
from pipelines.stores.eviction import Copy, Upcoming, choose_evictions
from pipelines.stores.node_cache import CacheFull, NodeCache
from pipelines.stores.open import open_store
from pipelines.stores.shard_index import ShardIndex

FOLDER = "cifar-train-0123456789abcdef"


@pytest.fixture
def checked_url(cifar_shards: Path) -> Iterator[str]:
    """Shards with checksums behind a URL."""
    upload(cifar_shards, "memory://bucket/cifar")
    yield "memory://bucket/cifar"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def cached(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in cache.glob("*/*.tar")}


@pytest.mark.parametrize(
    ("text", "size"),
    [("", None), ("0", 0), ("123", 123), ("500GB", 500 * 10**9), ("2TB", 2 * 10**12), ("1.5 gb", 1_500_000_000)],
)
def test_sizes_of_the_cache(text: str, size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGG_DIST_CACHE_SIZE", text)
    assert cache_limit() == size


@pytest.mark.parametrize("text", ["much", "5 apples", "-1", "1.5", "GB", "1e9"])
def test_a_size_that_is_none_is_refused_when_the_data_are_opened(
    text: str, checked_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG_DIST_CACHE_SIZE", text)
    with pytest.raises(ValueError, match=rf"^VGG_DIST_CACHE_SIZE {text}: must be a size such as 500GB .*$"):
        open_store(checked_url, "train")


def test_the_longest_unused_copies_are_evicted_and_those_to_be_used_last() -> None:
    generator = random.Random(0)
    for _ in range(300):
        copies = [Copy(str(k), generator.randrange(1, 9), generator.randrange(5)) for k in range(8)]
        paths = [str(k) for k in generator.sample(range(12), generator.randrange(6))]  # some of them are not there
        upcoming, since = Upcoming(paths, generator.randrange(len(paths) + 1)), generator.randrange(1, 6)
        excess = generator.randrange(-2, 40)
        evicted = choose_evictions(copies, excess, upcoming, since)
        allowed = [copy for copy in copies if copy.path not in paths[: upcoming.needed] and copy.used < since]
        if evicted is None:
            assert sum(copy.size for copy in allowed) < excess
            continue
        assert all(copy in allowed for copy in evicted)
        assert sum(copy.size for copy in evicted) >= excess
        assert sum(copy.size for copy in evicted[:-1]) < max(excess, 1)  # no more than necessary
        for gone in evicted:
            for stays in [copy for copy in allowed if copy not in evicted]:
                if gone.path in paths:
                    assert stays.path in paths
                    assert paths.index(gone.path) > paths.index(stays.path)
                elif stays.path not in paths:
                    assert gone.used <= stays.used


def test_a_bounded_cache_never_holds_more_and_every_image_is_read(
    checked_url: str, cifar_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(open_store(str(cifar_shards), "train"))
    sizes = {tar.name: tar.stat().st_size for tar in cifar_shards.glob("train-*.tar")}
    for limit in (0, max(sizes.values()) - 1, 3 * max(sizes.values()), sum(sizes.values())):
        monkeypatch.setenv("VGG_DIST_CACHE_SIZE", str(limit))
        cache = tmp_path / f"cache-{limit}"
        store = open_store(checked_url, "train", cache=str(cache))
        store.prefetch()
        held = cached(cache)
        assert held.items() <= sizes.items()
        assert sum(held.values()) <= limit
        assert sum(held.values()) + min(sizes.values()) > min(limit, sum(sizes.values()) - 1) or limit < max(sizes.values())
        use = store.cache_use()
        assert use is not None
        assert (use.total, use.cached, use.capacity) == (sum(sizes.values()), sum(held.values()), limit)
        assert contents(store) == whole
        assert cached(cache) == held  # a miss of a split that does not fit is no reason to copy a shard


def test_both_splits_and_other_data_share_the_bound_and_the_longest_unused_goes_first(
    checked_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val = (open_store(checked_url, split, cache=str(tmp_path / "cache")) for split in ("train", "val"))
    stale = tmp_path / "cache" / "old-train-0123456789abcdef" / "train-00000.tar"
    stale.parent.mkdir(parents=True)
    own = tmp_path / "cache" / "benchmark-envs" / "x.tar"
    own.parent.mkdir()
    for file in (stale, own):
        file.write_bytes(bytes(100_000))
        os.utime(file, (1e9, 1e9))
    needed = sum(train.to_fetch().values()) + sum(val.to_fetch().values())
    monkeypatch.setenv("VGG_DIST_CACHE_SIZE", str(needed + 50_000))
    train, val = (open_store(checked_url, split, cache=str(tmp_path / "cache")) for split in ("train", "val"))
    for store in (val, train):
        store.prefetch()
        assert store.to_fetch() == {}
    assert val.to_fetch() == {}
    assert not stale.exists()
    assert own.exists()  # not a shard of the cache


def test_a_shard_that_is_evicted_while_it_is_read_is_read_to_its_end(checked_url: str, tmp_path: Path) -> None:
    store = open_store(checked_url, "train", cache=str(tmp_path / "cache"))
    first = store.read(0)
    [copy] = (tmp_path / "cache").glob("*/*.tar")
    copy.unlink()
    assert store.read(0) == first

    store.read(len(store) - 1)  # opens another shard, and closes the evicted one, whose space is free now
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [link for link in links if link.startswith(str(tmp_path)) and link.endswith("(deleted)")]


def _read_all(arguments: tuple[str, str, int]) -> list[int]:
    url, cache, seed = arguments
    store = open_store(url, "train", cache=cache)
    store.prefetch(seed % 2, 2)
    most, sums = 0, 0
    for index in np.random.default_rng(seed).permutation(len(store)).tolist():
        sums += sum(store.read(index))
        most = max(most, sum(max(0, size_of(str(path))) for path in list(Path(cache).glob("*/*.tar"))))
    return [sums, most]


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.4, 2.0])
def test_several_processes_share_a_bounded_cache(
    share: float, cifar_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = tmp_path / "checked", tmp_path / "cache"
    shutil.copytree(cifar_shards, folder)
    limit = int(share * sum(tar.stat().st_size for tar in folder.glob("train-*.tar")))
    monkeypatch.setenv("VGG_DIST_CACHE_SIZE", str(limit))
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        results = pool.map(_read_all, [(f"local://{folder}", str(cache), seed) for seed in range(6)], chunksize=1)
    local = open_store(str(folder), "train")
    assert {sums for sums, _ in results} == {sum(sum(local.read(index)) for index in range(len(local)))}
    assert max(most for _, most in results) <= limit
    for copy in cache.glob("*/*.tar"):
        assert copy.read_bytes() == (folder / copy.name).read_bytes()
    assert not list(cache.glob("*/*.part"))


SLOW_COPY = """
import sys, time
from pathlib import Path
from pipelines.stores import node_cache

def copy_half(url, part, size):
    Path(part).write_bytes(bytes(size // 2))
    time.sleep(600)

node_cache.copy_file = copy_half
root, url, path, size = sys.argv[1:]
node_cache.NodeCache(root, int(size)).fetch(url, path, int(size))
"""


def test_a_killed_copy_leaves_neither_a_whole_shard_nor_a_reservation(cifar_shards: Path, tmp_path: Path) -> None:
    one, other = sorted(cifar_shards.glob("train-*.tar"))[:2]
    path, size = str(tmp_path / "cache" / FOLDER / one.name), one.stat().st_size
    arguments = [str(tmp_path / "cache"), f"local://{one}", path, str(size)]
    process = subprocess.Popen([sys.executable, "-c", SLOW_COPY, *arguments])
    part = Path(f"{path}.{size}.part")
    while process.poll() is None and not (part.exists() and part.stat().st_size):
        time.sleep(0.01)
    cache = NodeCache(str(tmp_path / "cache"), size + 10)
    with pytest.raises(CacheFull, match=r"does not fit: VGG_DIST_CACHE_SIZE is 42.0 kB"):  # its place is taken
        cache.fetch(f"local://{other}", str(tmp_path / "cache" / FOLDER / other.name), size)
    process.kill()
    process.wait()
    cache.fetch(f"local://{other}", str(tmp_path / "cache" / FOLDER / other.name), other.stat().st_size)
    assert not part.exists()
    cache.fetch(f"local://{one}", path, size)
    assert Path(path).read_bytes() == one.read_bytes()
    assert [copy.name for copy in tmp_path.glob("cache/*/*.tar")] == [one.name]


def test_leftovers_of_an_earlier_version_are_not_taken_for_shards(cifar_shards: Path, tmp_path: Path) -> None:
    tar, copy = cifar_shards / "train-00000.tar", tmp_path / "cache" / FOLDER / "train-00000.tar"
    copy.parent.mkdir(parents=True)
    for leftover in (copy, copy.with_name(f"{copy.name}.part")):
        leftover.write_bytes(tar.read_bytes()[:5000])
    NodeCache(str(tmp_path / "cache"), tar.stat().st_size).fetch(f"local://{tar}", str(copy), tar.stat().st_size)
    assert copy.read_bytes() == tar.read_bytes()
    assert not list(tmp_path.glob("cache/*/*.part"))


def test_a_disk_that_fills_up_during_a_copy_is_cleared_once(
    cifar_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def full_once(url: str, path: str, size: int) -> None:
        calls.append(url)
        if len(calls) in full:
            raise OSError(errno.ENOSPC, "No space left on device")
        copy_file(url, path, size)

    monkeypatch.setattr("pipelines.stores.node_cache.copy_file", full_once)
    one, other = sorted(cifar_shards.glob("train-*.tar"))[:2]
    cache, full = NodeCache(str(tmp_path / "cache"), None), {2}
    for tar in (one, other):
        cache.fetch(f"local://{tar}", str(tmp_path / "cache" / FOLDER / tar.name), tar.stat().st_size)
    assert [copy.name for copy in tmp_path.glob("cache/*/*.tar")] == [other.name]
    assert calls == [f"local://{one}", f"local://{other}", f"local://{other}"]
    full = {4, 5}
    with pytest.raises(CacheFull, match=r"^[^\n]*No space left on device[^\n]*$"):
        cache.fetch(f"local://{one}", str(tmp_path / "cache" / FOLDER / one.name), one.stat().st_size)
    assert not list(tmp_path.glob("cache/*/*.part"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs root, to mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_on_a_small_disk_what_fits_is_copied_and_the_rest_read_from_the_url(
    checked_url: str, cifar_shards: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = open_store(str(cifar_shards), "train")
    store = open_store(checked_url, "train", cache=str(small_disk))
    assert sum(store.to_fetch().values()) > 200_000
    store.prefetch()
    assert 0 < sum(cached(small_disk).values()) <= 180_000
    assert contents(store) == contents(whole)
    assert not list(small_disk.glob("*/*.part"))
    # Something else fills the disk: reading goes on.
    for copy in small_disk.glob("*/*.tar"):
        copy.unlink()
    store = open_store(checked_url, "train", cache=str(small_disk))
    store._shards._fits = True  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "other").write_bytes(bytes(300_000))
    assert contents(store) == contents(whole)
    assert len([message for message in caplog.messages if "does not fit" in message]) == 1


def test_a_folder_that_cannot_be_written_is_named(checked_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = open_store(checked_url, "train", cache=str(tmp_path / "file"))
    with pytest.raises(OSError, match=rf"^{tmp_path}/file/[^\n]* cannot be written \([^\n]*VGG_DIST_CACHE can name another"):
        store.prefetch()


def damage(store_url: str, cache: Path) -> tuple[int, str]:
    """Flips a bit in the middle of sample 5's bytes on the storage; returns its index and name."""
    store = open_store(store_url, "train", cache=str(cache))
    shard, offset = store.index.shard_names[store.index.shard[5]], int(store.index.offset[5])  # type: ignore[attr-defined]
    flip_bit(f"{store_url}/{shard}", offset + store.length(5) // 2)
    return 5, store.name(5)


def test_a_shard_that_is_damaged_on_the_storage_is_copied_twice_and_named(
    checked_url: str, cifar_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def counted(url: str, path: str, size: int) -> None:
        calls.append(url)
        copy_file(url, path, size)

    monkeypatch.setattr("pipelines.stores.node_cache.copy_file", counted)
    index, name = damage(checked_url, tmp_path / "cache")
    shard = name.partition(":")[0]
    store = open_store(checked_url, "train", cache=str(tmp_path / "cache"))
    with pytest.raises(OSError, match=rf"^{checked_url}/{shard}: {name}: the bytes do not match the checksum[^\n]*upload"):
        store.prefetch()
    assert calls.count(f"{checked_url}/{shard}") == 2
    assert shard not in cached(tmp_path / "cache")
    # The other samples of the shard can be read all the same.
    local = open_store(str(cifar_shards), "train")
    with pytest.raises(OSError, match=rf"^{name}: the bytes in {checked_url}/{shard} do not match the checksum[^\n]*$"):
        store.read(index)
    assert store.read(index - 1) == local.read(index - 1)
    # A store that copies shards as they are read says so once.
    store = open_store(checked_url, "train", cache=str(tmp_path / "other"))
    assert [store.read(k) for k in range(index)] == [local.read(k) for k in range(index)]
    assert len([message for message in caplog.messages if name in message]) == 1
    # Also for a store that leaves the damaged sample out, the copy is not kept, but that is no error.
    others = store.subset(np.delete(np.arange(len(store)), index))
    others.prefetch()
    assert shard not in cached(tmp_path / "cache")
    assert others.read(index - 1) == local.read(index - 1)


def test_a_copy_that_was_damaged_on_the_way_is_made_again(
    checked_url: str, cifar_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(url: str, path: str, size: int) -> None:
        copy_file(url, path, size)
        if url not in seen:
            flip_bit(f"local://{path}", 700)
        seen.append(url)

    seen: list[str] = []
    monkeypatch.setattr("pipelines.stores.node_cache.copy_file", damaging)
    store = open_store(checked_url, "train", cache=str(tmp_path / "cache"))
    store.prefetch()
    assert sorted(seen) == sorted(2 * [f"{checked_url}/{tar.name}" for tar in cifar_shards.glob("train-*.tar")])
    assert contents(store) == contents(open_store(str(cifar_shards), "train"))


def test_without_checksums_shards_are_copied_as_they_are(cifar_shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checked"
    shutil.copytree(cifar_shards, folder)
    for file in folder.glob("*.npz"):
        file.write_bytes(replace(ShardIndex.from_bytes(file.read_bytes(), "index"), checksum=None).to_bytes())
    index, _ = damage(f"local://{folder}", tmp_path / "cache")
    store = open_store(f"local://{folder}", "train", cache=str(tmp_path / "cache"))
    store.prefetch()
    assert store.to_fetch() == {}
    assert store.read(index) != open_store(str(cifar_shards), "train").read(index)


def test_a_pickled_store_is_small_and_checks_all_records(cifar_shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checked"
    shutil.copytree(cifar_shards, folder)
    store = open_store(f"local://{folder}", "train", cache=str(tmp_path / "cache"))
    few = store.subset(np.arange(2))
    assert len(pickle.dumps(few)) < len(pickle.dumps(store)) / 2
    index, name = damage(f"local://{folder}", tmp_path / "cache")
    again = pickle.loads(pickle.dumps(store.subset(np.arange(index + 1))))
    with pytest.raises(OSError, match=name):
        again.prefetch()
    again = pickle.loads(pickle.dumps(few))
    again.prefetch()
    assert name.partition(":")[0] not in cached(tmp_path / "cache")
    # If the index was replaced meanwhile, the checksums are of other shards.
    (folder / "train.index.npz").write_bytes((cifar_shards / "val.index.npz").read_bytes())
    again = pickle.loads(pickle.dumps(few))
    with pytest.raises(OSError, match=r"train.index.npz was replaced while it was in use: start again$"):
        again.prefetch()
