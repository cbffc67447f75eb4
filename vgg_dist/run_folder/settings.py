"""The settings that a run, a search or a programme was last started with, in its folder: --name alone goes on with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pipelines.paths import join
from pipelines.secrets import masked
from vgg_dist.config import TrainFlags, check_name
from vgg_dist.config.command_line import Recorded
from vgg_dist.storage import check_storage, read_file, replace_file

SETTINGS, SEARCH, PROGRAMME = "settings.json", "search.json", "programme.json"


def keep_settings(folder: str, config: TrainFlags, name: str = SETTINGS) -> None:
    """Writes them down, secrets masked. OSError or ValueError where the storage refuses."""
    replace_file(join(folder, name), json.dumps(config.to_dict(), indent=1).encode())


def find_settings(name: str) -> Callable[[str, str], Recorded | None]:
    """For `config.command_line`: what is in the file of that name, of a search or a programme."""

    def find(storage_path: str, of: str) -> Recorded | None:
        check_name(of, storage_path)
        check_storage(storage_path)  # in seconds, where it does not answer
        settings = kept_settings(join(storage_path, of), name)
        # A search is held to its settings; a programme's runs are held to theirs one by one.
        return None if settings is None else Recorded(settings, trained=name == SEARCH)

    return find


def kept_settings(folder: str, name: str = SETTINGS) -> dict[str, Any] | None:
    """As JSON holds them; None where there are none, or they are damaged. OSError where the storage does not answer."""
    content = read_file(join(folder, name))
    try:
        found = None if content is None else masked(json.loads(content))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
