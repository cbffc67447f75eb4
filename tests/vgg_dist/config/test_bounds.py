"""The bounds beside the fields are enforced, for every command."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import pytest

from vgg_dist.config import Config, EvalConfig, ReproduceConfig, TrainConfig, TuneConfig
from vgg_dist.config.bounds import AtLeast, LessThan, MoreThan, check_bounds

NAN = float("nan")


@dataclass(frozen=True)
class Settings:
    count: Annotated[int | None, AtLeast(1)] = None
    rates: Annotated[tuple[float, ...], MoreThan(0), LessThan(1)] = ()


@pytest.mark.parametrize("settings", [Settings(), Settings(1, (0.001, 0.999)), Settings(9, ())])
def test_what_is_inside_passes(settings: Settings) -> None:
    check_bounds(settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(count=0), "--count 0: must be at least 1"),
        (Settings(rates=(0.5, 0.0)), "--rates 0.0: must be more than 0"),
        (Settings(rates=(1.0,)), "--rates 1.0: must be less than 1"),
        (Settings(rates=(NAN,)), "--rates nan: must be more than 0"),
    ],
)
def test_what_is_outside_is_one_line(settings: Settings, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}$"):
        check_bounds(settings)


def bounded_fields() -> list[tuple[type[Config], str, float]]:
    """Each bounded field of each command, with a value just outside."""
    found = []
    for kind in (TrainConfig, TuneConfig, EvalConfig, ReproduceConfig):
        for field, hint in get_type_hints(kind, include_extras=True).items():
            for bound in getattr(hint, "__metadata__", ()):
                if isinstance(bound, (AtLeast, MoreThan, LessThan)):
                    found.append((kind, field, bound.limit - 1 if isinstance(bound, AtLeast) else bound.limit))
    return found


@pytest.mark.parametrize(("kind", "field", "value"), bounded_fields())
def test_every_command_checks_the_bounds_of_its_fields(kind: type[Config], field: str, value: float) -> None:
    settings: dict[str, Any] = {"nets": ("net",)} if kind is EvalConfig else {}
    default = next(each.default for each in dataclasses.fields(kind) if each.name == field)  # type: ignore[arg-type]
    outside = (value,) if isinstance(default, tuple) or field == "test_scales" else value
    with pytest.raises(ValueError, match=f"^--{field.replace('_', '-')} {value}: must be "):
        kind(**settings, **{field: outside}).resolved()  # type: ignore[attr-defined]
