"""Searches begun by an earlier version of this package: Ray Tune pickles a search's state with the names of its modules."""

from __future__ import annotations

import sys
from types import ModuleType

from vgg_dist.tuning import asha, progress

MOVED: dict[str, ModuleType] = {"vgg_dist.halving": asha, "vgg_dist.search_progress": progress}
"""Modules by the names that such a state has them under."""


def find_moved_modules() -> None:
    """Lets this process unpickle the state of such searches."""
    for name, module in MOVED.items():
        sys.modules.setdefault(name, module)
