"""The number of workers of an elastic training: any from `least` to `most`, as nodes join and leave. It is written 2:8."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec

from vgg_dist.config.bounds import AtLeast


@dataclass(frozen=True)
class WorkerRange:
    """From `least` to `most` workers, both included. ValueError, one line, unless 1 <= least <= most."""

    least: int
    most: int

    def __post_init__(self) -> None:
        if self.least < 1:
            raise ValueError(f"--num-workers {self}: must be at least 1")
        if self.least > self.most:
            raise ValueError(f"--num-workers {self}: the first number must not be more than the second")

    @classmethod
    def parse(cls, text: str) -> WorkerRange:
        """From 2:8. ValueError, one line that names the flag, for anything else."""
        found = re.fullmatch(r"(-?[0-9]+):(-?[0-9]+)", text)
        if found is None:
            raise ValueError(f"--num-workers {text}: must be a number, such as 4, or a range, such as 2:8")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.least}:{self.most}"


NumWorkers = int | WorkerRange
"""A fixed number of workers, or a range of it."""


def most_workers(num_workers: NumWorkers) -> int:
    """The largest number of workers that a training can have."""
    return num_workers.most if isinstance(num_workers, WorkerRange) else num_workers


def fixed_workers(num_workers: NumWorkers | None) -> int | None:
    """The number of workers, for a command whose trainings share a cluster. ValueError, one line, for a range."""
    if isinstance(num_workers, WorkerRange):
        raise ValueError(f"--num-workers {num_workers}: a range is for vgg_dist.train only; give a number")
    return num_workers


def _from_words(words: Sequence[str]) -> NumWorkers | None:
    [word] = words
    if word == "None":
        return None
    return int(word) if re.fullmatch(r"[+-]?[0-9]+", word) else WorkerRange.parse(word)


NUM_WORKERS_FLAG: Any = PrimitiveConstructorSpec(
    nargs=1,
    metavar="N|MIN:MAX",
    instance_from_str=_from_words,
    is_instance=lambda value: value is None or isinstance(value, (int, WorkerRange)),
    str_from_instance=lambda value: [str(value)],
)
"""How tyro parses a number of workers: 4, or 2:8."""

OptionalNumWorkers = Annotated[int | WorkerRange | None, NUM_WORKERS_FLAG, AtLeast(1)]
