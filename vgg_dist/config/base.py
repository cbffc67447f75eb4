"""What the settings of all commands have in common."""

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


class Config:
    """What the settings of all commands have in common: they are dataclasses, and JSON."""

    def to_dict(self, secrets: bool = False) -> dict[str, Any]:
        """As JSON holds it, to be written and shown: passwords and keys inside URLs are masked.

        With `secrets` they are in it, for the processes that need them.
        """
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {field.name: _json_value(getattr(self, field.name)) for field in fields}
        return values if secrets else masked(values)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`, also after JSON made lists of the tuples; what was masked stays so."""
        return cls(**_field_values(values))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickles, also what an earlier version pickled (Ray Tune's state of a search)."""
        self.__dict__.update(_field_values(state))

    def refuse_masked(self) -> None:
        """ValueError, one line that names the flag, for a URL in which *** stands for a secret, as it is shown and kept."""
        for field, value in self.to_dict(secrets=True).items():
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and "://" in text and MASK in text:
                    raise ValueError(f"{flag(field)} {masked(text)}: {MASK} stands for a secret that is not kept; give it")


def _field_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """From JSON, or from an earlier version: by the fields' names of now, lists as tuples, and numbers as a scale."""
    fields = {name: tuple(v) if isinstance(v, list) else v for name, v in with_current_names(values).items()}
    if isinstance(scale := fields.get("train_scale"), tuple):
        fields["train_scale"] = ScaleRange.of(scale)
    return fields


def _json_value(value: Any) -> Any:
    """A field's value as JSON holds it: a scale is its two numbers, as in the files of earlier versions."""
    return value.ends if isinstance(value, ScaleRange) else value


@dataclass(frozen=True)
class Interval:
    """How often something is done: every so many steps, or every so many seconds; one of the two."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, field: str, text: str | int) -> Interval:
        """A number of steps (1000), or a time (30s, 10m, 1h). ValueError, one line that names the flag."""
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
    """The name of the run at a path or URL, with which checkpoint of it if that is named, such as first/best."""
    name = last_part(location)
    return f"{last_part(parent(location))}/{name}" if name == BEST or name.startswith("checkpoint-") else name


def check_checkpoint(which: str) -> None:
    """ValueError, one line, for a --checkpoint that is none of what it may be."""
    if which not in (LAST, BEST) and not (which.isascii() and which.isdecimal()):
        raise ValueError(f"--checkpoint {which}: must be {LAST}, {BEST} or the number of a step, such as 5000")


LONGEST_NAME = 200  # bytes: file systems take 255, and files beside a folder have longer names


def check_name(name: str, storage_path: str, flag: str = "--name") -> None:
    """ValueError, one line that begins with `flag`, where `name` cannot be that of one folder in `storage_path`."""
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
    """What --data names, for any folder that a process is in."""
    return data if data.partition(":")[0] == "synthetic" else absolute(data)


def quarantine_list(data: str | None, quarantine: str | None) -> str | None:
    """What --quarantine names; without it this machine's own list for --data, if there is one, for all workers."""
    if quarantine is not None:
        return absolute(quarantine)
    return None if data is None else find_list(data_location(data), None)
