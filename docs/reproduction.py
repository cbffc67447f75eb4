"""Writes the tables and the plot of docs/reproduction.md: python docs/reproduction.py [FOLDER]

FOLDER is the evaluation of the miniature's runs (NAME/evaluation; with several seeds one of all of them). Its tables are
copied to docs/reproduction/; without FOLDER, those that are there are used. Each table of the page stands between two
comments, `<!-- NAME -->` and `<!-- end -->`, and is replaced.
"""

from __future__ import annotations

import csv
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

DOCS = Path(__file__).parent
PAGE, REPORT, PLOT = DOCS / "reproduction.md", DOCS / "reproduction", DOCS / "assets" / "reproduction.svg"
FILES = "table3", "table4", "table5", "table6", "claims"
MARKED = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.S)
IMAGES = 5000  # of Tiny ImageNet's validation set, of every second class
DEPTHS = {"A": 11, "A-LRN": 11, "B": 13, "C": 16, "D": 16, "E": 19}
"""Weight layers (the paper's Table 1)."""
VIEWS = "dense", "multi-crop", "multi-crop & dense"
Row = dict[str, str]


class Net(NamedTuple):
    """A configuration and its train scale, as the report has them: D and [37;73]."""

    arch: str
    scale: str


class Errors(NamedTuple):
    """Top-1 and top-5 errors of a row, percent, of each training."""

    top1: list[float]
    top5: list[float]


def rows_of(name: str) -> list[Row]:
    """The rows of a file that were run."""
    with (REPORT / f"{name}.csv").open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if row.get("ours top-1") != ""]


def errors_of(rows: Iterable[Row]) -> Errors | None:
    """The errors of rows, one for each training; None without a row."""
    found = Errors([], [])
    for row in rows:
        found.top1.append(float(row["ours top-1"]))
        found.top5.append(float(row["ours top-5"]))
    return found if found.top1 else None


def net_of(row: Row) -> Net:
    """The net of a row of Tables 3 to 5, without its kind."""
    return Net(row["net"].partition(",")[0], row["S"])


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """A Markdown table, with `words` columns of words before those of numbers."""
    rule = [":--"] * words + ["--:"] * (len(headings) - words)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))


def cells(errors: Errors | None) -> list[str]:
    """Top-1 and top-5, of several trainings the means; the top-1 errors of each in brackets."""
    if errors is None:
        return ["", ""]
    each = f" ({', '.join(f'{value:.1f}' for value in errors.top1)})" if len(errors.top1) > 1 else ""
    return [f"{mean(errors.top1):.1f}{each}", f"{mean(errors.top5):.1f}"]


def nets() -> str:
    """Tables 3 and 4: every net at one and at several scales."""
    one, several = rows_of("table3"), rows_of("table4")
    order = list(DEPTHS)
    found = sorted({net_of(row) for row in one}, key=lambda net: (order.index(net.arch), _by_scale(net.scale)))
    rows = []
    for net in found:
        of_net = [errors_of(row for row in rows if net_of(row) == net) for rows in (one, several)]
        rows.append([*net, *(cell for errors in of_net for cell in cells(errors))])
    return table(["net", "S", "one scale: top-1", "top-5", "several scales: top-1", "top-5"], rows, 2)


def fusions() -> str:
    """Tables 5 and 6: D, E and their fusion, dense, on crops, and both."""
    alone = [row for row in rows_of("table5") if row["S"].startswith("[")]
    of_net = {arch: [row for row in alone if net_of(row).arch == arch] for arch in "DE"}
    of_net["D + E"] = [row for row in rows_of("table6") if row["nets"].startswith("D + E")]
    rows = []
    for name, found in of_net.items():
        of_view = [errors_of(row for row in found if row["view"] == view) for view in VIEWS]
        rows.append([name, *(cell for errors in of_view for cell in cells(errors))])
    return table(["", "dense: top-1", "top-5", "multi-crop: top-1", "top-5", "both: top-1", "top-5"], rows, 1)


def claims() -> str:
    """The claims' verdicts and differences."""
    rows, last = [], ""
    for row in rows_of("claims"):
        claim = row["claim"].partition(" (")[0]
        rows.append([
            claim if claim != last else "", row["verdict"] if claim != last else "", f"{row['first']} vs {row['second']}",
            f"{float(row['paper difference']):+.1f}", f"{float(row['difference']):+.1f}",
            f"{float(row['low']):+.1f} to {float(row['high']):+.1f}", row["trainings"], row["verdict of the pair"],
        ])  # fmt: skip
        last = claim
    return table(["claim", "verdict", "pair", "the paper", "here", "95 % interval", "seeds", "this pair"], rows, 3)


def _by_scale(scale: str) -> tuple[bool, str]:
    """Fixed scales first."""
    return scale.startswith("["), scale


def draw() -> None:
    """Writes the plot: top-1 error at one scale by depth, a series for each S, with standard errors over the images."""
    rows = rows_of("table3")
    scales = sorted({row["S"] for row in rows}, key=_by_scale)
    style = {"svg.fonttype": "path", "svg.hashsalt": "reproduction", "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        looks = (("#3465a4", "o"), ("#4e9a06", "s"), ("#ce5c00", "D"))
        for number, (scale, (color, marker)) in enumerate(zip(scales, looks, strict=False)):
            points = {arch: errors_of(row for row in rows if net_of(row) == (arch, scale)) for arch in DEPTHS}
            known = {list(DEPTHS).index(arch): mean(errors.top1) for arch, errors in points.items() if errors}
            bars = [(error * (100 - error) / IMAGES) ** 0.5 for error in known.values()]
            xs = [position + 0.12 * (number - 1) for position in known]
            axes.errorbar(
                xs, list(known.values()), bars, color=color, marker=marker, capsize=3, linestyle=":", label=f"S = {scale}"
            )
        axes.set_xticks(range(len(DEPTHS)), [f"{arch}\n{depth} layers" for arch, depth in DEPTHS.items()])
        axes.set_ylabel("top-1 error at one test scale, %")
        axes.legend()
        figure.savefig(PLOT, facecolor="white", metadata={"Date": None})


TABLES: dict[str, Callable[[], str]] = {function.__name__: function for function in (nets, fusions, claims)}


def filled(page: str) -> str:
    """The page's text with the tables of this report. KeyError for a table that does not exist."""
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", page)


if __name__ == "__main__":
    if sys.argv[1:]:
        REPORT.mkdir(exist_ok=True)
        for name in FILES:
            shutil.copy(Path(sys.argv[1], f"{name}.csv"), REPORT)
    if not REPORT.exists():
        raise SystemExit("docs/reproduction.py: docs/reproduction has no tables; give the folder of an evaluation")
    PAGE.write_text(filled(PAGE.read_text()))
    draw()
