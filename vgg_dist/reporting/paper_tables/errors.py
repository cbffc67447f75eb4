"""Means of posteriors, and the top-k guesses and errors that follow from them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from vgg_dist.paper import Errors

TOP = 5
_BLOCK = 4096  # images ranked at once


def mean_posteriors(parts: Iterable[NDArray[np.floating]]) -> NDArray[np.float32]:
    """The mean of arrays of one shape, (N, num_classes) each; one part is held at a time, beside the sum.

    Summed in float32: that rounds by at most 6e-8 of the value for each part. ValueError for no part or differing shapes.
    """
    total: NDArray[np.float32] | None = None
    count = 0
    for part in parts:
        if total is None:
            total = np.array(part, dtype=np.float32)
        elif part.shape != total.shape:
            raise ValueError(f"posteriors of different shapes cannot be averaged: {total.shape} and {part.shape}")
        else:
            total += part
        count += 1
        del part  # or it would still be held while the next one is read
    if total is None:
        raise ValueError("no posteriors to average")
    total /= np.float32(count)
    return total


def top_guesses(posteriors: NDArray[np.floating], k: int = TOP) -> NDArray[np.int32]:
    """The k most probable classes (all of them if there are fewer), most probable first: (N, num_classes) to (N, k).

    Of equally probable classes the one of lower index comes first. ValueError for posteriors that are not finite.
    """
    num_images, num_classes = posteriors.shape
    guesses = np.empty((num_images, min(k, num_classes)), np.int32)
    for start in range(0, num_images, _BLOCK):
        block = np.array(posteriors[start : start + _BLOCK])
        if not np.isfinite(block).all():
            raise ValueError("posteriors that are not finite cannot be ranked")
        rows = np.arange(len(block))
        for rank in range(guesses.shape[1]):
            best = block.argmax(axis=1)  # the first of equals
            guesses[start : start + len(block), rank] = best
            block[rows, best] = -np.inf
    return guesses


def guess_errors(guesses: NDArray[np.int32], labels: NDArray[np.int64]) -> Errors:
    """Top-1 and top-5 error in percent, of guesses (N, k) and labels (N,). ValueError for other shapes, or no image."""
    if guesses.shape[0] != len(labels) or len(labels) == 0:
        raise ValueError(
            f"guesses for {guesses.shape[0]} images, and {len(labels)} labels: errors need as many, at least one"
        )
    hits = guesses == labels[:, None]
    return Errors(*(100 * (len(labels) - int(hits[:, :k].sum())) / len(labels) for k in (1, TOP)))


def top_k_errors(posteriors: NDArray[np.floating], labels: NDArray[np.int64]) -> Errors:
    """(top-1, top-5) error in percent, of posteriors (N, num_classes) and labels (N,).

    Ties as in `top_guesses`: a label that is as probable as a class of lower index ranks behind it. With five classes or
    fewer every class is among the guesses, so the top-5 error is always 0 (see `tops`).
    """
    return guess_errors(top_guesses(posteriors), labels)


def tops(num_classes: int) -> tuple[int, ...]:
    """Which errors to report, as indices into Errors: for five classes or fewer the top-5 error is left out."""
    return (0, 1) if num_classes > TOP else (0,)
