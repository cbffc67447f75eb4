"""What settings are called: on the command line, in files, and in those of earlier versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {
    "trials_at_once": "max_concurrent_trials",
    "upto": "through",
    "plan": "dry_run",
    "compress_gradients": "bf16_gradients",
}
"""Fields of earlier versions, and what they are called now."""


def flag(field: str) -> str:
    """The command line's name of a field."""
    return "--" + field.replace("_", "-")


def with_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them, which an earlier version may have written, by the names that they have now."""
    return {RENAMED.get(field, field): value for field, value in settings.items()}
