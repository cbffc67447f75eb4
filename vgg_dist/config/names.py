"""What settings are called: on the command line, in files, and in those of earlier versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

RENAMED = {
    "trials_at_once": "max_concurrent_trials",
    "upto": "through",
    "plan": "dry_run",
    "compress_gradients": "bf16_gradients",
}
"""Fields of earlier versions, and what they are called now."""

BY_LAYERS = {"11": "A", "13": "B", "16": "D", "19": "E"}
"""The paper's letters by the number of weight layers."""


def flag(field: str) -> str:
    """The command line's name of a field."""
    return "--" + field.replace("_", "-")


def with_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them, which an earlier version may have written, by the names that they have now."""
    return {RENAMED.get(field, field): value for field, value in settings.items()}


class KnownArch(NamedTuple):
    """An architecture by the paper's letter."""

    arch: str
    batch_norm: bool


def known_arch(name: str) -> KnownArch | None:
    """What torchvision and others call vgg11, vgg13, vgg16 and vgg19, also vgg16_bn; None for another name."""
    found = re.fullmatch(r"vgg[-_]?(11|13|16|19)([-_]?bn)?", name.lower())
    return None if found is None else KnownArch(BY_LAYERS[found[1]], found[2] is not None)
