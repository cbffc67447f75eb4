"""Loading from shards with restart markers: the batches are those from whole images, and damage costs at most an image."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.jpegs import needs_jpegtran
from support.loaders import CPU, MEAN

from pipelines.loading.dali_graph import Decoding
from pipelines.loading.dali_loader import DaliLoader
from pipelines.loading.epoch_plan import Augmentation, EpochPlan, Samples
from pipelines.loading.loader import IGNORED_LABEL
from pipelines.loading.preprocessing import Preprocessing
from pipelines.remote import read_range
from pipelines.stores.open import open_store
from pipelines.stores.restart_table import CutOut
from pipelines.stores.sample_store import SampleStore
from pipelines.stores.shard_index import ShardIndex
from pipelines.stores.shards import ShardStore

pytestmark = needs_jpegtran

GRAPHS = {
    "windows": None,
    "crops": Decoding("cpu", cut_outs=True),
    "windows on the GPU's graph": Decoding("cpu", regions=True, cut_outs=True),
}


@pytest.mark.parametrize("pad", [0, 16])
@pytest.mark.parametrize("graph", GRAPHS)
def test_batches_from_cut_outs_are_those_from_whole_images(
    kinds_tree: Path, kinds_shards: Path, graph: str, pad: int
) -> None:
    """For every kind of image, size and place of the crop, flips included."""
    store, written = open_store(str(kinds_tree), "train"), open_store(str(kinds_shards), "train")
    names = [Path(store.name(i)).stem for i in range(len(store))]
    order = np.array([names.index(Path(written.name(i)).stem) for i in range(len(written))])
    store = store.subset(order)
    preprocessing = Preprocessing(64, MEAN, (1.0, 1.0, 1.0), pad=pad)
    for epoch, scale in enumerate([(64, 64), (80, 160), (64, 400)]):
        samples = EpochPlan(len(store), 0, epoch, Augmentation(scale)).samples
        batches = []
        for each in (store, written):
            loader = DaliLoader(each, preprocessing, 2, CPU, len(store), GRAPHS[graph])
            (batch,) = loader.batches([samples])
            assert not loader.bad_images
            batches.append(batch.images.numpy().copy())
        # In large images DALI rounds the exact edges of a crop differently, depending on where they are counted from.
        assert np.abs(batches[0] - batches[1]).max() <= (1.0 if graph == "crops" else 0.0)
        assert (batches[0] == batches[1]).mean() > 0.999


def spoilt(shards: Path, folder: Path) -> tuple[ShardStore, Path]:
    """A copy of the shards that a test may spoil: its store and its folder."""
    shutil.copytree(shards, folder, dirs_exist_ok=True)
    store = open_store(str(folder), "train")
    assert isinstance(store, ShardStore)
    return store, folder


def loaded(store: SampleStore, scale: int = 128) -> tuple[np.ndarray, list[int], dict[int, str]]:
    """Images, labels and bad images of one batch with the whole store."""
    samples: Samples = EpochPlan(len(store), 0, 0, Augmentation((scale, scale))).samples
    loader = DaliLoader(store, Preprocessing(64, MEAN, (1.0, 1.0, 1.0)), 2, CPU, len(store))
    (batch,) = loader.batches([samples])
    order = np.argsort(samples.index)
    return batch.images.numpy()[order], batch.labels[order].tolist(), loader.bad_images


def write(store: ShardStore, folder: Path, index: int, position: int, data: bytes) -> None:
    with open(folder / store.index.shard_names[store.index.shard[index]], "r+b") as tar:
        os.pwrite(tar.fileno(), data, int(store.index.offset[index]) + position)


def test_a_damaged_table_costs_speed_and_nothing_else(kinds_shards: Path, tmp_path: Path) -> None:
    """The whole image is read and decoded then."""
    expected = loaded(open_store(str(kinds_shards), "train"))
    store, folder = spoilt(kinds_shards, tmp_path)
    for index in np.flatnonzero(store.can_cut_out(np.arange(len(store)))).tolist():
        end = store.read(index).rindex(b"\xff\xda", 0, int(store.index.header_end[index]))  # type: ignore[index]
        write(store, folder, index, end - 16, bytes(16))
    found = loaded(store)
    assert np.array_equal(found[0], expected[0])
    assert found[1:] == expected[1:]


def test_an_index_of_other_shards_never_gives_a_part_of_another_image(kinds_shards: Path, tmp_path: Path) -> None:
    """Headers that begin and end elsewhere, as in an index of other shards, are noticed; whole images are read then."""
    expected = loaded(open_store(str(kinds_shards), "train"))
    store, _ = spoilt(kinds_shards, tmp_path)
    index = store.index
    assert index.header_start is not None
    assert index.header_end is not None
    for shift in (1, -1, 40, 10**6):
        ends = np.where(index.header_end > 0, index.header_end.astype(np.int64) + shift, 0).clip(0)
        wrong = ShardIndex(**vars(index) | {"header_end": ends.astype(np.uint32)})
        found = loaded(ShardStore(wrong, store._shards))
        assert np.array_equal(found[0], expected[0])
        assert found[1:] == expected[1:]


def test_a_shard_that_is_cut_short_under_the_loader_costs_its_images(kinds_shards: Path, tmp_path: Path) -> None:
    store, folder = spoilt(kinds_shards, tmp_path)
    shard = int(store.index.shard[-1])
    lost = np.flatnonzero(store.index.shard == shard)
    os.truncate(folder / store.index.shard_names[shard], int(store.index.offset[lost[0]]) + 300)
    _, labels, bad = loaded(store)
    assert set(bad) == set(lost.tolist())
    assert all("the shard is truncated" in reason and store.index.shard_names[shard] in reason for reason in bad.values())
    assert [label == IGNORED_LABEL for label in labels] == [index in bad for index in range(len(store))]


def test_only_windows_are_read(kinds_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the images with a table; of these, no pixels far from the crop are decoded."""
    store = open_store(str(kinds_shards), "train")
    read, cut = [], []
    whole, cutting = ShardStore.read, ShardStore.cut_out

    def reading(self: ShardStore, index: int) -> bytes:
        read.append(index)
        return whole(self, index)

    def cutting_out(self: ShardStore, index: int, start: tuple[int, int], end: tuple[int, int]) -> CutOut:
        cut.append((index, cutting(self, index, start, end)))
        return cut[-1][1]

    monkeypatch.setattr(ShardStore, "read", reading)
    monkeypatch.setattr(ShardStore, "cut_out", cutting_out)
    loaded(store, scale=256)
    can_cut = store.can_cut_out(np.arange(len(store)))
    assert sorted(read) == np.flatnonzero(~can_cut).tolist()
    assert sorted(index for index, _ in cut) == np.flatnonzero(can_cut).tolist()
    pixels = sum(np.prod(each.shape) for _, each in cut)
    assert pixels < 0.35 * sum(np.prod(store.size(index)) for index, _ in cut)


