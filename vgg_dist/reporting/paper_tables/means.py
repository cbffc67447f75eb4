"""The evaluated nets, and the means of their posteriors: every row of a table is the error of one, computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.progress import Progress
from vgg_dist import paper
from vgg_dist.paper import AnyView, Errors, several_scales, single_scale
from vgg_dist.reporting.paper_tables.errors import guess_errors, mean_posteriors, top_guesses

Scales = Literal["one", "several"] | int


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluatedNet:
    """A trained net, and the posteriors that were computed with it."""

    name: str
    """Of the run or the file; no two nets of a report have the same."""
    arch: str
    batch_norm: bool
    image_size: int
    train_scale: tuple[int, int] | None  # S; None: not known
    head: str = "fc"
    width: float = 1.0
    available: frozenset[tuple[AnyView, int]]
    """(view, Q) for which there are posteriors; the paper's tables use the views "dense" and "crops"."""
    posteriors: Callable[[AnyView, int], NDArray[np.float32]]
    """(view, Q) to the posteriors of all images: (N, num_classes)."""

    @property
    def kind(self) -> str:
        """How the net differs from the paper's, such as "32 px, batch norm"; only nets of one kind are fused."""
        extras = [f"{self.image_size} px"] if self.image_size != paper.IMAGE_SIZE else []
        extras += ["batch norm"] if self.batch_norm else []
        extras += [f"{self.head} head"] if self.head != "fc" else []
        extras += [f"width {self.width:g}"] if self.width != 1 else []
        return ", ".join(extras)

    @property
    def label(self) -> str:
        """The paper's name of the net, followed by its kind."""
        return f"{self.arch}, {self.kind}" if self.kind else self.arch

    def as_in_paper(self, num_classes: int) -> paper.Net | None:
        """The net of the paper's tables that this one repeats; None if it repeats none."""
        same = not self.batch_norm and (self.head, self.width, self.image_size) == ("fc", 1, paper.IMAGE_SIZE)
        if not same or num_classes != paper.NUM_CLASSES or self.train_scale is None:
            return None
        net = paper.Net(self.arch, self.train_scale)
        return net if net in paper.TABLE_3 else None


@dataclass(frozen=True)
class Mean:
    """A mean of posteriors: over scales, then over the views if they are "both", then over nets."""

    nets: tuple[EvaluatedNet, ...]
    view: AnyView
    at: Scales
    """The test scales: the paper's one or several for each net, or this Q."""

    def scales(self, net: EvaluatedNet) -> tuple[int, ...]:
        """The test scales Q of a net in this mean; none if the net's S, from which they follow, is not known."""
        if isinstance(self.at, int):
            return (self.at,)
        if net.train_scale is None:
            return ()
        return several_scales(net.train_scale, net.image_size) if self.at == "several" else (single_scale(net.train_scale),)

    @property
    def available(self) -> bool:
        """Whether all of its posteriors were computed."""
        views: tuple[AnyView, ...] = ("dense", "crops") if self.view == "both" else (self.view,)
        wanted = [[(view, Q) for view in views for Q in self.scales(net)] for net in self.nets]
        return all(of_net and net.available.issuperset(of_net) for net, of_net in zip(self.nets, wanted, strict=True))


@dataclass(frozen=True, eq=False)
class Measurement:
    """The guesses of a mean of posteriors, and its errors."""

    guesses: NDArray[np.int32]
    """(N, up to 5) classes, the most probable first."""
    confidences: NDArray[np.float32]
    """(N, up to 5): the posterior of each guess, 0 to 1."""
    errors: Errors


