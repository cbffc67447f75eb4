"""What a study came to: the nets it trained, and for each training which validation images it got wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vgg_dist.reporting.paper_tables.errors import TOP


@dataclass(frozen=True, eq=False)
class Training:
    """One training of a net, evaluated."""

    run: str
    """The run's name."""
    seed: int
    wrong: Mapping[int, NDArray[np.bool_]]
    """By k, 1 or 5: (N,) whether an image's class is not among the k best guesses; no 5 for five classes or fewer."""
    epochs: float | None
    """Epochs trained; None: not known."""
    rate: float | None
    """Images/s of its training steps, without the time spent waiting for data; None: not recorded."""

    def error(self, top: int) -> float:
        """The top-1 or top-5 error, percent."""
        return 100 * float(self.wrong[top].mean())

    @classmethod
    def of_guesses(
        cls, run: str, seed: int, guesses: NDArray[np.int32], labels: NDArray[np.int64], num_classes: int,
        epochs: float | None = None, rate: float | None = None,
    ) -> Training:  # fmt: skip
        """From the best guesses (N, up to 5), most probable first, and the labels (N,)."""
        hits = guesses == labels[:, None]
        tops = (1, TOP) if num_classes > TOP else (1,)
        return cls(run, seed, {k: ~hits[:, :k].any(axis=1) for k in tops}, epochs, rate)


class Spread(NamedTuple):
    """Mean and sample standard deviation over the seeds; no standard deviation of one value."""

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None if there is no value."""
        if not values:
            return None
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)

    def text(self, form: Callable[[float], str]) -> str:
        """Such as 12.34 ± 0.56."""
        return form(self.mean) if self.sd is None else f"{form(self.mean)} ± {form(self.sd)}"


Kind = Literal["vgg", "batch norm", "earlier"]


@dataclass(frozen=True, eq=False)
class StudiedNet:
    """A net of a study, and its trainings."""

    name: str
    """Such as A, A-bn or D-from-A."""
    kind: Kind
    twin: str | None
    """The name of the same net without batch norm; None for a net that has none."""
    image_size: int
    """Side of its input, pixels."""
    scale: str
    """S: the smaller side of the images in training, and in the evaluation (Q)."""
    parameters: int
    macs: int
    """Multiply-accumulates of one image in a forward pass."""
    trainings: tuple[Training, ...]

    def error(self, top: int) -> Spread | None:
        """The top-1 or top-5 error over the seeds; None if there is no training, or no such error."""
        return Spread.of([training.error(top) for training in self.trainings if top in training.wrong])

    def rate(self) -> Spread | None:
        """Images/s over the seeds; None if none is recorded."""
        return Spread.of([training.rate for training in self.trainings if training.rate is not None])

    def wrong(self, top: int) -> dict[int, NDArray[np.bool_]]:
        """By seed, the images that it got wrong; see `Training.wrong`."""
        return {training.seed: training.wrong[top] for training in self.trainings}


@dataclass(frozen=True, eq=False)
class Results:
    """What came out of a study."""

    nets: tuple[StudiedNet, ...]
    """Each with at least one training."""
    missing: tuple[tuple[str, str], ...]
    """The runs without a result: name and reason."""
    images: int
    """Validation images, N."""
    num_classes: int
    view: Literal["dense", "center"]
    """What a net sees of an image in the evaluation."""
    settings: tuple[tuple[str, str], ...]
    """What all runs share: flag and value."""

    @property
    def tops(self) -> tuple[int, ...]:
        """Which errors there are: (1, 5), or (1,) for five classes or fewer."""
        return (1, TOP) if self.num_classes > TOP else (1,)

    @property
    def num_seeds(self) -> int:
        """The most trainings of a net."""
        return max((len(net.trainings) for net in self.nets), default=0)
