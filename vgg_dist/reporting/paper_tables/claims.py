"""The paper's six claims (section 4) as paired comparisons of our nets: what is compared, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vgg_dist import paper
from vgg_dist.paper import JITTERED, S256, S384, AnyView, View
from vgg_dist.reporting.paired import (
    MARGIN,
    SAME_NETS,
    ClaimKind,
    Difference,
    TrainingNoise,
    Verdict,
    paired_difference,
    training_noise,
    verdict,
)
from vgg_dist.reporting.paper_tables.layout import VIEW_NAMES, scale_text
from vgg_dist.reporting.paper_tables.means import EvaluatedNet, Mean, by_counterpart, by_paper_net, means_of_trainings

RULE = (
    "Where the same trained nets are evaluated in two ways, only the images are a source of noise, and one training is"
    " enough.",
    f"Where the paper's own gain is smaller than {MARGIN:g} points, a gain is ruled out only if it is smaller than that.",
    "A claim holds if it holds in all its comparisons, does not hold if it fails in one, and is not resolved otherwise.",
    "What the paper compares by one kind of evaluation is compared once more by multi-crop evaluation alone and by the"
    " centre crop, where these were computed. The paper's differences beside it are still those of its own evaluation.",
)
"""What these claims add to `paired.RULE`, for people."""


class Side(NamedTuple):
    """One side of a comparison: nets of the paper, whose posteriors are averaged, and how they are evaluated."""

    nets: tuple[paper.Net, ...]
    view: View = "dense"
    at: Literal["one", "several"] = "one"

    @property
    def published(self) -> float:
        """The paper's top-1 error, percent."""
        if len(self.nets) > 1:
            return next(f.errors.top1 for f in paper.TABLE_6 if (f.nets, f.view) == (self.nets, self.view))
        (net,) = self.nets
        if self.at == "one":
            return paper.TABLE_3[net].top1
        return paper.TABLE_5[net][self.view].top1 if net in paper.TABLE_5 else paper.TABLE_4[net].top1


@dataclass(frozen=True)
class Claim:
    """What the paper says of the first of each pair, beside the second."""

    text: str
    where: str
    """Section and tables."""
    kind: ClaimKind
    pairs: tuple[tuple[Side, Side], ...]

    @property
    def compares_views(self) -> bool:
        """Whether it is about the views themselves, and so cannot be checked in another one."""
        return len({side.view for pair in self.pairs for side in pair}) > 1


def _net(arch: str, train_scale: tuple[int, int] = S256) -> Side:
    return Side((paper.Net(arch, train_scale),))


def _seen(nets: Sequence[str], view: View) -> Side:
    """Nets with jittered S at several scales in a view."""
    return Side(tuple(paper.Net(arch, JITTERED) for arch in nets), view, "several")


