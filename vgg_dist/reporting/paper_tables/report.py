"""Building the report, and the report itself: tables, metrics, and the three forms it is read in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vgg_dist import paper
from vgg_dist.reporting.paper_tables import html, text
from vgg_dist.reporting.paper_tables.errors import TOP, tops
from vgg_dist.reporting.paper_tables.layout import Row, Table, plan_tables
from vgg_dist.reporting.paper_tables.means import EvaluatedNet, Measurement, check_names, measure
from vgg_dist.reporting.paper_tables.mistakes import Mistakes, find_mistakes


@dataclass(frozen=True, kw_only=True)
class Report:
    """The paper's tables beside ours."""

    tables: tuple[Table, ...]
    images: int
    class_names: tuple[str, ...]
    mistakes: Mistakes | None
    """Of what has the lowest top-5 error, or for five classes or fewer top-1 error; None if nothing was run."""
    checkpoints: tuple[str, ...] = ()
    """Of which of its run's checkpoints each net is, in words."""

    @property
    def counted(self) -> str:
        """Which nets and how many images the errors are of, in words."""
        line = f"{self.images:,} images, each counted once."
        if self.images != paper.VALIDATION_IMAGES and any(row.difference for table in self.tables for row in table.rows):
            error = 100 * float(np.sqrt(0.08 * 0.92 / self.images))
            line += (
                f" The paper's errors are of the {paper.VALIDATION_IMAGES:,} of the ILSVRC-2012 validation set;"
                f" over {self.images:,} images an error of 8 % has a standard error of {error:.1f} points."
            )
        if self.checkpoints:
            line += f" The nets: {'; '.join(self.checkpoints)}."
        return line

    @property
    def metrics(self) -> dict[str, float]:
        """Every error of ours by name, such as `table4/D_256-512/top5_error`, in percent; and the number of images.

        No top-5 errors for five classes or fewer.
        """
        found: dict[str, float] = {"images": float(self.images)}
        for table in self.tables:
            for row in table.rows:
                if row.ours is None:
                    continue
                name = f"{table.key}/{row.metric}"
                while f"{name}/top1_error" in found:  # names of runs that MLflow could not tell apart
                    name += "_"
                found |= {f"{name}/top{(1, TOP)[k]}_error": row.ours[k] for k in tops(len(self.class_names))}
        return found

    def to_text(self) -> str:
        """For a terminal."""
        return text.to_text(self.tables, self.counted, self.mistakes, self.class_names)

    def to_markdown(self) -> str:
        """For a document."""
        return text.to_markdown(self.tables, self.counted, self.mistakes, self.class_names)

    def to_html(self, picture: Callable[[int], bytes] | None = None) -> str:
        """One self-contained page. `picture`: the encoded image of a row, for examples of what goes wrong."""
        return html.to_html(self.tables, self.counted, self.mistakes, self.class_names, picture)


def build_report(
    nets: Sequence[EvaluatedNet],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    checkpoints: Sequence[str] = (),
) -> Report:
    """Measures all that the posteriors of `nets` allow. `labels` (N,): the class of each row of posteriors.

    `checkpoints`: of which of its run's checkpoints each net is, in words.

    The paper's errors stand beside a net that repeats one of its nets: FC layers, no batch norm, 224 pixels, 1000 classes.
    ValueError, one line, for no nets, equal names, labels that are not classes, or posteriors of another number of images
    or classes.
    """
    num_classes = len(class_names)
    if not nets:
        raise ValueError("a report needs at least one evaluated net")
    check_names(nets)
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels) or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"a report needs the label of every image, 0 to {num_classes - 1}; these are {labels.size},"
            + (f" from {labels.min()} to {labels.max()}" if labels.size else "")
        )
    plan = plan_tables(nets, num_classes)
    measured = measure((row.mean for table in plan for row in table.rows if row.mean), labels, num_classes)
    tables = [
        dataclasses.replace(
            table,
            rows=tuple(dataclasses.replace(row, measurement=measured[row.mean]) if row.mean else row for row in table.rows),
        )
        for table in plan
    ]
    return Report(
        tables=tuple(tables),
        images=len(labels),
        class_names=tuple(class_names),
        mistakes=_mistakes_of_best(tables, labels, num_classes),
        checkpoints=tuple(checkpoints),
    )


def _mistakes_of_best(tables: Sequence[Table], labels: NDArray[np.int64], num_classes: int) -> Mistakes | None:
    def rank(measurement: Measurement) -> list[float]:
        return [measurement.errors[k] for k in reversed(tops(num_classes))]

    best: tuple[Table, Row, Measurement] | None = None
    for table in tables:
        for row in table.rows:
            if row.measurement and (best is None or rank(row.measurement) < rank(best[2])):
                best = table, row, row.measurement
    if best is None:
        return None
    table, row, measurement = best
    what = f"{table.name}: {table.label(row)} (run {', '.join(row.nets)})"
    return find_mistakes(what, measurement, labels, num_classes)