def test_images_with_too_many_pixels_are_refused_though_they_could_be_cut(kinds_shards: Path) -> None:
    store = open_store(str(kinds_shards), "train")
    samples = EpochPlan(len(store), 0, 0, Augmentation((128, 128))).samples
    loader = DaliLoader(store, Preprocessing(64, MEAN, (1.0, 1.0, 1.0), max_pixels=10**6), 2, CPU, len(store))
    list(loader.batches([samples]))
    assert ["large" in reason for reason in loader.bad_images.values()] == [True]
    assert "more than --max-pixels" in next(iter(loader.bad_images.values()))


@pytest.mark.parametrize("limit", ["0", "1GB"])
def test_a_cut_out_behind_a_url_is_one_request_or_read_from_the_cache(
    limit: str, kinds_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[str] = []

    def counted(url: str, start: int, end: int) -> bytes:
        requests.append(url)
        return read_range(url, start, end)

    monkeypatch.setattr("pipelines.stores.cached_shards.read_range", counted)
    monkeypatch.setenv("VGG_DIST_CACHE_SIZE", limit)
    local = open_store(str(kinds_shards), "train")
    store = open_store(f"local://{kinds_shards}", "train", cache=str(tmp_path))
    can_cut = np.flatnonzero(store.can_cut_out(np.arange(len(store)))).tolist()
    assert can_cut
    for index in can_cut:
        size = store.size(index)
        assert size is not None
        found, expected = (each.cut_out(index, (0, 0), (size[0] // 2, size[1] // 2)) for each in (store, local))
        assert np.array_equal(found.encoded, expected.encoded)
        assert (found.origin, found.shape) == (expected.origin, expected.shape)
    assert len(requests) == (len(can_cut) if limit == "0" else 0)
