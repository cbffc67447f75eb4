"""The report as one HTML page (templates/evaluation.html): what the template is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from vgg_dist.reporting.html import render
from vgg_dist.reporting.paired import RULE as PAIRED_RULE
from vgg_dist.reporting.paper_tables import claims_table
from vgg_dist.reporting.paper_tables.claims import RULE, CheckedClaim
from vgg_dist.reporting.paper_tables.mistakes import FEW_CLASSES, Example, Mistakes, WorstImage
from vgg_dist.reporting.paper_tables.table import Row, Table
from vgg_dist.reporting.paper_tables.text import (
    GROUPS,
    LEGEND,
    NOT_RUN,
    NOT_THERE,
    OWN_LEGEND,
    PAIR_HEADINGS,
    columns_of_errors,
    error_cells,
    hardest_cells,
    hardest_headings,
    is_compared,
    mistakes_line,
    pair_cells,
    title,
    top_names,
)
from vgg_dist.reporting.paper_tables.thumbnails import thumbnail

Picture = Callable[[int], bytes]
Context = dict[str, Any]

PAPER_ROUNDING = 0.05  # points: the paper gives one digit; a smaller difference is none
MOST_COLOUR = 0.6  # opacity of a cell of the confusion matrix that has all of its row


def to_html(
    tables: Sequence[Table],
    claims: Sequence[CheckedClaim],
    counted: str,
    mistakes: Mistakes | None,
    class_names: Sequence[str],
    file_name: Callable[[int], str],
    picture: Picture | None,
) -> str:
    """The page. `file_name` and `picture`: of a row of posteriors, its name and its encoded image (None: no pictures).

    Beside the paper's errors the tables come first. Where there is none to compare with, as with other data than ImageNet,
    the mistakes come first, and the paper's tables last, folded.
    """
    num_classes, compared = len(class_names), is_compared(tables)
    shown = [_table(table, num_classes, compared) for table in tables]
    checked = _claims(claims)
    papers = [] if compared else [table for table in shown if table["folded"]["rows"]]
    if not compared:
        shown = [table | {"folded": {"rows": []}, "note": ""} for table in shown if table["shown"]["rows"]]
    told = _mistakes(mistakes, class_names, file_name, picture) if mistakes else None
    links = [{"anchor": "claims", "name": "The paper's claims"}] * bool(checked)
    links += [{"anchor": table["key"], "name": table["name"]} for table in shown]
    if told:
        own = [("worst", "Worst mistakes")] + [("matrix", "Confusion matrix")] * bool(told["confusion"])
        if told["worst"]:
            own += [("hardest", told["hardest_title"]), ("confused", "Most confused pairs")]
        sections = [{"anchor": anchor, "name": name} for anchor, name in own]
        links = links + sections if compared else sections + links
    if papers:
        links.append({"anchor": "paper", "name": "The paper's tables"})
    return render(
        "evaluation.html",
        title=title(compared),
        counted=counted,
        legend=LEGEND if compared else OWN_LEGEND,
        compared=compared,
        links=links,
        tables=shown,
        claims=checked,
        papers=papers,
        mistakes=told,
        class_names=class_names,
        with_pictures=picture is not None,
    )


def _claims(claims: Sequence[CheckedClaim]) -> Context | None:
    """The claims' table and chart; None where there is none to check."""
    if not claims:
        return None
    headings, *rows = (
        [(text, column not in claims_table.LEFT) for column, text in enumerate(row)]
        for row in (claims_table.HEADINGS, *claims_table.cells(claims))
    )
    return {
        "headings": headings,
        "rows": rows,
        "chart": claims_table.chart(claims),
        "rule": (*PAIRED_RULE, *RULE),
        "sources": [(each.planned.text, each.planned.claim.where) for each in claims],
    }


def _table(table: Table, num_classes: int, compared: bool) -> Context:
    """A table's rows that were run, and apart from them, to be folded, those of the paper that were not."""
    groups = GROUPS if compared and any(row.paper for row in table.rows) else ("ours",)
    common = {"headings": table.headings, "tops": top_names(num_classes)}
    run = [_row(row, groups, num_classes) for row in table.rows if row.ours]
    missing = [_row(row, ("paper",), num_classes) for row in table.rows if not row.ours]
    return {
        "key": table.key,
        "name": table.name,
        "title": table.title,
        "measured": table.measured,
        "note": table.note,
        "shown": common | {"groups": groups, "with_runs": True, "rows": run},
        "folded": common | {"groups": ("paper",), "with_runs": False, "rows": missing},
    }


