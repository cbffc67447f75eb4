"""Checks that a search is resumed with the settings it was begun with."""

from __future__ import annotations

import json

from vgg_dist.config import ScaleRange, TuneConfig, with_current_names
from vgg_dist.run_folder.settings import SEARCH, kept_settings

MAY_CHANGE = {"storage_path", "tracking_uri", "experiment", "max_concurrent_trials", "num_workers", "max_failures"}


def refuse_other_search(config: TuneConfig) -> None:
    """ValueError, one line, if the folder has a search with other settings; those in MAY_CHANGE may differ."""
    settings = json.loads(json.dumps(config.to_dict()))
    # Searches of earlier versions, which had no --shuffle, were full.
    earlier = {"shuffle": "full"} | with_current_names(kept_settings(config.folder, SEARCH) or settings)
    if isinstance(scale := earlier.get("train_scale"), list):  # one number or two, in searches of earlier versions
        earlier["train_scale"] = list(ScaleRange.of(scale).ends)
    if changed := sorted(name for name in settings.keys() - MAY_CHANGE if earlier.get(name) != settings[name]):
        name = changed[0]
        raise ValueError(
            f"--name {config.name}: is a search with {name} {earlier.get(name)}, not {settings[name]};"
            " give the same settings, or another --name"
        )
