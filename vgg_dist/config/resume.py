"""Which settings of a training may change when it is resumed, and how a change is told.

Every field of TrainFlags is in one of the three tables. What may change takes effect from the step that the run goes on
from: the checkpoint's config.json and MLflow (tags `resumed.*`) have the new value. What must stay is refused.
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
"""Where the run is: by these it is found, and its folder may have been moved."""

MUST_STAY = frozenset({
    # The weights would not fit the net.
    "arch", "batch_norm", "head", "image_size",
    # Evaluation takes the test scales, and the row of the paper's tables, from the S of the checkpoint: one S for the whole
    # training. For another S a new run begins with --init-from, as in the paper.
    "train_scale",
    # The schedule compares validation errors over epochs, which have to be at one Q; for others there is vgg_dist.evaluate.
    "val_scale",
    # They describe how step 0 came about, and would do nothing now.
    "init", "init_std", "init_from",
    # The rest of the epoch would be in another order: some images twice, some not at all.
    "seed",
})  # fmt: skip

MAY_CHANGE = frozenset({
    # A data set may be moved or grow; its classes must stay, which the checkpoint checks.
    "data",
    # The recipe from here on. Augmentation does not touch the order of the images; the drops of the rate so far stay.
    "dropout", "pad", "flip", "color_shift", "lr", "warmup_epochs", "momentum", "weight_decay",
    # How much is trained in one step: a step that was begun is ended.
    "global_batch", "micro_batch",
    # How far it is trained. Where the schedule had ended the run, it is asked again.
    "epochs", "max_steps", "patience", "lr_drops",
    # How, and on what, it is computed.
    "precision", "compile", "deterministic", "bf16_gradients", "num_workers", "loader_threads",
    # What is tolerated, kept and told.
    "max_bad_images", "max_pixels", "quarantine", "max_failures", "checkpoint_every", "log_every", "experiment",
    "tracking_uri",
})  # fmt: skip

FOUND_OUT = frozenset({"num_workers", "micro_batch", "loader_threads", "tracking_uri", "quarantine"})
"""None stands for what is found out at each start, so it differs from no value."""

EXTENT = "epochs", "max_steps", "patience", "lr_drops"
"""What decides how far a run is trained."""

Changes = dict[str, tuple[Any, Any]]
"""Old and new value, by field."""


def changed_settings(before: Mapping[str, Any], config: TrainFlags) -> Changes:
    """What differs from the settings `before`, as JSON holds them; what they lack, an older version did not have.

    Secrets in URLs may differ: checkpoints have none, and the values returned have none.
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
    """ValueError, one line with the flags, old and new values, where a setting differs that must stay."""
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
    """Such as 256-512, from a scale or from JSON's one or two numbers."""
    return str(ScaleRange.of(value)) if isinstance(value, (list, tuple)) else value if value is None else str(value)


def _last_part(location: str | None) -> str | None:
    """A run is the same where the folder of all runs was moved."""
    return None if location is None else origin_name(location)
