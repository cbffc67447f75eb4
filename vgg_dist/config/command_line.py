"""A command line whose defaults are the settings of the run that --name names, where there is one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from pipelines.paths import absolute
from pipelines.secrets import MASK
from vgg_dist.config.base import flag
from vgg_dist.config.resume import MUST_STAY, refuse_changes, value_text
from vgg_dist.config.scale_range import ScaleRange
from vgg_dist.config.train import TrainConfig

THE_NET = "arch", "batch_norm", "head", "image_size"
"""What most other checks depend on: they would speak of the wrong flag where one of these differs."""

FOLLOWING = "image_size", "train_scale", "val_scale"
"""What a net has of its own where no flag says it."""


class Recorded(NamedTuple):
    """What is known of a run's settings before its command line is parsed."""

    settings: dict[str, Any]
    """As JSON holds them, secrets masked."""
    trained: bool
    """Whether there are weights, which hold it to some of them."""


C = TypeVar("C", bound=TrainConfig)


def parse_resuming(kind: type[C], prog: str, description: str | None, find: Callable[[str, str], Recorded | None]) -> C:
    """The command line's settings; what it does not give is as the run of that name has it, where `find` finds one.

    `find` takes the absolute storage path and the name. ValueError, one line, where what it finds cannot be used, or the
    command line has another net.
    """
    given = tyro.cli(kind, prog=prog, description=description)
    recorded = find(absolute(given.storage_path), given.name) if given.name else None
    if recorded is None:
        return given
    own = _defaults(given, recorded.settings)
    found = tyro.cli(kind, prog=prog, description=description, default=own)
    if recorded.trained:
        refuse_changes({field: getattr(own, field) for field in THE_NET}, found)
        refuse_changes({field: getattr(own, field) for field in MUST_STAY}, found.resolved())
    elif any(getattr(found, field) != getattr(own, field) for field in THE_NET):
        # Nothing holds it to the run's net; what followed from that follows from the other one now.
        own = dataclasses.replace(own, **{field: getattr(given, field) for field in FOLLOWING})
        found = tyro.cli(kind, prog=prog, description=description, default=own)
    if taken := _taken(given, found):
        print(f"{prog.removeprefix('python -m ')}: run {given.name} has {taken}", flush=True)
    return found


def _defaults(given: C, settings: dict[str, Any]) -> C:
    """The run's settings where `given` says it is now."""
    known: dict[str, Any] = {
        field.name: settings[field.name] for field in dataclasses.fields(given) if field.name in settings
    }
    if MASK in str(known.get("tracking_uri")):
        known["tracking_uri"] = given.tracking_uri  # the password is not kept; MLFLOW_TRACKING_URI may have it
    hints = get_type_hints(type(given))
    try:
        for field, value in known.items():
            if not _fits(value, hints[field]):
                raise TypeError(f"{flag(field)} {value!r}")
        own = type(given).from_dict(known | {"name": given.name, "storage_path": given.storage_path})
        own.resolved()
    except (ValueError, LookupError, TypeError) as error:
        if MASK not in str(error):  # a secret that has to be given again; if it is not, that is told later
            raise ValueError(f"--name {given.name}: the run's record of its settings cannot be used: {error}") from None
    return own


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is one of a field of that type."""
    kinds = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, kind) for kind in kinds)
    if get_origin(hint) is Literal:
        return value in kinds
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_fits(item, kinds[0]) for item in value)
    if hint is ScaleRange:
        return isinstance(value, list) and len(value) in (1, 2) and all(type(item) is int for item in value)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def _taken(given: TrainConfig, found: TrainConfig) -> str:
    """What the run had that the command line did not give, for people: flags and values that are not the usual ones."""
    usual = [given]
    with contextlib.suppress(ValueError):  # a flag that fits the run's net only
        usual.append(given.resolved())
    words = []
    for name, value in found.to_dict().items():
        if value not in [config.to_dict()[name] for config in usual]:
            words.append(f"{flag(name)} {value_text(value)}")
    return ", ".join(words)
