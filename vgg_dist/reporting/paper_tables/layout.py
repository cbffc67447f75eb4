"""Lays out the paper's Tables 3 to 6: the rows of each, which of our nets belong in them, and how each is measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vgg_dist import paper
from vgg_dist.paper import AnyView, Errors, several_scales, single_scale
from vgg_dist.reporting.paper_tables.means import (
    EvaluatedNet,
    Mean,
    Scales,
    by_counterpart,
    by_paper_net,
    means_of_trainings,
)
from vgg_dist.reporting.paper_tables.table import EACH, Row, Table

VIEW_NAMES: dict[AnyView, str] = {
    "dense": "dense",
    "crops": "multi-crop",
    "both": "multi-crop & dense",
    "center": "centre crop",
}

MEASURED = {
    3: "Dense evaluation: the whole image, rescaled to smallest side Q, goes through the fully-convolutional net; the class"
    " score map is averaged over space, then comes the soft-max; posteriors are averaged over the image and its mirror"
    " image. Q is S, or the middle of its range for nets trained with scale jittering.",
    4: "Dense evaluation as in Table 3, posteriors averaged over three scales: S, and 32 pixels less and more (scaled with"
    " the net's input where that is not 224), or the ends and the middle of the range of S.",
    5: "Dense as in Table 4; multi-crop averages the posteriors of a 5 x 5 grid of crops and their mirror images, 50 a"
    " scale, over the same scales; multi-crop & dense is the mean of the two.",
    EACH: "Every net, scale and view by itself. The centre crop, without its mirror image, is what public training scripts"
    " report.",
    6: "The mean of the posteriors of several nets, each at its scales of Table 4. The submission is D and E at S = 256 and"
    " 384, C at the same, and D at [256;512].",
}
"""How each table's errors are measured."""

NOTES = {
    6: "On the test set the paper's top-5 errors are 7.3 (submission), 7.0 (D + E, dense) and 6.8 (D + E, multi-crop &"
    " dense). Top-5 errors of others, from its Table 7: "
    + ", ".join(f"{other.method} {other.top5} ({other.nets})" for other in paper.TABLE_7_OTHERS)
    + ".",
}


def plan_tables(nets: Sequence[EvaluatedNet], num_classes: int) -> list[Table]:
    """The tables, each row with the mean of posteriors that it needs; nothing is measured yet.

    A row of the paper that several nets repeat becomes several rows. A net that is not in the paper gets a row wherever its
    posteriors were computed: below the paper's rows, or above them where none of those was run.
    """
    repeated = by_paper_net(nets, num_classes)
    per_net = ("net", "S", "Q")
    plan = {
        3: ("one test scale", per_net, _net_rows(paper.TABLE_3, nets, repeated, "one")),
        4: ("several test scales", per_net, _net_rows(paper.TABLE_4, nets, repeated, "several")),
        5: ("dense and multi-crop", (*per_net, "view"), _view_rows(nets, repeated)),
        6: ("fusion of nets", ("nets", "view"), _fusion_rows(nets, repeated)),
        EACH: ("one by one", (*per_net, "view"), _rows_one_by_one(nets)),
    }
    return [
        Table(
            number=number,
            title=title,
            measured=MEASURED[number],
            headings=headings,
            rows=_run_first(rows),
            note=NOTES.get(number, ""),
        )
        for number, (title, headings, rows) in plan.items()
    ]


