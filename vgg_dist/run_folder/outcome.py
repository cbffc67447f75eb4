"""What a run's folder says of the run: how it ended, and which settings its last checkpoint was trained with.

The driver reads it before it starts anything, so that a setting with which the run cannot be resumed is refused early.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipelines.secrets import masked
from vgg_dist.config import TrainConfig, TrainSettings, changed_settings, check_name, describe_changes, refuse_changes
from vgg_dist.config.base import BEST
from vgg_dist.config.command_line import Recorded
from vgg_dist.config.resume import EXTENT, FOUND_OUT, PLACE
from vgg_dist.metric_names import TOP, describe_errors, validation_errors, without_trivial_top5
from vgg_dist.run_folder.best import best_copies, best_of, read_since
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.run_folder.names import CONFIG, is_checkpoint_name, refuse_classes
from vgg_dist.run_folder.settings import kept_settings
from vgg_dist.storage import check_storage, list_folder, read_file, replace_file


@dataclass(frozen=True)
class Earlier:
    """A run that was started before. Settings are as JSON holds them."""

    settings: dict[str, Any]
    """Those of the last checkpoint."""
    class_names: list[str] | None
    """The last checkpoint's."""
    outcome: dict[str, Any] | None
    """outcome.json: step, metrics, checkpoint, best checkpoint and settings; None if the run has not finished."""

    def check(self, config: TrainSettings, class_names: list[str] | None = None) -> None:
        """ValueError, one line, for settings, or classes if they are known, with which the run cannot be resumed."""
        refuse_changes(self.settings, config)
        if class_names is not None and self.class_names is not None:
            refuse_classes(self.class_names, config, class_names)

    def is_all(self, config: TrainSettings) -> bool:
        """Whether the run has finished and `config` leaves nothing more to train."""
        if self.outcome is None:
            return False
        reached = self.outcome["metrics"].get("epoch", 0) >= config.epochs
        stepped = config.max_steps is not None and self.outcome["step"] >= config.max_steps
        return reached or stepped or not changed_settings(self.outcome["settings"], config).keys() & set(EXTENT)

    def changes(self, config: TrainSettings) -> str:
        """How `config` differs from the settings that the run finished or was last trained with; else empty."""
        ended = self.outcome if self.is_all(config) else None
        return describe_changes(changed_settings(ended["settings"] if ended else self.settings, config))


def read_earlier(config: TrainSettings) -> Earlier | None:
    """The run that `config` names, as its folder has it; None if there is none. OSError if the storage does not answer."""
    run = RunFolder.of(config)
    outcome = _parsed(read_file(run.outcome))
    last = _last_description(run)
    if outcome is None and last is None:
        return None
    settings, class_names = last or ({}, None)
    if outcome is not None:
        # Outcomes of older versions have the arch and how far it was trained; the checkpoint has the other settings.
        outcome["metrics"] = without_trivial_top5(outcome["metrics"], len(class_names or ()) or TOP + 1)
        outcome["settings"] = settings | outcome.get("asked", {}) | outcome.get("settings", {})
        settings = settings or outcome["settings"]
    return Earlier(settings, class_names, outcome)


def find_run(storage_path: str, name: str) -> Recorded | None:
    """The settings that a run was last started with, for `config.command_line`; None if there is no such run.

    ValueError, one line, if the storage does not answer.
    """
    try:
        check_name(name, storage_path)
        check_storage(storage_path)  # fails within seconds if the storage does not answer
        config = TrainConfig(storage_path=storage_path, name=name).resolved()
        earlier, settings = read_earlier(config), kept_settings(config.folder)
    except OSError as error:
        raise ValueError(f"--storage-path {masked(storage_path)}: cannot be read: {error}") from None
    if (
        settings is None and earlier is not None
    ):  # an older version wrote no settings.json; leave out what each start finds out itself
        trained_with = (earlier.outcome or {}).get("settings") or earlier.settings
        settings = {field: value for field, value in trained_with.items() if field not in FOUND_OUT}
    return None if settings is None else Recorded(settings, trained=earlier is not None)


def check_earlier(config: TrainSettings, class_names: list[str] | None = None) -> None:
    """ValueError, one line, if the run that `config` names exists and cannot be resumed with it. See `Earlier.check`."""
    if (earlier := read_earlier(config)) is not None:
        earlier.check(config, class_names)


def read_best(run: RunFolder) -> dict[str, Any]:
    """The best checkpoint as outcome.json has it: {"best": {...}}; empty if there is none."""
    best = best_of(best_copies(run))
    if best is None:
        return {}
    return {"best": {"step": best.step, "metrics": best.metrics, "checkpoint": best.path, "since": read_since(run)}}


def describe_outcome(outcome: dict[str, Any]) -> str:
    """For people: the last step, its errors and checkpoint; and the best checkpoint, if its errors differ."""
    lines = [f" at step {outcome['step']}: validation {describe_errors(outcome['metrics'])}"]
    lines.append(f"checkpoint: {outcome['checkpoint']}")
    best = outcome.get("best")
    if best and validation_errors(best["metrics"]) != validation_errors(outcome["metrics"]):
        since = "" if best["since"] is None else f", of those from step {best['since']} on,"
        lines.append(f"the best{since} was at step {best['step']}: validation {describe_errors(best['metrics'])}")
        lines.append(f"its checkpoint: {best['checkpoint']} (--checkpoint {BEST} of vgg_dist.evaluate and export)")
    return "\n".join(lines)


def write_outcome(config: TrainSettings, outcome: dict[str, Any]) -> None:
    """Writes outcome.json for a run that has finished. Secrets are not in it."""
    settings = {field: value for field, value in config.to_dict().items() if field not in {*PLACE, "tracking_uri"}}
    content = json.dumps(outcome | {"settings": settings}, indent=1)
    replace_file(RunFolder.of(config).outcome, content.encode())


def _last_description(run: RunFolder) -> tuple[dict[str, Any], list[str] | None] | None:
    """Settings and class names of the last checkpoint whose config.json can be read."""
    try:
        names = list_folder(run.url)
    except FileNotFoundError:
        return None
    for name in reversed([name for name in names if is_checkpoint_name(name)]):
        found = _parsed(read_file(run.url_of(f"{run.checkpoint(name)}/{CONFIG}")))
        if found is not None and "config" in found:
            return found["config"], found.get("class_names")
    return None


def _parsed(content: bytes | None) -> dict[str, Any] | None:
    """The JSON object; None if there is none or it is damaged, which the workers will report."""
    try:
        found = None if content is None else json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
