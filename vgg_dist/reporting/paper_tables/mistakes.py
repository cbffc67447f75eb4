"""What the best of the evaluated nets (or means of nets) gets wrong: images, classes, and which classes it confuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vgg_dist.paper import Errors
from vgg_dist.reporting.paper_tables.means import Measurement

WORST = 24  # images that are shown
LISTED = 20  # pairs
FEW_CLASSES = 30  # up to so many there is a confusion matrix, and all classes with a mistake are listed
EXAMPLES = 4  # images for each class and pair


class WorstImage(NamedTuple):
    """An image (its row) of the class `label` whose first guess is `predicted`, with its posterior (0 to 1)."""

    image: int
    label: int
    predicted: int
    confidence: float


class Example(NamedTuple):
    """An image whose first guess is wrong: its row, and the class it was taken for."""

    image: int
    predicted: int


@dataclass(frozen=True)
class HardClass:
    """A class, and for how many of its images the first guess, or all five guesses, are wrong."""

    index: int
    images: int
    top1_wrong: int
    top5_wrong: int
    examples: tuple[Example, ...]

    @property
    def errors(self) -> Errors:
        """Errors over the images of this class, percent."""
        return Errors(100 * self.top1_wrong / self.images, 100 * self.top5_wrong / self.images)


@dataclass(frozen=True)
class ConfusedPair:
    """How many of the `images` of the class `label` were taken for the class `predicted`."""

    label: int
    predicted: int
    count: int
    images: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Mistakes:
    """Of one mean of posteriors, named by `what`. Every list has the worst first."""

    what: str
    errors: Errors
    images: int
    wrong: int
    """Images whose first guess is wrong."""
    worst: tuple[WorstImage, ...]
    """At most WORST, those with the highest confidence in a wrong class."""
    hardest: tuple[HardClass, ...]
    """Classes with a mistake, at most FEW_CLASSES."""
    pairs: tuple[ConfusedPair, ...]
    """At most LISTED."""
    confusion: tuple[tuple[int, ...], ...] | None
    """How many images of each class (row) had each class (column) as the first guess; None for more than FEW_CLASSES."""


def find_mistakes(what: str, measurement: Measurement, labels: NDArray[np.int64], num_classes: int) -> Mistakes:
    """Images in the order of `worst_first`; classes by top-1 error, then top-5 error; pairs by count.

    Of equals the class of lower index comes first. Examples are the first images, in row order.
    """
    guesses, first = measurement.guesses, measurement.guesses[:, 0]
    images = np.bincount(labels, minlength=num_classes)
    wrong = np.flatnonzero(first != labels)
    top1_wrong = np.bincount(labels[wrong], minlength=num_classes)
    missed = ~(guesses == labels[:, None]).any(axis=1)
    top5_wrong = np.bincount(labels[missed], minlength=num_classes)

    def examples(rows: NDArray[np.int64]) -> tuple[Example, ...]:
        return tuple(Example(int(row), int(first[row])) for row in rows[:EXAMPLES])

    counted = np.maximum(images, 1)
    order = np.lexsort((-top5_wrong / counted, -top1_wrong / counted))  # the last key is the first to count; stable
    hardest = tuple(
        HardClass(c, int(images[c]), int(top1_wrong[c]), int(top5_wrong[c]), examples(wrong[labels[wrong] == c]))
        for c in map(int, order[:FEW_CLASSES])
        if top1_wrong[c]
    )
    codes = labels[wrong] * num_classes + first[wrong]
    pairs, counts = np.unique(codes, return_counts=True)
    confused = []
    for worst in np.argsort(-counts, kind="stable")[:LISTED]:
        label, predicted = divmod(int(pairs[worst]), num_classes)
        rows = wrong[codes == pairs[worst]]
        confused.append(ConfusedPair(label, predicted, int(counts[worst]), int(images[label]), examples(rows)))
    worst = tuple(
        WorstImage(image, int(labels[image]), int(first[image]), float(measurement.confidences[image, 0]))
        for image in worst_first(measurement, labels)[: min(WORST, len(wrong))].tolist()
    )
    return Mistakes(
        what=what,
        errors=measurement.errors,
        images=len(labels),
        wrong=len(wrong),
        worst=worst,
        hardest=hardest,
        pairs=tuple(confused),
        confusion=_confusion(first, labels, num_classes) if num_classes <= FEW_CLASSES else None,
    )


def worst_first(measurement: Measurement, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """All rows (N,): those with a wrong first guess before the others, each by falling confidence; equals in row order."""
    right = measurement.guesses[:, 0] == labels
    return np.lexsort((-measurement.confidences[:, 0], right))  # stable; the last key counts first


def _confusion(first: NDArray[np.int32], labels: NDArray[np.int64], num_classes: int) -> tuple[tuple[int, ...], ...]:
    counts = np.bincount(labels * num_classes + first, minlength=num_classes**2).reshape(num_classes, num_classes)
    return tuple(tuple(row) for row in counts.tolist())
