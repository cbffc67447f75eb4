"""The axes of parallel coordinates: where on an axis each value lies, and its ticks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_TICKS = 10  # more labels would overlap


class Axis(NamedTuple):
    """The `positions` of the values, 0 (bottom) to 1 (top), and the ticks, each with its position and text."""

    positions: NDArray[np.float64]
    ticks: list[tuple[float, str]]


def setting_axis(values: Sequence[str]) -> Axis:
    """An axis of numbers where there are many different ones, otherwise a place for each different word."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    different = sorted(set(numbers))
    if len(different) > 4 and np.isfinite(different).all():
        return number_axis(numbers, log=different[0] > 0 and different[-1] / different[0] > 20)
    words = [f"{number:g}" for number in different] or sorted(set(values), key=lambda word: (len(word), word))
    texts = [f"{number:g}" for number in numbers] or values
    place = {word: (k + 0.5) / len(words) for k, word in enumerate(words)}
    shown = words[:: -(-len(words) // MOST_TICKS)] if words else []
    return Axis(np.array([place[text] for text in texts]), [(place[word], word) for word in shown])


def number_axis(numbers: Sequence[float], log: bool = False) -> Axis:
    """From the least number to the greatest, by their logarithms if `log`."""
    values = np.log10(numbers) if log else np.array(numbers, dtype=np.float64)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    width = high - low
    if width < 1e-12:
        return Axis(np.full(len(values), 0.5), [(0.5, f"{10**low if log else low:.3g}")])
    ticks = [low + width * k / 4 for k in range(5)]
    texts = [f"{10**tick if log else tick:.3g}" for tick in ticks]
    return Axis((values - low) / width, [((tick - low) / width, text) for tick, text in zip(ticks, texts, strict=True)])
