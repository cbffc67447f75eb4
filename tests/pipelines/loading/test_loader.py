"""The loaders compared with torchvision's transforms on the same plan, on unusual image files, and on corrupt files.

The GPU's DALI graph is tested here, too, with its decoder on the CPU and everything after it as on a GPU. On a machine with
a GPU, all of it runs there, with the decoder chosen for that GPU.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.loaders import (
    CPU,
    CUDA,
    DALI,
    LOADERS,
    MEAN,
    REFERENCE,
    Images,
    by_torchvision,
    corrupted,
    encode,
    load,
    make,
    photo,
)

from pipelines.loading.dali_loader import DaliLoader
from pipelines.loading.epoch_plan import DUMMY_SAMPLE, Augmentation, EpochPlan, Samples, evaluation_samples
from pipelines.loading.loader import IGNORED_LABEL
from pipelines.loading.open import open_loader
from pipelines.loading.preprocessing import Preprocessing
from pipelines.stores.open import open_store

LOADERS_AND_GPU = [*((kind, CPU) for kind in LOADERS), pytest.param(DALI, CUDA, marks=pytest.mark.gpu)]


@pytest.mark.parametrize(("kind", "device"), LOADERS_AND_GPU)
@pytest.mark.slow
def test_real_photographs_as_torchvision_resizes_and_crops_them(
    kind: str, device: torch.device, imagenet_samples: list[Path]
) -> None:
    store = Images([path.read_bytes() for path in imagenet_samples[::8]])
    preprocessing = Preprocessing(224, MEAN, (1.0, 1.0, 1.0))
    samples = EpochPlan(len(store), 0, 0, Augmentation((256, 512))).samples
    batch = load(make(kind, store, preprocessing, device), samples)
    error = (batch.images - by_torchvision(store, samples, preprocessing)).abs().mean(dim=(1, 2, 3))
    # On the 0-255 scale. nvJPEG has another inverse DCT, so a GPU differs slightly more.
    mean, worst = (1e-4, 1e-4) if kind == REFERENCE else (0.25, 1.0) if device == CPU else (0.5, 2.0)
    assert error.mean() < mean
    assert error.max() < worst
    assert batch.labels.tolist() == samples.index.tolist()


@pytest.mark.parametrize("kind", LOADERS)
def test_central_crops_for_validation(kind: str, imagenet_samples: list[Path]) -> None:
    store = Images([path.read_bytes() for path in imagenet_samples[::40]])
    preprocessing = Preprocessing(224, MEAN, (58.4, 57.1, 57.4), center=True)
    samples = evaluation_samples(np.arange(len(store)), 256)
    expected = by_torchvision(store, samples, preprocessing)
    assert (load(make(kind, store, preprocessing), samples).images - expected).abs().mean() * 57 < 0.25


@pytest.mark.parametrize("kind", LOADERS)
def test_padding_as_for_cifar(kind: str) -> None:
    rng = np.random.default_rng(0)
    store = Images([encode(photo(32, 32, seed)) for seed in range(64)])
    preprocessing = Preprocessing(32, MEAN, (1.0, 1.0, 1.0), pad=4)
    samples = EpochPlan(64, int(rng.integers(100)), 0, Augmentation((32, 32))).samples
    batch = load(make(kind, store, preprocessing), samples)
    torch.testing.assert_close(batch.images, by_torchvision(store, samples, preprocessing), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", LOADERS)
def test_what_image_collections_really_hold_comes_out_as_pil_decodes_it(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees; torchvision ignores it
    picture = photo()
    images = {
        "plain": encode(picture, quality=90),
        "progressive": encode(picture, progressive=True),
        "no chroma subsampling": encode(picture, subsampling=0),
        "grey": encode(picture.convert("L")),
        "cmyk": encode(picture.convert("CMYK")),
        "exif": encode(picture, exif=exif),
        "png named .JPEG": encode(picture, "PNG"),
        "palette png": encode(picture.convert("P"), "PNG"),
        "alpha png": encode(ImageOps.expand(picture.convert("RGBA"), 5), "PNG"),
        "grey png": encode(picture.convert("L"), "PNG"),
        "bmp": encode(picture, "BMP"),
        "webp": encode(picture, "WEBP", lossless=True),
        "panorama": encode(photo(256, 2000)),
        "tiny": encode(photo(20, 30)),
    }
    store = Images(list(images.values()))
    preprocessing = Preprocessing(224, MEAN, (1.0, 1.0, 1.0))
    samples = EpochPlan(len(store), 1, 0, Augmentation((256, 300))).samples
    error = (load(make(kind, store, preprocessing), samples).images - by_torchvision(store, samples, preprocessing)).abs()
    names = list(images)
    for index, difference in zip(samples.index.tolist(), error.mean(dim=(1, 2, 3)).tolist(), strict=True):
        assert difference < 0.6, names[index]


@pytest.mark.parametrize("kind", LOADERS)
def test_grey_nets_get_the_luma(kind: str) -> None:
    pictures = [photo(32, 32, seed) for seed in range(4)]
    store = Images([encode(picture, "PNG") for picture in pictures])
    preprocessing = Preprocessing(32, (33.3,), (78.6,), center=True)
    batch = load(make(kind, store, preprocessing), evaluation_samples(np.arange(4), 32))
    expected = np.stack([np.asarray(picture.convert("L"), np.float32) for picture in pictures])[:, None]
    np.testing.assert_allclose(batch.images.numpy() * 78.6 + 33.3, expected, atol=1.0)


@pytest.mark.parametrize(("kind", "device"), LOADERS_AND_GPU)
def test_images_that_cannot_be_decoded_are_named_and_left_out(
    kind: str, device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    store, bad = corrupted()
    preprocessing = Preprocessing(224, MEAN, (1.0, 1.0, 1.0))
    samples = EpochPlan(len(store), 0, 0, Augmentation((256, 256))).samples
    loader = make(kind, store, preprocessing, device)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # in the second epoch, the loader knows the bad images
            batch = load(loader, samples, size=3)
            assert {int(index) for index in samples.index[(batch.labels == IGNORED_LABEL).numpy()]} == bad
            assert (batch.images[batch.labels == IGNORED_LABEL] == 0).all()
    assert set(loader.bad_images) == bad
    assert len(caplog.records) == len(bad)
    for index in bad:
        assert f"image-{index}:" in caplog.text
    good = np.array([index not in bad for index in samples.index])
    kept = Samples(samples.index[good], samples.scale[good], samples.position[good], samples.flip[good], samples.shift[good])
    error = batch.images[torch.from_numpy(good)] - by_torchvision(store, kept, preprocessing)
    assert error.abs().mean() < 0.5


@pytest.mark.parametrize("kind", LOADERS)
def test_a_batch_of_nothing_but_bad_images_and_fillers(kind: str) -> None:
    store, bad = corrupted()
    loader = make(kind, store, Preprocessing(64, MEAN, (1.0, 1.0, 1.0)))
    whole = evaluation_samples(np.array(sorted(bad)), 64)
    last = evaluation_samples(np.array([0]), 64)
    labels = [batch.labels.tolist() for batch in loader.batches([DUMMY_SAMPLE, whole, last, DUMMY_SAMPLE])]
    assert labels == [[IGNORED_LABEL], [IGNORED_LABEL] * len(bad), [0], [IGNORED_LABEL]]
    assert set(loader.bad_images) == bad


@pytest.mark.parametrize("kind", LOADERS)
def test_a_walk_given_up_half_way_does_not_disturb_the_next(kind: str) -> None:
    store = Images([encode(photo(64, 64, seed)) for seed in range(40)])
    loader = make(kind, store, Preprocessing(32, MEAN, (1.0, 1.0, 1.0)))
    samples = EpochPlan(40, 0, 0, Augmentation((40, 64))).samples
    whole = load(loader, samples, size=4)
    walk = loader.batches([samples[k : k + 4] for k in range(0, 40, 4)])
    next(walk)
    walk.close()
    assert torch.equal(load(loader, samples, size=4).images, whole.images)


def test_open_loader_takes_dali_here() -> None:
    store = open_store("synthetic:train=10,val=8", "train")
    loader = open_loader(store, Preprocessing(32, MEAN, (1.0,) * 3), num_threads=1, max_batch=4, device=CPU)
    assert isinstance(loader, DaliLoader)
    assert load(loader, evaluation_samples(np.arange(8), 36), size=4).images.shape == (8, 3, 32, 32)
