"""Whole images at test scales: torchvision's pixels, batches of equal sizes, every image once, uncropped and unpadded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from pipelines.loading.preprocessing import Preprocessing
from pipelines.loading.whole_images import WholeImages, group_by_size
from pipelines.stores.file_list import FileListStore, open_image_folder

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(32, (120.0, 110.0, 100.0), (60.0, 50.0, 40.0))


def test_pixels_are_torchvisions_resize_of_the_whole_image(imagenet_samples: list[Path]) -> None:
    files = imagenet_samples[::40]
    whole = WholeImages(FileListStore([str(file) for file in files], []), PREPROCESSING, 2, CPU, 500_000)
    seen = []
    for batch in whole.batches(np.arange(len(files)), 224):
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
            seen.append(row)
            with Image.open(files[row]) as opened:
                resized = functional.resize(opened.convert("RGB"), 224)
            pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float()
            mean, std = (torch.tensor(values)[:, None, None] for values in (PREPROCESSING.mean, PREPROCESSING.std))
            torch.testing.assert_close(image, (pixels - mean) / std)
    assert sorted(seen) == list(range(len(files)))


def test_any_aspect_ratio_comes_whole(tmp_path: Path) -> None:
    for name, size in (("wide", (400, 100)), ("tall", (60, 300)), ("tiny", (3, 5))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    store = open_image_folder(str(tmp_path), ["a"])
    whole = WholeImages(store, PREPROCESSING, 1, CPU, 1)
    shapes = {store.name(int(b.rows[0])): tuple(b.images.shape) for b in whole.batches(np.arange(3), 64)}
    assert shapes == {"wide.png": (1, 3, 64, 256), "tall.png": (1, 3, 320, 64), "tiny.png": (1, 3, 106, 64)}


def test_groups_hold_one_size_each_within_the_bound_and_every_row_once() -> None:
    shapes = np.random.default_rng(0).integers(1, 4, (200, 2)) * 50
    groups = list(group_by_size(shapes, 40_000))
    assert sorted(np.concatenate(groups).tolist()) == list(range(200))
    for rows in groups:
        assert len(np.unique(shapes[rows], axis=0)) == 1
        assert len(rows) == 1 or len(rows) * shapes[rows[0]].prod() <= 40_000
    # As few batches as possible: a size is split only at the limit on pixels.
    distinct, counts = np.unique(shapes, axis=0, return_counts=True)
    assert len(groups) == sum(
        -(-count // max(1, 40_000 // size.prod())) for size, count in zip(distinct, counts, strict=True)
    )


def test_grey_nets_get_one_channel(tmp_path: Path) -> None:
    Image.effect_noise((40, 30), 60).convert("RGB").save(tmp_path / "noise.png")
    whole = WholeImages(open_image_folder(str(tmp_path), ["a"]), Preprocessing(32, (0.0,), (1.0,)), 1, CPU, 1)
    (batch,) = whole.batches(np.arange(1), 32)
    with Image.open(tmp_path / "noise.png") as opened:
        expected = np.array(opened.resize((42, 32), Image.Resampling.BILINEAR)) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(batch.images[0, 0].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_undecodable_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    for name in ("good.jpg", "bad.jpg"):
        Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / name)
    whole_file = (tmp_path / "bad.jpg").read_bytes()
    (tmp_path / "bad.jpg").write_bytes(whole_file[: len(whole_file) // 2] if content is None else content)
    whole = WholeImages(open_image_folder(str(tmp_path), ["a"]), PREPROCESSING, 2, CPU, 10_000)
    with pytest.raises(OSError, match=r"^bad\.jpg: cannot be decoded: .+"):
        list(whole.batches(np.arange(2), 64))


def test_flat_folders_and_their_mistakes(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.png", ".hidden.jpg", "notes.txt"):
        Image.new("RGB", (40, 40)).save(tmp_path / name, "PNG")
    store = open_image_folder(str(tmp_path), ["cat", "dog"], ["dog", "cat"])
    assert [store.name(index) for index in range(len(store))] == ["a.png", "b.jpg"]
    assert store.labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match="--labels: 3 labels for the 2 images"):
        open_image_folder(str(tmp_path), ["cat", "dog"], ["dog", "cat", "cat"])
    with pytest.raises(ValueError, match="--labels: classes unknown to the net: owl"):
        open_image_folder(str(tmp_path), ["cat", "dog"], ["dog", "owl"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has neither train and val nor images"):
        open_image_folder(str(tmp_path / "empty"), ["cat"])
