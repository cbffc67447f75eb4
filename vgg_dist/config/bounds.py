"""Bounds of settings, written beside the fields as `Annotated[int, AtLeast(1)]`, and the check that reads them there.

NaN is refused by every bound. None (a default that is found out later) is inside all of them. What is no number, such as a
`WorkerRange`, checks itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_type_hints

from vgg_dist.config.names import flag


@dataclass(frozen=True)
class AtLeast:
    """The smallest value that is allowed."""

    limit: float

    def allows(self, value: float) -> bool:
        """Whether the value is inside."""
        return value >= self.limit

    def __str__(self) -> str:
        return f"at least {self.limit}"


@dataclass(frozen=True)
class MoreThan:
    """The value below the smallest one that is allowed."""

    limit: float

    def allows(self, value: float) -> bool:
        """Whether the value is inside."""
        return value > self.limit

    def __str__(self) -> str:
        return f"more than {self.limit}"


@dataclass(frozen=True)
class LessThan:
    """The value above the largest one that is allowed."""

    limit: float

    def allows(self, value: float) -> bool:
        """Whether the value is inside."""
        return value < self.limit

    def __str__(self) -> str:
        return f"less than {self.limit}"


def check_bounds(settings: Any) -> None:
    """ValueError, one line that names the flag, for the first field of a dataclass that is outside of its bounds.

    Of a tuple every value is checked.
    """
    for field, hint in get_type_hints(type(settings), include_extras=True).items():
        bounds = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, (AtLeast, MoreThan, LessThan))]
        found = getattr(settings, field)
        for value in found if isinstance(found, tuple) else (found,):
            for bound in bounds:
                if isinstance(value, (int, float)) and not bound.allows(value):
                    raise ValueError(f"{flag(field)} {value}: must be {bound}")


def at_least(field: str, value: float | None, least: float, what: str = "") -> None:
    """For a bound that follows from other settings. ValueError, one line that names the flag, if the value is smaller."""
    if value is None or not value >= least:  # not `<`: NaN is refused too
        raise ValueError(f"{flag(field)} {value}: must be at least {least}{f', {what}' if what else ''}")
