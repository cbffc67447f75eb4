"""Named sets of defaults for the flags of vgg_dist.reproduce (--preset)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal

Preset = Literal["paper", "tiny"]

PRESETS: dict[Preset, dict[str, Any]] = {
    "paper": {},
    # The paper's sizes divided by 7: crops of 32 pixels, not 224, and by default S = 37, 55 and [37;73]. One linear layer,
    # as the three FC layers would have twice the weights of A's convolutions; and half of the channels, for CPUs. The
    # learning rate is the paper's, divided by four as the batch is; 0.005 and 0.01 gave A a higher error after eight epochs.
    # With a patience of 2 epochs, E's rate dropped after 15, at 70 % top-1 error; with 4 only after 40, and before that the
    # error had come below 62 %.
    "tiny": {
        "image_size": 32,
        "head": "linear",
        "width": 0.5,
        "global_batch": 64,
        "lr": 0.0025,
        "warmup_epochs": 1.0,
        "patience": 4,
        "lr_drops": 1,
    },
}


def preset_settings(fields: set[str], words: Sequence[str], from_file: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the preset that a command line or the file of --config names, for a command that has presets."""
    if "preset" not in fields:
        return {}
    name = from_file.get("preset", "paper")
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        flag, equals, value = word.partition("=")
        if flag == "--preset":
            name = value if equals else following
    return PRESETS.get(name, {})  # another word is refused when the flags are parsed
