"""The names of metrics, and which errors of a validation say something: by which one net is better than another."""

from __future__ import annotations

from collections.abc import Mapping

TOP = 5


def telling(metrics: Mapping[str, float], num_classes: int) -> dict[str, float]:
    """Without the top-5 errors where there are five classes or fewer: every class is a guess there, and the error 0."""
    return {name: value for name, value in metrics.items() if num_classes > TOP or not name.endswith("top5_error")}


def validation_errors(metrics: Mapping[str, float]) -> tuple[float, ...] | None:
    """By which one validation is better than another (smaller): top-5 error, then top-1; None where there was none.

    For five classes or fewer, where no top-5 error is told, the top-1 error alone.
    """
    names = [name for name in ("val/top5_error", "val/top1_error") if name in metrics]
    return tuple(metrics[name] for name in names) or None


def describe_errors(metrics: Mapping[str, float]) -> str:
    """The errors of a validation, such as "top-1 error 26.70 %, top-5 error 8.10 %"."""
    names = {"val/top1_error": "top-1", "val/top5_error": "top-5"}
    return ", ".join(f"{words} error {metrics[name]:.2f} %" for name, words in names.items() if name in metrics)