def _run_first(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    if any(row.paper and row.mean for row in rows):
        return rows
    return tuple(sorted(rows, key=lambda row: row.mean is None))


def scale_text(train_scale: tuple[int, int] | None) -> str:
    """S as the paper writes it: 256, or [256;512]; a question mark if it is not known."""
    if train_scale is None:
        return "?"
    low, high = train_scale
    return str(low) if low == high else f"[{low};{high}]"


def metric_name(text: str) -> str:
    """A part of a metric's name: what MLflow does not allow becomes an underscore."""
    return re.sub(r"[^A-Za-z0-9_\-]", "_", text)[:100] or "_"


def _net_key(net: paper.Net) -> str:
    low, high = net.train_scale
    return f"{net.arch}_{low}" if low == high else f"{net.arch}_{low}-{high}"


def _net_cells(arch: str, train_scale: tuple[int, int] | None, image_size: int, at: Scales) -> tuple[str, str, str]:
    if isinstance(at, int) or train_scale is None:
        return arch, scale_text(train_scale), str(at)
    scales = several_scales(train_scale, image_size) if at == "several" else (single_scale(train_scale),)
    return arch, scale_text(train_scale), ", ".join(map(str, scales))


def _beside(key: str, cells: tuple[str, ...], errors: Errors, means: list[Mean], suffix: str = "") -> list[Row]:
    """The rows for one row of the paper: one for each mean that repeats it and is available, or one that was not run."""
    means = [mean for mean in means if mean.available]
    if len(means) < 2:
        return [Row(cells=cells, metric=key + suffix, paper=errors, mean=means[0] if means else None)]
    return [
        Row(cells=cells, metric=f"{key}_{metric_name(mean.nets[0].name)}{suffix}", paper=errors, mean=mean) for mean in means
    ]


def _net_rows(
    published: Mapping[paper.Net, Errors],
    nets: Sequence[EvaluatedNet],
    repeated: Mapping[paper.Net, list[EvaluatedNet]],
    at: Scales,
) -> tuple[Row, ...]:
    rows: list[Row] = []
    placed: set[EvaluatedNet] = set()
    for published_net, errors in published.items():
        means = [Mean((net,), "dense", at) for net in repeated.get(published_net, [])]
        placed.update(mean.nets[0] for mean in means)
        cells = _net_cells(*published_net, paper.IMAGE_SIZE, at)
        rows += _beside(_net_key(published_net), cells, errors, means)
    for net in nets:
        mean = Mean((net,), "dense", at)
        if net not in placed and mean.available:
            cells = _net_cells(net.label, net.train_scale, net.image_size, at)
            rows.append(Row(cells=cells, metric=metric_name(net.name), paper=None, mean=mean))
    return tuple(rows)


def _view_rows(nets: Sequence[EvaluatedNet], repeated: Mapping[paper.Net, list[EvaluatedNet]]) -> tuple[Row, ...]:
    rows: list[Row] = []
    placed: set[EvaluatedNet] = set()
    for published_net, of_view in paper.TABLE_5.items():
        candidates = [
            net
            for net in repeated.get(published_net, [])
            if any(Mean((net,), view, "several").available for view in paper.VIEWS)
        ]
        placed.update(candidates)
        options: list[EvaluatedNet | None] = [*candidates] or [None]
        for net in options:
            key = _net_key(published_net) + (f"_{metric_name(net.name)}" if net and len(candidates) > 1 else "")
            for view, errors in of_view.items():
                cells = (*_net_cells(*published_net, paper.IMAGE_SIZE, "several"), VIEW_NAMES[view])
                means = [Mean((net,), view, "several")] if net else []
                rows += _beside(key, cells, errors, means, suffix=f"/{view}")
    for net in nets:
        # Without crops there is nothing to compare: dense alone is in Table 4.
        if net in placed or not Mean((net,), "crops", "several").available:
            continue
        for view in paper.VIEWS:
            if (mean := Mean((net,), view, "several")).available:
                cells = (*_net_cells(net.label, net.train_scale, net.image_size, "several"), VIEW_NAMES[view])
                rows.append(Row(cells=cells, metric=f"{metric_name(net.name)}/{view}", paper=None, mean=mean))
    return tuple(rows)


def _fusion_rows(nets: Sequence[EvaluatedNet], repeated: Mapping[paper.Net, list[EvaluatedNet]]) -> tuple[Row, ...]:
    """The paper's fusions (its nets or, below, our nets of another kind in their place), and the fusion of all our nets.

    Of nets that were trained several times there is one fusion for each training.
    """
    rows: list[Row] = []
    for fusion in paper.TABLE_6:
        name = "submission, 7 nets" if fusion.nets == paper.SUBMISSION else "D + E, [256;512]"
        cells = (name, VIEW_NAMES[fusion.view])
        means = means_of_trainings(fusion.nets, fusion.view, "several", repeated)
        rows += _beside(fusion.name, cells, fusion.errors, means, suffix=f"/{fusion.view}")
    kinds: dict[str, list[EvaluatedNet]] = {}
    for net in nets:
        if not any(net in of_paper for of_paper in repeated.values()):
            kinds.setdefault(net.kind, []).append(net)
    for kind, of_kind in kinds.items():
        counterparts = by_counterpart(of_kind)
        for fusion in paper.TABLE_6:
            means = means_of_trainings(fusion.nets, fusion.view, "several", counterparts)
            for mean in means:
                scales = scale_text(mean.nets[0].train_scale)
                name = "as the submission, 7 nets" if fusion.nets == paper.SUBMISSION else f"D + E, {scales}"
                metric = f"{fusion.name.partition('_256')[0]}_{metric_name(kind or 'others')}"
                metric += f"_{metric_name(mean.nets[0].name)}" if len(means) > 1 else ""
                cells = (", ".join(filter(None, [name, kind])), VIEW_NAMES[fusion.view])
                rows.append(Row(cells=cells, metric=f"{metric}/{fusion.view}", paper=None, mean=mean))
    placed = {(frozenset(row.nets), row.mean.view) for row in rows if row.mean}
    for view in paper.VIEWS if len(nets) > 1 else ():
        mean = Mean(tuple(nets), view, "several")
        if mean.available and (frozenset(net.name for net in nets), view) not in placed:
            rows.append(Row(cells=(f"all {len(nets)} nets", VIEW_NAMES[view]), metric=f"all/{view}", paper=None, mean=mean))
    return tuple(rows)


def _rows_one_by_one(nets: Sequence[EvaluatedNet]) -> tuple[Row, ...]:
    """Each net's posteriors at each scale in each view."""
    rows = []
    for net in nets:
        for view, scale in sorted(net.available, key=lambda each: (list(VIEW_NAMES).index(each[0]), each[1])):
            cells = (*_net_cells(net.label, net.train_scale, net.image_size, scale), VIEW_NAMES[view])
            metric = f"{metric_name(net.name)}/{view}_{scale}"
            rows.append(Row(cells=cells, metric=metric, paper=None, mean=Mean((net,), view, scale)))
    return tuple(rows)