def _row(row: Row, groups: Sequence[str], num_classes: int) -> Context:
    width = len(top_names(num_classes))
    differences = (*(None,) * (2 * width), *(row.difference or (None, None))[:width])
    errors = []
    for column, (text, difference) in enumerate(zip(error_cells(row, num_classes), differences, strict=True)):
        kinds = ["number"] + ["start"] * (column % width == 0) + ["ours"] * (column // width == 1 and row.ours is not None)
        if text in (NOT_RUN, NOT_THERE):
            kinds.append("none")
        elif difference is not None and abs(round(difference, 2)) > PAPER_ROUNDING:
            kinds.append("worse" if difference > 0 else "better")
        errors.append({"kinds": " ".join(kinds), "text": text.replace("-", "−") if difference is not None else text})
    wanted = columns_of_errors([str(column) for column in range(len(errors))], groups, num_classes)
    return {
        "missing": row.ours is None,
        "cells": row.cells,
        "errors": [errors[int(column)] for column in wanted],
        "nets": ", ".join(row.nets),
    }


class _Shown:
    """Images as the template is given them; each is read and made small once, though it may be in three sections."""

    def __init__(self, class_names: Sequence[str], file_name: Callable[[int], str], picture: Picture | None) -> None:
        self.class_names = class_names
        self.file_name = file_name
        self.picture = picture
        self.source = cache(self._source)

    def _source(self, image: int) -> str | None:
        return thumbnail(self.picture(image)) if self.picture else None

    def mistake(self, image: int, label: int, predicted: int) -> Context:
        name, guess = self.class_names[label], self.class_names[predicted]
        return {"source": self.source(image), "alt": f"{self.file_name(image)}: {name}, taken for {guess}", "guess": guess}

    def worst(self, worst: WorstImage) -> Context:
        return self.mistake(worst.image, worst.label, worst.predicted) | {
            "label": self.class_names[worst.label],
            "file": self.file_name(worst.image),
            "confidence": f"{100 * worst.confidence:.1f}\N{NO-BREAK SPACE}%",
        }

    def examples(self, label: int, examples: Sequence[Example]) -> list[Context]:
        return [self.mistake(each.image, label, each.predicted) for each in examples] if self.picture else []


def _mistakes(
    mistakes: Mistakes, class_names: Sequence[str], file_name: Callable[[int], str], picture: Picture | None
) -> Context:
    num_classes, shown = len(class_names), _Shown(class_names, file_name, picture)
    names = top_names(num_classes)
    few = num_classes <= FEW_CLASSES
    order = ", then ".join(f"{name} error" for name in names)
    others = "" if few else f", as are all but the {FEW_CLASSES} hardest"
    return {
        "what": mistakes.what,
        "errors": [{"name": k, "value": f"{error:.2f}"} for k, error in zip(names, mistakes.errors, strict=False)][::-1],
        "line": mistakes_line(mistakes, num_classes),
        "images": f"{mistakes.images:,}",
        "wrong": f"{mistakes.wrong:,}",
        "worst": [shown.worst(worst) for worst in mistakes.worst],
        "confusion": _confusion(mistakes.confusion, class_names) if mistakes.confusion else None,
        "hardest_title": "Errors by class" if few else "Hardest classes",
        "hardest_how": f"By {order}, over the images of the class. Classes without a mistake are left out{others};"
        " classes.csv has all of them.",
        "hardest_headings": hardest_headings(num_classes),
        "hardest": _hardest(mistakes, class_names, shown),
        "pair_headings": PAIR_HEADINGS,
        "pairs": [
            {"label": label, "guess": guess, "numbers": numbers, "examples": shown.examples(pair.label, pair.examples)}
            for pair, (label, guess, *numbers) in zip(mistakes.pairs, pair_cells(mistakes, class_names), strict=True)
        ],
    }


def _hardest(mistakes: Mistakes, class_names: Sequence[str], shown: _Shown) -> list[Context]:
    rows = []
    for hard, (name, *texts) in zip(mistakes.hardest, hardest_cells(mistakes, class_names), strict=True):
        bars = (None, None, hard.errors.top1, None, hard.errors.top5)  # under each error a bar of its length
        cells = [
            {"text": text, "share": None if bar is None else f"{bar:.1f}"} for text, bar in zip(texts, bars, strict=False)
        ]
        rows.append({"name": name, "cells": cells, "examples": shown.examples(hard.index, hard.examples)})
    return rows


def _confusion(counts: Sequence[Sequence[int]], class_names: Sequence[str]) -> list[Context]:
    """The matrix's rows; those of classes without an image are left out."""
    return [
        {
            "name": class_names[label],
            "images": sum(row),
            "cells": [
                {
                    "count": count,
                    "guess": class_names[guess],
                    "kind": "right" if guess == label else "wrong",
                    "share": f"{MOST_COLOUR * count / sum(row):.3f}",
                }
                for guess, count in enumerate(row)
            ],
        }
        for label, row in enumerate(counts)
        if sum(row)
    ]
