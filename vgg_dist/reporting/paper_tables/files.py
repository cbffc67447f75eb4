"""The report for other programs: tables as CSV and LaTeX, the guesses for every image and the errors by class as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from vgg_dist.paper import Errors
from vgg_dist.reporting.paper_tables.errors import TOP, tops
from vgg_dist.reporting.paper_tables.means import Measurement
from vgg_dist.reporting.paper_tables.mistakes import worst_first
from vgg_dist.reporting.paper_tables.table import Row, Table
from vgg_dist.reporting.paper_tables.text import GROUPS, columns_of_errors, error_cells, top_names
from vgg_dist.reporting.text import csv_text, latex


def table_csv(table: Table, num_classes: int) -> str:
    """All rows of a table, errors in percent; a cell is empty where a row is not the paper's, or was not run."""
    names = top_names(num_classes)
    headings = [*table.headings, *(f"{group} {name}" for group in GROUPS for name in names), "run"]

    def errors(row: Row) -> Iterable[str]:
        for of_group, digits in ((row.paper, 1), (row.ours, 4), (row.difference, 4)):
            for k in tops(num_classes):
                yield "" if of_group is None else f"{of_group[k]:.{digits}f}"

    return csv_text(headings, ([*row.cells, *errors(row), ", ".join(row.nets)] for row in table.rows))


def table_latex(table: Table, num_classes: int, compared: bool) -> str:
    """A table for a paper, for the package booktabs; the caption says how it was measured.

    `compared`: all rows, with the paper's errors and the difference; otherwise our rows and errors alone.
    """
    groups = GROUPS if compared else ("ours",)
    names = top_names(num_classes)
    rows = [row for row in table.rows if compared or row.ours]
    texts = len(table.headings)
    spans, rules = [], []
    for place, group in enumerate(groups):
        first = texts + 1 + place * len(names)
        spans.append(rf"\multicolumn{{{len(names)}}}{{c}}{{{group}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + len(names) - 1}}}")
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(table.title.capitalize())}. Errors in percent. {latex(table.measured)}}}",
        rf"\label{{tab:{table.key}}}",
        rf"\begin{{tabular}}{{{'l' * texts}{'r' * len(groups) * len(names)}}}",
        r"\toprule",
        "& " * texts + " & ".join(spans) + r" \\",
        " ".join(rules),
        " & ".join([*map(latex, table.headings), *names * len(groups)]) + r" \\",
        r"\midrule",
    ]
    for row in rows:
        cells = [latex(cell) for cell in row.cells]
        errors = (_minus(cell) for cell in columns_of_errors(error_cells(row, num_classes), groups, num_classes))
        lines.append(" & ".join([*cells, *errors]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _minus(cell: str) -> str:
    """A number with a true minus sign; "-" and "not run" become a dash."""
    if not any(map(str.isdigit, cell)):
        return "--"
    return f"${cell}$" if cell[0] in "+-" else cell


def predictions_csv(
    measurement: Measurement,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    file_name: Callable[[int], str],
) -> str:
    """A line for each image, the most confident mistakes first: file, truth, whether the first guess is right, five guesses.

    Each guess has its confidence (posterior, 0 to 1) beside it. `file_name`: of a row of the posteriors.
    """
    numbers = range(1, measurement.guesses.shape[1] + 1)
    headings = ["file", "truth", "right", *(f"{what} {k}" for k in numbers for what in ("guess", "confidence"))]

    def lines() -> Iterable[Sequence[object]]:
        for image in map(int, worst_first(measurement, labels)):
            guesses, confidences = measurement.guesses[image].tolist(), measurement.confidences[image].tolist()
            pairs = zip(guesses, confidences, strict=True)
            told = [cell for guess, confidence in pairs for cell in (class_names[guess], f"{confidence:.6f}")]
            truth = int(labels[image])
            yield [file_name(image), class_names[truth], "yes" if guesses[0] == truth else "no", *told]

    return csv_text(headings, lines())


def classes_csv(measurement: Measurement, labels: NDArray[np.int64], class_names: Sequence[str]) -> str:
    """A line for each class that has images, in the order of classes: its images, mistakes and errors in percent."""
    num_classes = len(class_names)
    images = np.bincount(labels, minlength=num_classes)
    hits = measurement.guesses == labels[:, None]
    wrong = [np.bincount(labels[~hits[:, :k].any(axis=1)], minlength=num_classes) for k in (1, TOP)]
    shown = tops(num_classes)
    headings = ["class", "images"]
    for k in shown:
        headings += [("wrong first guess", "all five wrong")[k], f"{top_names(num_classes)[k]} error"]
    rows = []
    for c in np.flatnonzero(images).tolist():
        counts = Errors(*(float(of_top[c]) for of_top in wrong))
        told = (cell for k in shown for cell in (f"{counts[k]:.0f}", f"{100 * counts[k] / images[c]:.2f}"))
        rows.append([class_names[c], int(images[c]), *told])
    return csv_text(headings, rows)
