"""The errors of a validation: by which one net is better than another, and how they are told."""

from __future__ import annotations

from collections.abc import Mapping


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
