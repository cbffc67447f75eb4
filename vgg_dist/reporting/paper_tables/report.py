"""Building the report; the report as tables, metrics, text, Markdown, HTML and files for other programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vgg_dist import paper
from vgg_dist.reporting.paper_tables import claims_table, html, text
from vgg_dist.reporting.paper_tables.claims import CheckedClaim, check_claims, means_of, plan_claims
from vgg_dist.reporting.paper_tables.errors import TOP, tops
from vgg_dist.reporting.paper_tables.files import classes_csv, predictions_csv, table_csv, table_latex
from vgg_dist.reporting.paper_tables.layout import plan_tables
from vgg_dist.reporting.paper_tables.means import EvaluatedNet, Measurement, check_names, measure
from vgg_dist.reporting.paper_tables.mistakes import Mistakes, find_mistakes
from vgg_dist.reporting.paper_tables.table import EACH, Row, Table
from vgg_dist.reporting.text import csv_text


def _number(image: int) -> str:
    return f"image {image}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """Our errors, beside the paper's where a net of ours repeats one of its nets; and what goes wrong."""

    tables: tuple[Table, ...]
    labels: NDArray[np.int64]
    """(N,): the class of each image."""
    class_names: tuple[str, ...]
    best: Measurement | None
    """With the lowest top-5 error (top-1 error for five classes or fewer); None if nothing was run."""
    mistakes: Mistakes | None
    """Those of `best`."""
    claims: tuple[CheckedClaim, ...] = ()
    """The paper's claims, as far as the nets allow to check them."""
    checkpoints: tuple[str, ...] = ()
    """For each net, which checkpoint of its run it is, in words."""
    file_name: Callable[[int], str] = _number
    """Of the image of a row of `labels`."""

    @property
    def images(self) -> int:
        """How many images were evaluated."""
        return len(self.labels)

    @property
    def counted(self) -> str:
        """How many images and which checkpoints the errors are of, in words."""
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
        """What the command prints."""
        return text.to_text(self.tables, self.claims, self.counted, self.mistakes, self.class_names, self.file_name)

    def to_markdown(self) -> str:
        """For a document."""
        return text.to_markdown(self.tables, self.claims, self.counted, self.mistakes, self.class_names, self.file_name)

    def to_html(self, picture: Callable[[int], bytes] | None = None) -> str:
        """One self-contained page. `picture`: the encoded image of a row, to show what goes wrong; None for no pictures."""
        return html.to_html(self.tables, self.claims, self.counted, self.mistakes, self.class_names, self.file_name, picture)

    def files(self, picture: Callable[[int], bytes] | None = None) -> dict[str, str]:
        """Every file of the report by name: the page, Markdown, and the tables, images and classes for other programs.

        `picture` as in `to_html`. A table without a row that was run has no LaTeX, unless the paper's is beside ours.
        """
        num_classes, compared = len(self.class_names), text.is_compared(self.tables)
        found = {"report.html": self.to_html(picture), "report.md": self.to_markdown()}
        for table in self.tables:
            found[f"{table.key}.csv"] = table_csv(table, num_classes)
            if compared or any(row.ours for row in table.rows):
                found[f"{table.key}.tex"] = table_latex(table, num_classes, compared)
        if self.claims:
            found["claims.csv"] = csv_text(*claims_table.data_rows(self.claims))
        if self.best is not None:
            found["predictions.csv"] = predictions_csv(self.best, self.labels, self.class_names, self.file_name)
            found["classes.csv"] = classes_csv(self.best, self.labels, self.class_names)
        return found


def build_report(
    nets: Sequence[EvaluatedNet],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    checkpoints: Sequence[str] = (),
    file_name: Callable[[int], str] = _number,
) -> Report:
    """Measures all that the posteriors of `nets` allow. `labels` (N,): the class of each row of posteriors.

    `checkpoints`: for each net, which checkpoint of its run it is, in words. `file_name`: of the image of a row.

    A net is compared with the paper's if it has FC layers, no batch norm, 224 pixels, 1000 classes, and the same S.
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
    claims = plan_claims(nets, num_classes)
    means = [row.mean for table in plan for row in table.rows if row.mean]
    measured = measure([*means, *means_of(claims)], labels, num_classes)
    tables = [
        dataclasses.replace(
            table,
            rows=tuple(dataclasses.replace(row, measurement=measured[row.mean]) if row.mean else row for row in table.rows),
        )
        for table in plan
    ]
    best = _best(tables, num_classes)
    return Report(
        tables=tuple(tables),
        labels=labels,
        class_names=tuple(class_names),
        best=best[1] if best else None,
        mistakes=find_mistakes(*best, labels, num_classes) if best else None,
        claims=tuple(check_claims(claims, lambda mean: measured[mean].guesses[:, 0] != labels)),
        checkpoints=tuple(checkpoints),
        file_name=file_name,
    )


def _best(tables: Sequence[Table], num_classes: int) -> tuple[str, Measurement] | None:
    """The row with the lowest errors, in words and its measurement; the first of equals."""

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
    where = "" if table.number == EACH else f"{table.name}: "
    return f"{where}{table.label(row)} (run {', '.join(row.nets)})", measurement
