"""Which settings of a training may change when it is resumed, and how a change is reported.

Every field of TrainFlags is in one of three tables. A setting in MAY_CHANGE takes effect from the step that the run resumes
at: the next checkpoint's config.json and MLflow (tags `resumed.*`) have the new value. A change of a setting in MUST_STAY is
refused. Those in PLACE are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.secrets import masked
from vgg_dist.config.base import origin_name
from vgg_dist.config.names import flag, with_current_names
from vgg_dist.config.scale_range import ScaleRange
from vgg_dist.config.train_flags import TrainFlags

PLACE = frozenset({"name", "storage_path"})
"""Where the run is. Its folder may have been moved."""

MUST_STAY = frozenset({
    # The weights would not fit the net.
    "arch", "batch_norm", "head", "width", "image_size",
    # Evaluation takes the test scales, and the row of the paper's tables, from the S in the checkpoint, so a training has
    # one S. For another S, start a new run with --init-from, as in the paper.
    "train_scale",
    # The schedule compares the validation errors of epochs, which must be measured at the same Q.
    "val_scale",
    # They set the weights at step 0, and would have no effect now.
    "init", "init_std", "init_from",
    # The rest of the epoch would come in another order, with some images twice and some not at all.
    "seed", "shuffle",
})  # fmt: skip

MAY_CHANGE = frozenset({
    # A data set may be moved or grow. Its classes must stay the same, which is checked against the checkpoint.
    "data",
    # The recipe for the remaining steps. Augmentation does not change the order of the images, and the drops of the
    # learning rate so far remain.
    "dropout", "pad", "flip", "color_shift", "lr", "warmup_epochs", "momentum", "weight_decay",
    # The size of a step. A step that had begun is completed as it was.
    "global_batch", "micro_batch",
    # How far the run is trained. A run that had ended continues where these allow more.
    "epochs", "max_steps", "patience", "lr_drops",
    # How the steps are computed, and on which hardware.
    "precision", "compile", "deterministic", "bf16_gradients", "powersgd_rank", "fc_parallel",
    "num_workers", "loader_threads",
    # What is tolerated, saved and logged.
    "max_bad_images", "max_pixels", "quarantine", "max_failures", "checkpoint_every", "log_every", "experiment",
    "tracking_uri",
})  # fmt: skip

FOUND_OUT = frozenset({"num_workers", "micro_batch", "loader_threads", "tracking_uri", "quarantine"})
"""None means that the value is chosen at each start, so None does not differ from any value."""

EXTENT = "epochs", "max_steps", "patience", "lr_drops"
"""The settings that decide how far a run is trained."""

Changes = dict[str, tuple[Any, Any]]
"""Old and new value, by field."""


def changed_settings(before: Mapping[str, Any], config: TrainFlags) -> Changes:
    """The settings of `config` that differ from `before`, which is as JSON holds settings.

    A setting that `before` lacks did not exist when that was written, and is not compared. Secrets in URLs are not compared
    either, as checkpoints have none; the returned values have none.
    """
    before = with_current_names(before)
    found: Changes = {}
    for field, value in config.to_dict().items():
        old: Any = masked(before.get(field))
        new: Any = masked(value)
        if field not in before or field in PLACE or (field in FOUND_OUT and (old is None or new is None)):
            continue
        if field == "train_scale":
            old, new = _scale_text(old), _scale_text(new)
        same = _last_part(old) == _last_part(new) if field == "init_from" else old == new or str(old) == str(new)
        if not same:
            found[field] = old, new
    return found


def refuse_changes(before: Mapping[str, Any], config: TrainFlags) -> None:
    """ValueError, one line with flags, old and new values, if a setting in MUST_STAY differs from `before`."""
    wrong = {field: values for field, values in changed_settings(before, config).items() if field in MUST_STAY}
    if wrong:
        raise ValueError(
            f"--name {config.name}: that run was begun with {describe_changes(wrong)}, which cannot change when it is"
            " resumed; give the same settings, or another --name"
        )


def describe_changes(changes: Changes) -> str:
    """Such as "--lr 0.01, not 0.1; --compile off, not on"."""
    return "; ".join(f"{flag(field)} {value_text(old)}, not {value_text(new)}" for field, (old, new) in changes.items())


def value_text(value: Any) -> str:
    """A setting's value, for people."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(masked(" ".join(map(str, value)) if isinstance(value, tuple) else str(value)))


def _scale_text(value: Any) -> Any:
    """Such as 256-512, from a scale or from the one or two numbers in JSON; None as it is."""
    if isinstance(value, (list, tuple)):
        value = ScaleRange.of(value)
    return None if value is None else str(value)


def _last_part(location: str | None) -> str | None:
    """The run's name: it is the same run after the folder of all runs was moved."""
    return None if location is None else origin_name(location)
