"""What the best of a report gets wrong: the hardest classes, and the most confused pairs of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vgg_dist.paper import Errors
from vgg_dist.reporting.paper_tables.means import Measurement

LISTED = 20  # classes and pairs
EXAMPLES = 4  # images for each


class Example(NamedTuple):
    """An image whose first guess is wrong: its row, and the class it was taken for."""

    image: int
    predicted: int


@dataclass(frozen=True)
class HardClass:
    """A class, and how many of its images the first guess, and all five, got wrong."""

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
    """Of one mean of posteriors, named by `what`: the worst first, at most LISTED each."""

    what: str
    errors: Errors
    hardest: tuple[HardClass, ...]
    pairs: tuple[ConfusedPair, ...]


def find_mistakes(what: str, measurement: Measurement, labels: NDArray[np.int64], num_classes: int) -> Mistakes:
    """The hardest classes by top-1 error, then top-5 error, and the pairs by count; equals in the order of classes.

    Examples are the first images, in row order. Classes without an error are not listed.
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
        for c in map(int, order[:LISTED])
        if top1_wrong[c]
    )
    codes = labels[wrong] * num_classes + first[wrong]
    pairs, counts = np.unique(codes, return_counts=True)
    confused = []
    for worst in np.argsort(-counts, kind="stable")[:LISTED]:
        label, predicted = divmod(int(pairs[worst]), num_classes)
        rows = wrong[codes == pairs[worst]]
        confused.append(ConfusedPair(label, predicted, int(counts[worst]), int(images[label]), examples(rows)))
    return Mistakes(what, measurement.errors, hardest, tuple(confused))
