"""What the settings of all commands share: conversion to and from JSON, and checks of names and places."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pipelines.paths import absolute, is_remote, last_part, parent
from pipelines.secrets import MASK, masked
from pipelines.stores.quarantine import find_list
from vgg_dist.config.names import flag, with_current_names
from vgg_dist.config.scale_range import ScaleRange
from vgg_dist.config.worker_range import WorkerRange


class Config:
    """Base class of the settings, which are frozen dataclasses."""

    def to_dict(self, secrets: bool = False) -> dict[str, Any]:
        """The fields as JSON holds them, with the passwords and keys inside URLs masked.

        `secrets`: keep those, for a process that needs them.
        """
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {field.name: _json_value(getattr(self, field.name)) for field in fields}
        return values if secrets else masked(values)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`, also after JSON has made lists of the tuples. What was masked stays masked.

        Names of fields that an earlier version had are accepted. TypeError for an unknown field.
        """
        return cls(**_field_values(values))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickles settings, also those of an earlier version (Ray Tune pickles them with the state of a search)."""
        self.__dict__.update(_field_values(state))

    def refuse_masked(self) -> None:
        """ValueError, one line that names the flag, for a URL with *** in the place of a secret, copied from a record."""
        for field, value in self.to_dict(secrets=True).items():
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and "://" in text and MASK in text:
                    raise ValueError(f"{flag(field)} {masked(text)}: {MASK} stands for a secret that is not kept; give it")


def _field_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the present names of the fields, with lists as tuples, and scales and ranges of workers as what they are."""
    fields = {name: tuple(v) if isinstance(v, list) else v for name, v in with_current_names(values).items()}
    if isinstance(scale := fields.get("train_scale"), tuple):
        fields["train_scale"] = ScaleRange.of(scale)
    if isinstance(workers := fields.get("num_workers"), str):
        fields["num_workers"] = WorkerRange.parse(workers)
    return fields


def _json_value(value: Any) -> Any:
    """A field's value as JSON holds it: a scale is two numbers, as in earlier versions, and a range of workers its text."""
    if isinstance(value, WorkerRange):
        return str(value)
    return value.ends if isinstance(value, ScaleRange) else value


@dataclass(frozen=True)
class Interval:
    """How often something is done: every `steps` steps, or every `seconds` seconds. The other one is None."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, field: str, text: str | int) -> Interval:
        """From a number of steps (1000) or a time (30s, 10m, 1h). ValueError, one line that names the flag, otherwise."""
        found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)([smh])", str(text))
        if found is None or float(found[1] or found[2]) == 0:
            raise ValueError(
                f"{flag(field)} {text}: must be a number of steps, such as 1000, or a time, such as 30s, 10m or 1h"
            )
        if found[1]:
            return cls(steps=int(found[1]))
        return cls(seconds=float(found[2]) * {"s": 1, "m": 60, "h": 3600}[found[3]])


LAST, BEST = "last", "best"


def origin_name(location: str) -> str:
    """The name of the run at a path or URL; with the checkpoint, if the location names one, such as first/best."""
    name = last_part(location)
    return f"{last_part(parent(location))}/{name}" if name == BEST or name.startswith("checkpoint-") else name


def check_checkpoint(which: str) -> None:
    """ValueError, one line, unless `which` is last, best or the number of a step."""
    if which not in (LAST, BEST) and not (which.isascii() and which.isdecimal()):
        raise ValueError(f"--checkpoint {which}: must be {LAST}, {BEST} or the number of a step, such as 5000")


LONGEST_NAME = 200  # bytes; file systems allow 255, and names derived from this one are longer


def check_name(name: str, storage_path: str, flag: str = "--name") -> None:
    """ValueError, one line that begins with `flag`, unless `name` can be the name of a folder in `storage_path`."""
    wrong = ""
    if not name.strip():
        wrong = "must not be empty"
    elif name in (".", ".."):
        wrong = "is a folder that is there already"
    elif name in ("mlflow.db", "mlartifacts"):
        wrong = "is where MLflow's records are"
    elif found := [character for character in name if character in "/\\"]:
        wrong = f"must not contain a {'slash' if '/' in found else 'backslash'}"
    elif any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        wrong = "must not contain control characters, line ends or bytes that are no text"
    elif name != name.strip():
        wrong = "must not begin or end with a blank"
    elif len(name.encode()) > LONGEST_NAME:
        wrong = f"must not be longer than {LONGEST_NAME} bytes"
    elif is_remote(storage_path) and (found := [character for character in name if character in "?#%"]):
        wrong = f"must not contain {found[0]}, which ends or escapes a part of a URL"
    if wrong:
        shown = name if name.isprintable() and name.strip() else ascii(name)
        raise ValueError(f"{flag} {shown[:250]}: {wrong}; give the name of one folder, such as first")


def data_location(data: str) -> str:
    """The location in --data as an absolute path or URL; built-in data ("synthetic...") as it is."""
    return data if data.partition(":")[0] == "synthetic" else absolute(data)


def quarantine_list(data: str | None, quarantine: str | None) -> str | None:
    """The list in --quarantine, absolute; without one, the list that this machine has for --data in its cache, if any."""
    if quarantine is not None:
        return absolute(quarantine)
    return None if data is None else find_list(data_location(data), None)
