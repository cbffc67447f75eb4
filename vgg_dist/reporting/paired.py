"""The difference of two nets' errors, paired by seed and by image, its noise, and what it says of a claim."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ClaimKind = Literal["better", "no gain"]
"""That the first of two nets has the lower error, or that it has not."""

Verdict = Literal["holds", "does not hold", "not resolved"]

MARGIN = 0.5
"""Points: a gain smaller than this counts as none. The smallest gain of the claims is 0.6 points (C over B)."""

NORMAL = 1.96
"""Standard errors to either side, for 95 % of a normal distribution."""

RULE = (
    "A difference is the top-1 error of the first net minus that of the second, in points. Below 0 the first net is better:"
    " a gain. sd is the standard deviation, se the standard error of the mean.",
    "Its 95 % interval has two sources of noise, added as the root of the sum of their squares. The trainings: the standard"
    " deviation of a net's error from seed to seed, pooled over all compared nets that were trained more than once, times"
    " the root of 2 / seeds, times Student's t; each training of a net beyond its first is a degree of freedom. The images:"
    f" the standard error of a paired comparison (as in McNemar's test), times {NORMAL:g}.",
    f"A gain is shown if the whole interval is below 0, and ruled out if the whole interval is above -{MARGIN:g}.",
    "A claim that the first net is better holds if a gain is shown, and does not hold if it is ruled out. For a claim that"
    " there is no gain it is the other way round. All else is not resolved.",
    "If every net was trained once, the noise of the trainings is not known. The interval is then that of the images only,"
    " and no claim is resolved.",
)
"""How `Difference` and `verdict` decide, for people."""


@dataclass(frozen=True)
class TrainingNoise:
    """How much a net's error varies from one training to the next."""

    sd: float
    """Standard deviation, points; the nets are taken to vary alike."""
    freedom: int
    """Degrees of freedom of this estimate."""

    def error(self, seeds: int) -> float:
        """Standard error of the difference of two nets with so many trainings each, points."""
        return self.sd * (2 / seeds) ** 0.5

    def half_width(self, seeds: int) -> float:
        """Of the difference's 95 % interval, by Student's t, points."""
        if not self.sd:
            return 0.0
        from scipy.special import stdtrit  # here, because no other table needs SciPy

        return float(stdtrit(self.freedom, 0.975)) * self.error(seeds)


SAME_NETS = TrainingNoise(0.0, 1)
"""Between two evaluations of the same trained nets."""


@dataclass(frozen=True)
class Difference:
    """Error of one net minus that of another, in points: the mean over the seeds with which both were trained."""

    by_seed: Mapping[int, float]
    mean: float
    sd: float | None
    """Sample standard deviation over the seeds; None with one seed."""
    training_error: float | None
    """Standard error from the noise of the trainings: 0 for the same trained nets, None where it is not known."""
    image_error: float
    """Standard error over the images, with these trained nets."""
    half_width: float
    """Of the 95 % interval around the mean; of the images' noise alone where that of the trainings is not known."""

    @property
    def low(self) -> float:
        """The lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The upper end of the interval."""
        return self.mean + self.half_width


def training_noise(errors: Iterable[Sequence[float]]) -> TrainingNoise | None:
    """The standard deviation of each net's errors over its trainings, pooled over the nets; None if all were trained once.

    Pooled as in an analysis of variance: the root of the sum of the squared deviations from each net's mean, divided by the
    degrees of freedom, one for each training of a net beyond its first.
    """
    repeated = [np.asarray(of_net, dtype=np.float64) for of_net in errors if len(of_net) > 1]
    if not repeated:
        return None
    freedom = sum(len(of_net) - 1 for of_net in repeated)
    squares = sum(float(((of_net - of_net.mean()) ** 2).sum()) for of_net in repeated)
    return TrainingNoise((squares / freedom) ** 0.5, freedom)


def paired_difference(
    first: Mapping[int, NDArray[np.bool_]], second: Mapping[int, NDArray[np.bool_]], noise: TrainingNoise | None
) -> Difference | None:
    """The difference of two nets, each given as (N,) images got wrong by seed; None if they have no seed in common.

    `noise`: that of the trainings; SAME_NETS for the same trained nets evaluated in two ways, None where it is not known.

    The error over the images is that of the mean over N of d_i, the mean over the seeds of wrong_first - wrong_second of
    image i: for one seed, McNemar's sqrt(b + c - (b - c)^2 / N) / N, b and c being the images that only one of the two gets
    wrong. It is never less than that of one image, as two nets that err alike on so many images need not do so on others.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    by_image = np.stack([100.0 * (first[seed].astype(np.float64) - second[seed]) for seed in seeds])  # (seeds, N)
    by_seed = by_image.mean(axis=1)
    count = by_image.shape[1]
    of_one = 100.0 * (1 - 1 / count) ** 0.5 / count
    image_error = max(float(by_image.mean(axis=0).std()) / count**0.5, of_one)
    return Difference(
        dict(zip(seeds, by_seed.tolist(), strict=True)),
        float(by_seed.mean()),
        float(by_seed.std(ddof=1)) if len(seeds) > 1 else None,
        None if noise is None else noise.error(len(seeds)),
        image_error,
        float(np.hypot(NORMAL * image_error, 0.0 if noise is None else noise.half_width(len(seeds)))),
    )


def verdict(kind: ClaimKind, difference: Difference, margin: float = MARGIN) -> Verdict:
    """What the difference says of a claim, by RULE. `margin`: a gain of fewer points counts as none."""
    if difference.training_error is None:
        return "not resolved"
    if difference.high < 0:  # a gain is shown
        return "holds" if kind == "better" else "does not hold"
    if difference.low > -margin:  # a gain is ruled out
        return "does not hold" if kind == "better" else "holds"
    return "not resolved"
