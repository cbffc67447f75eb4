"""The training scale S: the length in pixels to which the smaller side of an image is resized (paper, section 3.1).

S is one number, or a range from which it is drawn for each image ("scale jittering"). It is written 256 or 256-512.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec


@dataclass(frozen=True)
class ScaleRange:
    """S is drawn uniformly from the whole numbers from `low` to `high`, both in pixels; it is fixed where they are equal."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str, flag: str = "--train-scale") -> ScaleRange:
        """From 256 or 256-512. ValueError, one line that begins with `flag`, for anything else."""
        parts = text.split("-")
        if len(parts) > 2 or not all(part.isdecimal() for part in parts):
            raise ValueError(f"{flag} {text}: must be a number of pixels, such as 256, or a range, such as 256-512")
        return cls(int(parts[0]), int(parts[-1]))

    @classmethod
    def of(cls, ends: Sequence[int], flag: str = "--train-scale") -> ScaleRange:
        """From one or two numbers, as JSON holds them. ValueError, one line that begins with `flag`, for more or fewer."""
        if len(ends) not in (1, 2):
            raise ValueError(f"{flag} takes one or two numbers, not {len(ends)}")
        return cls(ends[0], ends[-1])

    @property
    def ends(self) -> tuple[int, int]:
        """The two numbers as JSON and MLflow hold them."""
        return self.low, self.high

    @property
    def is_fixed(self) -> bool:
        """Whether S is one number."""
        return self.low == self.high

    @property
    def middle(self) -> int:
        """The middle of the range, rounded down: the default validation scale Q."""
        return (self.low + self.high) // 2

    def scaled(self, factor: float) -> ScaleRange:
        """Both ends times `factor`, rounded: the paper's scales at another image size."""
        return ScaleRange(round(self.low * factor), round(self.high * factor))

    def __str__(self) -> str:
        return str(self.low) if self.is_fixed else f"{self.low}-{self.high}"


def _from_words(words: Sequence[str]) -> ScaleRange | None:
    if list(words) == ["None"]:
        return None
    if len(words) == 1:
        return ScaleRange.parse(words[0])
    if not all(word.isdecimal() for word in words):
        return ScaleRange.parse(" ".join(words))  # raises
    return ScaleRange.of([int(word) for word in words])


SCALE_FLAG: Any = PrimitiveConstructorSpec(
    nargs="*",
    metavar="PX|LOW-HIGH",
    instance_from_str=_from_words,
    is_instance=lambda value: value is None or isinstance(value, ScaleRange),
    str_from_instance=lambda value: [str(value)],
)
"""How tyro parses a scale: 256, 256-512, or the two numbers 256 512."""

ScaleFlag = Annotated[ScaleRange, SCALE_FLAG]
OptionalScaleFlag = Annotated[ScaleRange | None, SCALE_FLAG]
