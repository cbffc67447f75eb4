"""How the commands parse their command lines.

Where a setting is given at several places, the first of these wins: the flag, the file of --config, --preset, the settings
of the run that --name resumes, the default.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from pipelines.paths import absolute
from pipelines.secrets import MASK
from vgg_dist.config.arguments import read_arguments
from vgg_dist.config.base import Config
from vgg_dist.config.names import flag, with_current_names
from vgg_dist.config.resume import MUST_STAY, refuse_changes, value_text
from vgg_dist.config.scale_range import ScaleRange
from vgg_dist.config.train_flags import TrainFlags
from vgg_dist.config.worker_range import WorkerRange

THE_NET = "arch", "batch_norm", "head", "width", "image_size"
"""Compared first: if one of these differs, other checks would name the wrong flag."""

FOLLOWING = "image_size", "train_scale", "val_scale"
"""Their defaults follow from the net."""


class Recorded(NamedTuple):
    """The settings that a run was last started with, as its folder records them."""

    settings: dict[str, Any]
    """As JSON holds them, secrets masked."""
    trained: bool
    """Whether it has a checkpoint: then the settings in `resume.MUST_STAY` cannot change."""


C = TypeVar("C", bound=TrainFlags)


S = TypeVar("S", bound=Config)


def parse(kind: type[S], prog: str, description: str | None) -> S:
    """The settings that this process's command line gives, for a command without runs to resume.

    `prog`: how the command is called. `description`: what --help says of it. ValueError, one line, for a --config that
    cannot be used.
    """
    arguments = read_arguments(kind, prog, description)
    return tyro.cli(kind, prog=prog, args=arguments.words, default=kind(**arguments.settings))


def parse_resuming(kind: type[C], prog: str, description: str | None, find: Callable[[str, str], Recorded | None]) -> C:
    """As `parse`, with the settings of the run of that name, where `find` finds one, in the place of the defaults.

    `find` takes the absolute storage path and the name. ValueError, one line, for a --config or a record of the run that
    cannot be used, or where the command line asks for another net.
    """
    arguments = read_arguments(kind, prog, description)

    def parsed(defaults: C) -> C:
        return tyro.cli(kind, prog=prog, args=arguments.words, default=dataclasses.replace(defaults, **arguments.settings))

    given = parsed(kind())
    recorded = find(absolute(given.storage_path), given.name) if given.name else None
    if recorded is None:
        return given
    own = _defaults(given, recorded.settings)
    found = parsed(own)
    if recorded.trained:
        refuse_changes({field: getattr(own, field) for field in THE_NET}, found)
        refuse_changes({field: getattr(own, field) for field in MUST_STAY}, found.resolved())
    elif any(getattr(found, field) != getattr(own, field) for field in THE_NET):
        # There are no weights yet, so the net may change, and its image size and scales with it.
        own = dataclasses.replace(own, **{field: getattr(given, field) for field in FOLLOWING})
        found = parsed(own)
    if taken := _taken(given, found):
        print(f"{prog.removeprefix('python -m ')}: run {given.name} has {taken}", flush=True)
    return found


def _defaults(given: C, settings: dict[str, Any]) -> C:
    """The run's settings, with the name and the storage path of `given`: its folder may have been moved."""
    settings = with_current_names(settings)
    known: dict[str, Any] = {
        field.name: settings[field.name] for field in dataclasses.fields(given) if field.name in settings
    }
    if MASK in str(known.get("tracking_uri")):
        known["tracking_uri"] = given.tracking_uri  # the password is not recorded; MLFLOW_TRACKING_URI may have it
    hints = get_type_hints(type(given))
    try:
        for field, value in known.items():
            if not _fits(value, hints[field]):
                raise TypeError(f"{flag(field)} {value!r}")
        own = type(given).from_dict(known | {"name": given.name, "storage_path": given.storage_path})
        own.resolved()
    except (ValueError, LookupError, TypeError) as error:
        if MASK not in str(error):  # a missing password is reported later, if no flag gives it
            raise ValueError(f"--name {given.name}: the run's record of its settings cannot be used: {error}") from None
    return own


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON fits a field of that type."""
    kinds = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, kind) for kind in kinds)
    if get_origin(hint) is Literal:
        return value in kinds
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_fits(item, kinds[0]) for item in value)
    if hint is ScaleRange:
        return isinstance(value, list) and len(value) in (1, 2) and all(type(item) is int for item in value)
    if hint is WorkerRange:
        return isinstance(value, str)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def _taken(given: TrainFlags, found: TrainFlags) -> str:
    """The settings taken from the run's record that are not the defaults, as flags, for people."""
    usual = [given.to_dict()]
    with contextlib.suppress(ValueError):  # flags that fit the run's net, but not the default one
        usual.append(given.resolved().to_dict())
    words = []
    for name, value in found.to_dict().items():
        if value not in [settings.get(name) for settings in usual]:
            words.append(f"{flag(name)} {value_text(getattr(found, name))}")
    return ", ".join(words)
