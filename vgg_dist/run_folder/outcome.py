"""What a run's folder says of it: how it ended, if it has, and which settings its last checkpoint was trained with.

Read by the driver before anything is started: what cannot be is refused there, and nothing of the run is changed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipelines.paths import join
from pipelines.secrets import masked
from vgg_dist.config import TrainConfig, TrainSettings, changed_settings, check_name, describe_changes, refuse_changes
from vgg_dist.config.base import BEST
from vgg_dist.config.command_line import Recorded
from vgg_dist.config.resume import EXTENT, FOUND_OUT, PLACE
from vgg_dist.metric_names import TOP, describe_errors, validation_errors, without_trivial_top5
from vgg_dist.run_folder.best import best_of, kept, read_since
from vgg_dist.run_folder.names import CONFIG, PREFIX, refuse_classes
from vgg_dist.run_folder.settings import kept_settings
from vgg_dist.storage import check_storage, list_folder, open_storage, read_file, replace_file

OUTCOME = "outcome.json"


@dataclass(frozen=True)
class Earlier:
    """What there is of a run. Settings are as JSON holds them."""

    settings: dict[str, Any]
    """Those of the last checkpoint."""
    class_names: list[str] | None
    """The last checkpoint's."""
    outcome: dict[str, Any] | None
    """How it ended (metrics, step, checkpoint, and the best of them), and with which settings; None if it has not."""

    def check(self, config: TrainSettings, class_names: list[str] | None = None) -> None:
        """ValueError, one line, for settings, or classes where they are known, with which the run cannot be resumed."""
        refuse_changes(self.settings, config)
        if class_names is not None and self.class_names is not None:
            refuse_classes(self.class_names, config, class_names)

    def is_all(self, config: TrainSettings) -> bool:
        """Whether the run came to its end, and `config` leaves it nothing more to train."""
        if self.outcome is None:
            return False
        reached = self.outcome["metrics"].get("epoch", 0) >= config.epochs
        stepped = config.max_steps is not None and self.outcome["step"] >= config.max_steps
        return reached or stepped or not changed_settings(self.outcome["settings"], config).keys() & set(EXTENT)

    def changes(self, config: TrainSettings) -> str:
        """What differs from the settings that the run ended with, or has been trained with so far; empty if nothing does."""
        ended = self.outcome if self.is_all(config) else None
        return describe_changes(changed_settings(ended["settings"] if ended else self.settings, config))


def read_earlier(config: TrainSettings) -> Earlier | None:
    """What there is of the run that `config` names; None if there is nothing. OSError where the storage does not answer."""
    folder = config.folder
    outcome = _parsed(read_file(join(folder, OUTCOME)))
    last = _last_description(folder)
    if outcome is None and last is None:
        return None
    settings, class_names = last or ({}, None)
    if outcome is not None:
        # Older ones name only which net it is, and how far it is trained; the rest its checkpoint has.
        outcome["metrics"] = without_trivial_top5(outcome["metrics"], len(class_names or ()) or TOP + 1)
        outcome["settings"] = settings | outcome.get("asked", {}) | outcome.get("settings", {})
        settings = settings or outcome["settings"]
    return Earlier(settings, class_names, outcome)


def find_run(storage_path: str, name: str) -> Recorded | None:
    """The settings of a run, for `config.command_line`: those it was last started with, or trained with so far.

    ValueError, one line, where the storage does not answer.
    """
    try:
        check_name(name, storage_path)
        check_storage(storage_path)  # in seconds, where it does not answer
        earlier = read_earlier(TrainConfig(storage_path=storage_path, name=name).resolved())
        settings = kept_settings(join(storage_path, name))
    except OSError as error:
        raise ValueError(f"--storage-path {masked(storage_path)}: cannot be read: {error}") from None
    if settings is None and earlier is not None:  # of an earlier version; what is found out at each start it has as well
        trained_with = (earlier.outcome or {}).get("settings") or earlier.settings
        settings = {field: value for field, value in trained_with.items() if field not in FOUND_OUT}
    return None if settings is None else Recorded(settings, trained=earlier is not None)


def check_earlier(config: TrainSettings, class_names: list[str] | None = None) -> None:
    """ValueError, one line, where the run that `config` names is there and cannot be resumed so. See `Earlier.check`."""
    if (earlier := read_earlier(config)) is not None:
        earlier.check(config, class_names)


def read_best(folder: str) -> dict[str, Any]:
    """What the outcome has of the best checkpoint of the run in `folder`; empty if there is none."""
    filesystem, run = open_storage(folder)
    best = best_of(kept(filesystem, run))
    if best is None:
        return {}
    since = read_since(filesystem, run)
    return {"best": {"step": best.step, "metrics": best.metrics, "checkpoint": best.path, "since": since}}


def describe_outcome(outcome: dict[str, Any]) -> str:
    """Where it ended, with which errors and checkpoint; and the best, where that has smaller errors."""
    lines = [f" at step {outcome['step']}: validation {describe_errors(outcome['metrics'])}"]
    lines.append(f"checkpoint: {outcome['checkpoint']}")
    best = outcome.get("best")
    if best and validation_errors(best["metrics"]) != validation_errors(outcome["metrics"]):
        since = "" if best["since"] is None else f", of those from step {best['since']} on,"
        lines.append(f"the best{since} was at step {best['step']}: validation {describe_errors(best['metrics'])}")
        lines.append(f"its checkpoint: {best['checkpoint']} (--checkpoint {BEST} of vgg_dist.evaluate and export)")
    return "\n".join(lines)


def write_outcome(config: TrainSettings, outcome: dict[str, Any]) -> None:
    """Says that a run trained by `config` has come to its end."""
    settings = {field: value for field, value in config.to_dict().items() if field not in {*PLACE, "tracking_uri"}}
    content = json.dumps(outcome | {"settings": settings}, indent=1)
    replace_file(join(config.folder, OUTCOME), content.encode())


def _last_description(folder: str) -> tuple[dict[str, Any], list[str] | None] | None:
    """Settings and class names of the last checkpoint whose description can be read."""
    try:
        names = list_folder(folder)
    except FileNotFoundError:
        return None
    for name in reversed([name for name in names if name.startswith(PREFIX)]):
        found = _parsed(read_file(join(join(folder, name), CONFIG)))
        if found is not None and "config" in found:
            return found["config"], found.get("class_names")
    return None


def _parsed(content: bytes | None) -> dict[str, Any] | None:
    """The JSON object; None where there is none, or it is damaged: the workers, or another training, will tell."""
    try:
        found = None if content is None else json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
