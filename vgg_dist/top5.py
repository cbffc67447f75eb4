"""Top-5 errors, and where there are none: of five classes every one is among the best five."""

from __future__ import annotations

from collections.abc import Mapping

TOP = 5


def telling(metrics: Mapping[str, float], num_classes: int) -> dict[str, float]:
    """Without the top-5 errors where there are five classes or fewer: every class is a guess there, and the error 0."""
    return {name: value for name, value in metrics.items() if num_classes > TOP or not name.endswith("top5_error")}
