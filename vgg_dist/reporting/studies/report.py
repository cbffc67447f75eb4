"""The report of a study: what is printed, one HTML page (templates/study.html), CSV files, and the metrics for MLflow."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vgg_dist import paper
from vgg_dist.reporting.html import render
from vgg_dist.reporting.paired import RULE
from vgg_dist.reporting.studies import claims_table, nets_table
from vgg_dist.reporting.studies.claims import CheckedClaim, check_claims
from vgg_dist.reporting.studies.results import Results
from vgg_dist.reporting.text import aligned, csv_text, printed

TITLES = {"small": "VGG and the nets before it, with one budget", "ablations": "The paper's ablations"}

VIEWS = {"dense": "dense evaluation", "center": "the centre crop"}

Form = Callable[[Sequence[str], Sequence[Sequence[str]], set[int]], str]


@dataclass(frozen=True, eq=False)
class StudyReport:
    """The results of a study, for people and for other programs."""

    study: Literal["small", "ablations"]
    results: Results

    @property
    def checked(self) -> list[CheckedClaim]:
        """The paper's claims, for the ablations."""
        return check_claims(self.results.nets) if self.study == "ablations" else []

    def to_text(self, form: Form = printed) -> str:
        """What the command prints; `form` makes a table of headings and rows."""
        parts = []
        if checked := self.checked:
            parts += [form(claims_table.HEADINGS, claims_table.cells(checked), claims_table.LEFT), "\n".join(RULE)]
        parts.append(form(nets_table.headings(self.results), nets_table.cells(self.results), nets_table.LEFT))
        parts.append(self.measured)
        parts += [f"not in the tables: {name}: {reason}" for name, reason in self.results.missing]
        return "\n\n".join(parts)

    @property
    def measured(self) -> str:
        """How the columns of the nets' table were measured."""
        images = self.results.images
        seeds = "" if self.results.num_seeds < 2 else " With several seeds: mean ± standard deviation."
        return (
            f"Errors: {VIEWS[self.results.view]} at Q = S on {images:,} validation images; over so many, an error of 20 %"
            f" has a standard error of {100 * (0.2 * 0.8 / images) ** 0.5:.2g} points.{seeds} GMACs: billions of"
            " multiply-accumulates of a forward pass. images/s: training steps without waiting for data, the median of what"
            " the run logged last, on the hardware and the workers that it had; runs beside each other on one CPU share it."
        )

    def to_html(self) -> str:
        """One self-contained page."""
        checked, results = self.checked, self.results
        return render(
            "study.html",
            title=TITLES[self.study],
            is_ablations=self.study == "ablations",
            rule=RULE,
            measured=self.measured,
            chart=claims_table.chart(checked),
            claims=_table(claims_table.HEADINGS, claims_table.cells(checked), claims_table.LEFT),
            findings=[each.claim for each in checked],
            paper_images=paper.VALIDATION_IMAGES,
            charts=nets_table.charts(results) if self.study == "small" else [],
            legend=nets_table.legend(results),
            several_seeds=results.num_seeds > 1,
            nets=_table(nets_table.headings(results), nets_table.cells(results), nets_table.LEFT),
            missing=results.missing,
            settings=results.settings,
        )

    def files(self) -> dict[str, str]:
        """Every file of the report by name: the page, the printed text, and the tables for other programs."""
        table = claims_table.data_rows(self.checked) if self.study == "ablations" else nets_table.data_rows(self.results)
        found = {
            "study.html": self.to_html(),
            "study.txt": self.to_text(aligned) + "\n",
            "study.csv": csv_text(*table),
            "runs.csv": csv_text(*nets_table.run_rows(self.results)),
        }
        if self.study == "ablations":
            found["nets.csv"] = csv_text(*nets_table.data_rows(self.results))
        return found

    @property
    def metrics(self) -> dict[str, float]:
        """Errors of the nets (mean over the seeds) and the differences of the pairs, by name, for MLflow."""
        found = {"images": float(self.results.images)}
        for net in self.results.nets:
            for top in self.results.tops:
                if error := net.error(top):
                    found[f"study/{net.name}/top{top}_error"] = error.mean
        for each in self.checked:
            if each.difference is not None:
                found[f"study/{each.claim.first}_minus_{each.claim.second}"] = each.difference.mean
        return {re.sub(r"[^\w\-./ ]", "_", name): value for name, value in found.items()}


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> dict[str, Any]:
    """What the template's table needs; the first cell of a row is its heading."""
    numbers = [column not in left for column in range(len(headings))]
    return {
        "headings": [(" ".join(text.split("\n")), number) for text, number in zip(headings, numbers, strict=True)],
        "rows": [list(zip(row, numbers, strict=True)) for row in rows],
    }
