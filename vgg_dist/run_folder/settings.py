"""The settings that a run, a search or a reproduction was last started with; `--name` alone resumes with them.

They are stored twice: as JSON for the next start, and as config.yaml for people and for --config.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pipelines.paths import absolute, join
from pipelines.secrets import masked
from vgg_dist.config import Config, ReproduceConfig, TrainFlags, check_name
from vgg_dist.config.command_line import Recorded
from vgg_dist.config.config_file import CONFIG_FILE, to_yaml
from vgg_dist.run_folder.folder import SETTINGS
from vgg_dist.storage import check_storage, read_file, replace_file

SEARCH, PROGRAMME = "search.json", "programme.json"
COMMANDS = {SETTINGS: "vgg_dist.train", SEARCH: "vgg_dist.tune", PROGRAMME: "vgg_dist.reproduce"}
"""The command that each of the files is of."""


def keep_settings(folder: str, config: TrainFlags, name: str = SETTINGS) -> None:
    """Writes the JSON file `name` and config.yaml, secrets masked. OSError or ValueError if the storage refuses."""
    replace_file(join(folder, name), json.dumps(config.to_dict(), indent=1).encode())
    keep_config(folder, config, COMMANDS[name])


def keep_config(folder: str, config: Config, command: str) -> None:
    """Writes config.yaml alone. `command`: such as vgg_dist.train. OSError or ValueError where the storage refuses."""
    replace_file(join(folder, CONFIG_FILE), to_yaml(config, command).encode())


def find_settings(name: str) -> Callable[[str, str], Recorded | None]:
    """A function for `config.command_line` that reads the settings of a search or a reproduction from the file `name`."""

    def find(storage_path: str, of: str) -> Recorded | None:
        check_name(of, storage_path)
        check_storage(storage_path)  # fails within seconds if the storage does not answer
        settings = kept_settings(join(storage_path, of), name)
        # A search must keep its settings. A reproduction may change them: each of its runs is checked on its own.
        return None if settings is None else Recorded(settings, trained=name == SEARCH)

    return find


def refuse_other_study(config: ReproduceConfig) -> None:
    """ValueError, one line, if the folder of this --name holds another study. OSError if it cannot be read.

    `config` has a name, but need not be resolved.
    """
    kept = kept_settings(join(absolute(config.storage_path), str(config.name)), PROGRAMME)
    other = config.study if kept is None else kept.get("study", "paper")  # an earlier version had no other
    if other != config.study:
        raise ValueError(f"--name {config.name}: holds --study {other}, not {config.study}; give another --name")


def kept_settings(folder: str, name: str = SETTINGS) -> dict[str, Any] | None:
    """The settings as JSON holds them; None if there are none or they are damaged. OSError if it cannot be read."""
    content = read_file(join(folder, name))
    try:
        found = None if content is None else masked(json.loads(content))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
