"""The paper's published errors, Tables 3 to 7, and the scales it tests at (sections 3.2 and 4): data only.

Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv:1409.1556 v6. Errors are
in percent, on the 50,000 images of the ILSVRC-2012 validation set, except where a name says "test".
"""

from __future__ import annotations

from typing import Literal, NamedTuple

View = Literal["dense", "crops", "both"]
"""The views of an image: whole (dense), 50 crops at each scale, or the mean of both posteriors."""

AnyView = View | Literal["center"]
"""The paper's views, and the central crop, as in public training scripts."""

VIEWS: tuple[View, ...] = ("dense", "crops", "both")

VALIDATION_IMAGES = 50_000
NUM_CLASSES = 1000
IMAGE_SIZE = 224


class Errors(NamedTuple):
    """Errors in percent."""

    top1: float
    top5: float


class Net(NamedTuple):
    """One of the paper's trained nets."""

    arch: str
    train_scale: tuple[int, int]  # the range that S is drawn from; twice the same number for a fixed S


class Fusion(NamedTuple):
    """A row of Table 6: the mean of the posteriors of several nets, each at its scales of Table 4."""

    name: str
    nets: tuple[Net, ...]
    view: View
    errors: Errors
    test_top5: float | None


class Other(NamedTuple):
    """A row of Table 7 about another method: top-5 error, on the test set where the paper gives that."""

    method: str
    nets: str
    top5: float


S256, S384, JITTERED = (256, 256), (384, 384), (256, 512)

TABLE_3: dict[Net, Errors] = {
    Net("A", S256): Errors(29.6, 10.4),
    Net("A-LRN", S256): Errors(29.7, 10.5),
    Net("B", S256): Errors(28.7, 9.9),
    Net("C", S256): Errors(28.1, 9.4),
    Net("C", S384): Errors(28.1, 9.3),
    Net("C", JITTERED): Errors(27.3, 8.8),
    Net("D", S256): Errors(27.0, 8.8),
    Net("D", S384): Errors(26.8, 8.7),
    Net("D", JITTERED): Errors(25.6, 8.1),
    Net("E", S256): Errors(27.3, 9.0),
    Net("E", S384): Errors(26.9, 8.7),
    Net("E", JITTERED): Errors(25.5, 8.0),
}
"""One test scale, dense."""

TABLE_4: dict[Net, Errors] = {
    Net("B", S256): Errors(28.2, 9.6),
    Net("C", S256): Errors(27.7, 9.2),
    Net("C", S384): Errors(27.8, 9.2),
    Net("C", JITTERED): Errors(26.3, 8.2),
    Net("D", S256): Errors(26.6, 8.6),
    Net("D", S384): Errors(26.5, 8.6),
    Net("D", JITTERED): Errors(24.8, 7.5),
    Net("E", S256): Errors(26.9, 8.7),
    Net("E", S384): Errors(26.7, 8.6),
    Net("E", JITTERED): Errors(24.8, 7.5),
}
"""Several test scales, dense."""

TABLE_5: dict[Net, dict[View, Errors]] = {
    Net("D", JITTERED): {"dense": Errors(24.8, 7.5), "crops": Errors(24.6, 7.5), "both": Errors(24.4, 7.2)},
    Net("E", JITTERED): {"dense": Errors(24.8, 7.5), "crops": Errors(24.6, 7.4), "both": Errors(24.4, 7.1)},
}
"""Dense, multi-crop, and both, at several test scales."""

SUBMISSION = (
    Net("D", S256), Net("D", S384), Net("D", JITTERED), Net("C", S256), Net("C", S384), Net("E", S256), Net("E", S384),
)  # fmt: skip
"""The seven nets of the ILSVRC-2014 submission."""

D_AND_E = (Net("D", JITTERED), Net("E", JITTERED))
"""The two best nets, combined after the submission."""

TABLE_6: tuple[Fusion, ...] = (
    Fusion("submission", SUBMISSION, "dense", Errors(24.7, 7.5), 7.3),
    Fusion("D_E_256-512", D_AND_E, "dense", Errors(24.0, 7.1), 7.0),
    Fusion("D_E_256-512", D_AND_E, "crops", Errors(23.9, 7.2), None),
    Fusion("D_E_256-512", D_AND_E, "both", Errors(23.7, 6.8), 6.8),
)
"""Combinations of several nets."""

TABLE_7_OTHERS: tuple[Other, ...] = (
    Other("GoogLeNet", "7 nets", 6.7),
    Other("GoogLeNet", "1 net", 7.9),
    Other("MSRA", "11 nets", 8.1),
    Other("MSRA", "1 net", 9.1),
    Other("Clarifai", "several nets", 11.7),
    Other("Clarifai", "1 net", 12.5),
    Other("OverFeat", "7 nets", 13.6),
    Other("OverFeat", "1 net", 14.2),
    Other("Zeiler & Fergus", "6 nets", 14.8),
    Other("Zeiler & Fergus", "1 net", 16.1),
    Other("Krizhevsky et al.", "5 nets", 16.4),
    Other("Krizhevsky et al.", "1 net", 18.2),
)
"""The methods that the paper compares itself with."""


def single_scale(train_scale: tuple[int, int]) -> int:
    """Q of Table 3: S, or the middle of [S_min, S_max] (384 for [256, 512]). Pixels of the smallest side."""
    return sum(train_scale) // 2


def several_scales(train_scale: tuple[int, int], image_size: int) -> tuple[int, ...]:
    """The Qs of Tables 4 to 6, ascending: {S - 32, S, S + 32}, or {S_min, middle, S_max} for a jittered net.

    The 32 are those of a 224-pixel net; others take as large a part of their input. A scale below the net's input becomes
    that input's size, so there may be fewer than three.
    """
    low, high = train_scale
    if low == high:
        step = max(1, round(32 * image_size / IMAGE_SIZE))
        low, high = low - step, high + step
    return tuple(sorted({max(scale, image_size) for scale in (low, single_scale(train_scale), high)}))