def measure(means: Iterable[Mean], labels: NDArray[np.int64], num_classes: int) -> dict[Mean, Measurement]:
    """Each distinct mean, measured once; at most four arrays of (N, num_classes) are held at a time.

    ValueError, one line that names the net, for posteriors that are not those of len(labels) images and num_classes classes.
    """
    distinct = list(dict.fromkeys(means))
    groups: dict[tuple[tuple[EvaluatedNet, ...], Scales], list[AnyView]] = {}
    for mean in distinct:
        groups.setdefault((mean.nets, mean.at), []).append(mean.view)
    found: dict[Mean, Measurement] = {}
    with Progress(total=len(distinct), desc="report", unit="mean", leave=False) as progress:
        for (nets, at), views in groups.items():
            for view, posteriors in _of_group(nets, at, views, (len(labels), num_classes)):
                guesses = top_guesses(posteriors)
                confidences = np.take_along_axis(posteriors, guesses, axis=1)
                found[Mean(nets, view, at)] = Measurement(guesses, confidences, guess_errors(guesses, labels))
                progress.update()
    return found


def _of_group(
    nets: tuple[EvaluatedNet, ...], at: Scales, views: list[AnyView], shape: tuple[int, int]
) -> Iterator[tuple[AnyView, NDArray[np.float32]]]:
    """The means of the same nets in several views; both is made of the two before it, without reading a file again."""
    of_view: dict[AnyView, NDArray[np.float32]] = {}
    every: tuple[AnyView, ...] = (*paper.VIEWS, "center")
    for view in every:
        if view == "both":
            if "both" in views:
                yield view, mean_posteriors(of_view.values())
        elif view in views or ("both" in views and view != "center"):
            mean = Mean(nets, view, at)
            of_nets = (mean_posteriors(_read(net, view, Q, shape) for Q in mean.scales(net)) for net in nets)
            of_view[view] = next(of_nets) if len(nets) == 1 else mean_posteriors(of_nets)
            if view in views:
                yield view, of_view[view]
            if "both" not in views:
                del of_view[view]


def _read(net: EvaluatedNet, view: AnyView, Q: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    posteriors = net.posteriors(view, Q)
    if posteriors.shape != shape:
        raise ValueError(
            f"net {net.name}: its {view} posteriors at Q={Q} have the shape {posteriors.shape},"
            f" not {shape}, {shape[0]} images of {shape[1]} classes"
        )
    return posteriors


def check_names(nets: Iterable[EvaluatedNet]) -> None:
    """ValueError where two nets have one name, since the report could not tell them apart."""
    names = [net.name for net in nets]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two nets are named {name}: give each a name of its own")


def by_paper_net(nets: Iterable[EvaluatedNet], num_classes: int) -> Mapping[paper.Net, list[EvaluatedNet]]:
    """From each net of the paper to those that repeat it."""
    found: dict[paper.Net, list[EvaluatedNet]] = {}
    for net in nets:
        if repeated := net.as_in_paper(num_classes):
            found.setdefault(repeated, []).append(net)
    return found


def by_counterpart(nets: Iterable[EvaluatedNet]) -> Mapping[paper.Net, list[EvaluatedNet]]:
    """From each net of the paper to the nets, all of one kind, that take its place at other scales.

    The smallest fixed S stands for 256, a second one for 384, a range for [256;512]. Empty for more scales than that.
    """
    scales = sorted({net.train_scale for net in nets if net.train_scale})
    fixed = [scale for scale in scales if scale[0] == scale[1]]
    ranges = [scale for scale in scales if scale[0] < scale[1]]
    if len(fixed) > 2 or len(ranges) > 1:
        return {}
    stands_for = dict(zip(fixed, (paper.S256, paper.S384), strict=False)) | dict.fromkeys(ranges, paper.JITTERED)
    found: dict[paper.Net, list[EvaluatedNet]] = {}
    for net in nets:
        if net.train_scale:
            found.setdefault(paper.Net(net.arch, stands_for[net.train_scale]), []).append(net)
    return found


def means_of_trainings(
    members: Sequence[paper.Net], view: AnyView, at: Scales, ours: Mapping[paper.Net, Sequence[EvaluatedNet]]
) -> list[Mean]:
    """The mean of the first training of each member, that of the second of each, and so on.

    Only trainings whose posteriors are there count; empty if a member has none.
    """
    ready = [[net for net in ours.get(member, ()) if Mean((net,), view, at).available] for member in members]
    return [Mean(nets, view, at) for nets in zip(*ready, strict=False)]
