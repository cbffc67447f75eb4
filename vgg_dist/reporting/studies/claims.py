"""The paper's claims about pairs of its nets (sections 2.3, 3.1 and 4.1; Table 3), and our differences beside its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vgg_dist import paper
from vgg_dist.reporting.paired import ClaimKind, Difference, Verdict, paired_difference, training_noise, verdict
from vgg_dist.reporting.studies.results import StudiedNet


@dataclass(frozen=True)
class Claim:
    """What the paper says of one net beside another."""

    text: str
    first: str
    """The net that the claim is of."""
    second: str
    """The net that it is compared with."""
    kind: ClaimKind
    says: str
    """The paper's own finding, in a sentence."""
    paper: float | None
    """The paper's difference of top-1 errors, first minus second, points; None: it gives no figures."""


def _difference(first: str, second: str) -> float:
    """The difference of two nets in Table 3, at S = 256."""
    errors = [paper.TABLE_3[paper.Net(arch, paper.S256)].top1 for arch in (first, second)]
    return round(errors[0] - errors[1], 1)


CLAIMS = (
    Claim(
        "LRN does not help", "A-LRN", "A", "no gain",
        "Local response normalisation does not improve on A: 29.7 against 29.6 % (section 4.1, Table 3).",
        _difference("A-LRN", "A"),
    ),
    Claim(
        "two 3x3 beat one 5x5", "B", "B-5x5", "better",
        "B with each pair of 3x3 convolutions replaced by one 5x5 has an error about 7 points higher, on a centre crop"
        " (section 4.1).",
        -7.0,
    ),
    Claim(
        "more non-linearity helps", "C", "B", "better",
        "C, which is B with three 1x1 convolutions more, is better than B: 28.1 against 28.7 % (section 4.1, Table 3).",
        _difference("C", "B"),
    ),
    Claim(
        "3x3 beats 1x1", "D", "C", "better",
        "D, which is C with its 1x1 convolutions made 3x3, is better than C: 27.0 against 28.1 % (section 4.1, Table 3).",
        _difference("D", "C"),
    ),
    Claim(
        "Glorot needs no start from A", "D-from-A", "D", "no gain",
        "Deep nets were started from A; after the submission, Glorot's initialisation was found to make that unnecessary"
        " (section 3.1; no figures).",
        None,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class CheckedClaim:
    """A claim and what came out; no difference where one of its nets is missing."""

    claim: Claim
    difference: Difference | None

    @property
    def verdict(self) -> Verdict | None:
        """By the rule of `paired.RULE`; None if the pair was not trained."""
        return None if self.difference is None else verdict(self.claim.kind, self.difference)


def check_claims(nets: Sequence[StudiedNet]) -> list[CheckedClaim]:
    """Every claim. Nets with batch norm take the place of those without it, except that of A beside A-LRN."""
    by_name = {net.name: net for net in nets}
    batch_norm = any(net.kind == "batch norm" for net in nets)
    pairs = []
    for claim in CLAIMS:
        if batch_norm and claim.first != "A-LRN":
            claim = replace(claim, first=with_batch_norm(claim.first), second=with_batch_norm(claim.second))
        pairs.append((claim, by_name.get(claim.first), by_name.get(claim.second)))
    compared = {net.name: net for _, *pair in pairs for net in pair if net is not None}
    noise = training_noise([[training.error(1) for training in net.trainings] for net in compared.values()])
    return [
        CheckedClaim(claim, paired_difference(first.wrong(1), second.wrong(1), noise) if first and second else None)
        for claim, first, second in pairs
    ]


def with_batch_norm(name: str) -> str:
    """The name of the same net with batch norm."""
    arch, start, shallow = name.partition("-from-")
    return f"{arch}-bn{start}{shallow}"
