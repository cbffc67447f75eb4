"""The built-in data of drawn shapes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.stores.open import open_splits, open_store
from pipelines.stores.synthetic import CLASS_NAMES, SyntheticSpec, SyntheticStore


def test_synthetic_images_are_a_function_of_seed_split_and_index() -> None:
    first, again = (SyntheticStore(SyntheticSpec(train=40, val=40), "train") for _ in range(2))
    backwards = [again.read(i) for i in reversed(range(40))][::-1]
    assert [first.read(i) for i in range(40)] == backwards
    other_split = SyntheticStore(SyntheticSpec(train=40, val=40), "val")
    other_seed = SyntheticStore(SyntheticSpec(train=40, seed=1), "train")
    images = {store.read(i) for store in (first, other_split, other_seed) for i in range(40)}
    assert len(images) == 120


def test_synthetic_splits_and_sizes() -> None:
    train, val = open_splits("synthetic:train=120,val=30,size=48,seed=7")
    assert train.class_names == val.class_names == CLASS_NAMES == sorted(CLASS_NAMES)
    assert (len(train), len(val)) == (120, 30)
    assert np.bincount(train.labels).tolist() == [12] * 10
    sizes = [Image.open(io.BytesIO(train.read(i))).size[::-1] for i in range(120)]
    assert sizes == [train.size(i) for i in range(120)]
    assert {min(size) for size in sizes} == {48}
    assert max(max(size) for size in sizes) <= 64
    assert len(set(sizes)) > 10
    default = open_splits("synthetic")
    assert (len(default[0]), len(default[1])) == (4000, 500)


def test_synthetic_subset() -> None:
    store = open_store("synthetic:train=50", "train")
    part = store.subset(np.array([7, 3, 41]))
    assert part.labels.tolist() == store.labels[[7, 3, 41]].tolist()
    assert [part.read(i) for i in range(3)] == [store.read(i) for i in (7, 3, 41)]
    assert part.name(2) == store.name(41)


@pytest.mark.parametrize("location", ["synthetic:many=3", "synthetic:train=x", "synthetic:train=-5", "synthetic:5"])
def test_bad_synthetic_setting_is_refused_with_what_is_allowed(location: str) -> None:
    with pytest.raises(ValueError, match=r"train=NUMBER, val=NUMBER, size=NUMBER, seed=NUMBER"):
        open_store(location, "train")
    with pytest.raises(ValueError, match="size=8: must be at least 16"):
        open_store("synthetic:size=8", "train")


@pytest.mark.slow
def test_synthetic_classes_cannot_be_told_by_colour() -> None:
    """The nearest training image by mean colour should do little better than chance, 10 %."""
    features, labels = [], []
    for split, count in (("train", 500), ("val", 200)):
        store = SyntheticStore(SyntheticSpec(train=500, val=200), split)
        pixels = (np.asarray(Image.open(io.BytesIO(store.read(i)))) for i in range(count))
        features.append(np.array([image.mean((0, 1)) for image in pixels]))
        labels.append(store.labels)
    distance = ((features[1][:, None] - features[0]) ** 2).sum(-1)
    accuracy = (labels[0][distance.argmin(1)] == labels[1]).mean()
    assert accuracy < 0.25


@pytest.mark.slow
def test_small_net_learns_the_synthetic_set_at_32_px() -> None:
    import torch
    from torch import nn

    def load(split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        store = SyntheticStore(SyntheticSpec(train=1500, val=200), split)
        images = [Image.open(io.BytesIO(store.read(i))).resize((32, 32)) for i in range(count)]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
        return pixels.permute(0, 3, 1, 2) / 128 - 1, torch.from_numpy(store.labels)

    torch.manual_seed(0)
    blocks = [
        layer
        for width_in, width in ((3, 8), (8, 16), (16, 32))
        for layer in (nn.Conv2d(width_in, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2))
    ]
    net = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(512, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    images, labels = load("train", 1500)
    for _ in range(4):
        for batch in torch.randperm(1500).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
    images, labels = load("val", 200)
    accuracy = (net.eval()(images).argmax(1) == labels).float().mean().item()
    assert accuracy > 0.8