CLAIMS = (
    Claim("LRN does not help", "section 4.1, Table 3", "no gain", ((_net("A-LRN"), _net("A")),)),
    Claim("deeper is better", "section 4.1, Table 3", "better", tuple((_net(deep), _net("A")) for deep in "DE")),
    Claim(
        "scale jitter in training beats a fixed scale", "section 4.1, Table 3", "better",
        tuple((_net(deep, JITTERED), _net(deep, fixed)) for deep in "DE" for fixed in (S256, S384)),
    ),
    Claim(
        "several test scales beat one", "section 4.2, Tables 3 and 4", "better",
        tuple((_seen(deep, "dense"), _net(deep, JITTERED)) for deep in "DE"),
    ),
    Claim(
        "dense and multi-crop together beat either", "section 4.3, Table 5", "better",
        tuple((_seen(deep, "both"), _seen(deep, view)) for deep in "DE" for view in ("dense", "crops")),
    ),
    Claim(
        "two nets beat the better one", "section 4.4, Tables 5 and 6", "better",
        tuple((_seen("DE", "both"), _seen(deep, "both")) for deep in "DE"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """A pair of a claim with our nets: one pair of means for each training."""

    first: str
    """In words, such as "D [37;73]"."""
    second: str
    published: float
    """The paper's difference of top-1 errors, points."""
    means: tuple[tuple[Mean, Mean], ...]

    @property
    def margin(self) -> float:
        """Points: a gain smaller than this counts as none. No larger than a gain that the paper reports."""
        return min(MARGIN, -self.published) if self.published < 0 else MARGIN

    @property
    def same_nets(self) -> bool:
        """Whether the second's nets are all among the first's: the trainings are the same."""
        return all(set(second.nets) <= set(first.nets) for first, second in self.means)


@dataclass(frozen=True)
class PlannedClaim:
    """A claim with the comparisons that our nets allow."""

    claim: Claim
    view: AnyView | None
    """In which both sides are evaluated in place of the claim's own views; None for these."""
    of: str
    """The kind of the nets, such as "32 px, linear head"; empty for the paper's."""
    comparisons: tuple[Comparison, ...]

    @property
    def text(self) -> str:
        """The claim; the view and the kind of nets where they are not the paper's."""
        text = self.claim.text + (f", {VIEW_NAMES[self.view]}" if self.view else "")
        return f"{text} ({self.of})" if self.of else text


@dataclass(frozen=True)
class CheckedClaim:
    """A claim, and the difference of each of its comparisons."""

    planned: PlannedClaim
    differences: tuple[Difference, ...]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Of each comparison."""
        claim, pairs = self.planned.claim, zip(self.planned.comparisons, self.differences, strict=True)
        return tuple(verdict(claim.kind, difference, comparison.margin) for comparison, difference in pairs)

    @property
    def verdict(self) -> Verdict:
        """Of the claim, by RULE."""
        found = set(self.verdicts)
        if found == {"holds"}:
            return "holds"
        return "does not hold" if "does not hold" in found else "not resolved"


def plan_claims(nets: Sequence[EvaluatedNet], num_classes: int) -> list[PlannedClaim]:
    """The claims that the posteriors of `nets` allow to check, for the paper's nets and each other kind of net."""
    planned = []
    for of, found in _by_kind(nets, num_classes):
        for claim in CLAIMS:
            views: tuple[AnyView | None, ...] = (None,) if claim.compares_views else (None, "crops", "center")
            for view in views:
                comparisons = tuple(filter(None, (_comparison(*pair, view, found) for pair in claim.pairs)))
                if comparisons:
                    planned.append(PlannedClaim(claim, view, of, comparisons))
    return planned


def check_claims(planned: Sequence[PlannedClaim], wrong: Callable[[Mean], NDArray[np.bool_]]) -> list[CheckedClaim]:
    """The difference of each comparison. `wrong`: of a mean, (N,) whether its first guess of each image is wrong."""
    checked = []
    for claim in planned:
        alike = [each for each in planned if (each.view, each.of) == (claim.view, claim.of)]
        noise = _training_noise(alike, wrong)
        checked.append(CheckedClaim(claim, tuple(_difference(comparison, noise, wrong) for comparison in claim.comparisons)))
    return checked


def means_of(planned: Sequence[PlannedClaim]) -> Iterator[Mean]:
    """All means that the claims compare."""
    for claim in planned:
        for comparison in claim.comparisons:
            for pair in comparison.means:
                yield from pair


def _by_kind(
    nets: Sequence[EvaluatedNet], num_classes: int
) -> Iterator[tuple[str, Mapping[paper.Net, Sequence[EvaluatedNet]]]]:
    repeated = by_paper_net(nets, num_classes)
    yield "", repeated
    kinds: dict[str, list[EvaluatedNet]] = {}
    for net in nets:
        if not any(net in of_paper for of_paper in repeated.values()):
            kinds.setdefault(net.kind or "others", []).append(net)
    for kind, of_kind in kinds.items():
        yield kind, by_counterpart(of_kind)


def _comparison(
    first: Side, second: Side, view: AnyView | None, found: Mapping[paper.Net, Sequence[EvaluatedNet]]
) -> Comparison | None:
    """The comparison of two sides in their own views, or both in `view`; None where a net or its posteriors are missing."""
    means = (means_of_trainings(side.nets, view or side.view, side.at, found) for side in (first, second))
    pairs = tuple(zip(*means, strict=False))
    if not pairs:
        return None
    names = _in_words(pairs[0][0], first, second), _in_words(pairs[0][1], second, first)
    return Comparison(*names, round(first.published - second.published, 1), pairs)


def _in_words(mean: Mean, side: Side, other: Side) -> str:
    """The nets of a side and, where the other side differs in them, its scales and its view."""
    words = f"{' + '.join(net.arch for net in mean.nets)} {scale_text(mean.nets[0].train_scale)}"
    if side.at != other.at:
        words += ", several scales" if side.at == "several" else ", one scale"
    return words + (f", {VIEW_NAMES[side.view]}" if side.view != other.view else "")


def _training_noise(planned: Sequence[PlannedClaim], wrong: Callable[[Mean], NDArray[np.bool_]]) -> TrainingNoise | None:
    """The noise of the trainings of nets of one kind, as their comparisons with other nets show it."""
    trainings: dict[Mean, tuple[Mean, ...]] = {}  # by the first training of a net, all that one of its comparisons has
    for comparison in (comparison for claim in planned for comparison in claim.comparisons if not comparison.same_nets):
        for means in zip(*comparison.means, strict=True):
            if len(means) > len(trainings.get(means[0], ())):
                trainings[means[0]] = means
    return training_noise([[100 * float(wrong(mean).mean()) for mean in means] for means in trainings.values()])


def _difference(
    comparison: Comparison, noise: TrainingNoise | None, wrong: Callable[[Mean], NDArray[np.bool_]]
) -> Difference:
    first, second = ({training: wrong(pair[side]) for training, pair in enumerate(comparison.means)} for side in (0, 1))
    found = paired_difference(first, second, SAME_NETS if comparison.same_nets else noise)
    assert found is not None, "every comparison has a training"
    return found
