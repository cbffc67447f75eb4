"""Writes the tables and the plot of docs/reproduction.md: python docs/reproduction.py FOLDER ...

Each FOLDER is the evaluation of a reproduction with another seed (NAME/evaluation), on Tiny ImageNet's hundred classes; its
tables are copied to docs/reproduction/. Without one, those that are there are used. Each table of the page stands between
two comments, `<!-- NAME -->` and `<!-- end -->`, and is replaced.
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
PAGE, REPORTS, PLOT = DOCS / "reproduction.md", DOCS / "reproduction", DOCS / "assets" / "reproduction.svg"
MARKED = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.S)
IMAGES = 5000  # of Tiny ImageNet's validation set, of every second class
DEPTHS = {"A": 11, "A-LRN": 11, "B": 13, "C": 16, "D": 16, "E": 19}
"""Weight layers (the paper's Table 1)."""
Row = dict[str, str]


class Errors(NamedTuple):
    """Top-1 and top-5 errors of one row, by seed, percent."""

    top1: list[float]
    top5: list[float]


def read(name: str) -> list[list[Row]]:
    """A file of every seed's report."""
    found = []
    for folder in sorted(REPORTS.iterdir()):
        with (folder / f"{name}.csv").open(newline="") as stream:
            found.append(list(csv.DictReader(stream)))
    return found


def errors_of(name: str, key: Callable[[Row], str]) -> dict[str, Errors]:
    """The errors of a table's rows that were run, by what `key` says of a row."""
    found: dict[str, Errors] = {}
    for of_seed in read(name):
        for row in of_seed:
            if row["ours top-1"]:
                errors = found.setdefault(key(row), Errors([], []))
                errors.top1.append(float(row["ours top-1"]))
                errors.top5.append(float(row["ours top-5"]))
    return found


def standard_error(percent: float) -> float:
    """Of an error over the validation images, points."""
    return float((percent * (100 - percent) / IMAGES) ** 0.5)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """A Markdown table, with `words` columns of words before those of numbers."""
    rule = [":--"] * words + ["--:"] * (len(headings) - words)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))


def cells(errors: Errors | None) -> list[str]:
    """The means over the seeds; of several, with each in brackets."""
    if errors is None:
        return ["", ""]
    return [
        f"{mean(values):.1f}" + (f" ({', '.join(f'{value:.1f}' for value in values)})" if len(values) > 1 else "")
        for values in errors
    ]


def nets() -> str:
    """Tables 3 and 4: every net at one and at several scales."""
    one, several = (errors_of(name, lambda row: row["run"]) for name in ("table3", "table4"))
    rows = [[*_net(run), *cells(errors), *cells(several.get(run))] for run, errors in one.items()]
    return table(["net", "S", "one scale: top-1", "top-5", "several scales: top-1", "top-5"], rows, 2)


def fusions() -> str:
    """Tables 5 and 6: D, E and their fusion, dense, on crops, and both."""
    found = errors_of("table5", lambda row: f"{row['run']}/{row['view']}")
    found |= errors_of("table6", lambda row: f"{row['run']}/{row['view']}")
    runs = list(dict.fromkeys(key.rpartition("/")[0] for key in found))
    names = {run: " + ".join(" ".join(_net(each)) for each in run.split(", ")) for run in runs if run.count(",") < 2}
    views = "dense", "multi-crop", "multi-crop & dense"
    rows = [[name, *(cell for view in views for cell in cells(found.get(f"{run}/{view}")))] for run, name in names.items()]
    return table(["", "dense: top-1", "top-5", "multi-crop: top-1", "top-5", "both: top-1", "top-5"], rows, 1)


def claims() -> str:
    """The claims' verdicts and differences, as each seed's report has them."""
    seeds = read("claims")
    headings = ["claim", "pair", "the paper", *(f"seed {number}: difference, 95 % interval" for number in range(len(seeds)))]
    rows = []
    for of_pair in zip(*seeds, strict=True):
        first = of_pair[0]
        ours = [
            f"{float(row['difference']):+.1f} ({float(row['low']):+.1f} to {float(row['high']):+.1f})" for row in of_pair
        ]
        pair = f"{first['first']} vs {first['second']}"
        rows.append([first["claim"].partition(" (")[0], pair, f"{float(first['paper difference']):+.1f}", *ours])
    return table(headings, rows, 2)


def _net(run: str) -> tuple[str, str]:
    """The net and the S of a run, such as A-LRN-37 or D-37-73."""
    found = re.fullmatch(r"(.+?)-(\d+)(?:-(\d+))?", run)
    assert found, run
    arch, low, high = found.groups()
    return arch, low if high is None else f"[{low};{high}]"


def draw() -> None:
    """Writes the plot: top-1 error at one scale by depth, a series for each S, with standard errors over the images."""
    series: dict[str, list[tuple[str, float]]] = {}
    for run, errors in errors_of("table3", lambda row: row["run"]).items():
        arch, scale = _net(run)
        series.setdefault(scale, []).append((arch, mean(errors.top1)))
    style = {"svg.fonttype": "path", "svg.hashsalt": "reproduction", "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        looks = (("#3465a4", "o"), ("#4e9a06", "s"), ("#ce5c00", "D"))
        order = list(DEPTHS)
        for number, ((scale, points), (color, marker)) in enumerate(zip(series.items(), looks, strict=False)):
            xs = [order.index(arch) + 0.12 * (number - 1) for arch, _ in points]
            ys = [error for _, error in points]
            bars = [standard_error(error) for error in ys]
            axes.errorbar(xs, ys, bars, color=color, marker=marker, capsize=3, linestyle=":", label=f"S = {scale}")
        axes.set_xticks(range(len(order)), [f"{arch}\n{depth} layers" for arch, depth in DEPTHS.items()])
        axes.set_ylabel("top-1 error at one test scale, %")
        axes.legend()
        figure.savefig(PLOT, facecolor="white", metadata={"Date": None})


TABLES: dict[str, Callable[[], str]] = {function.__name__: function for function in (nets, fusions, claims)}


def filled(page: str) -> str:
    """The page's text with the tables of these reports. KeyError for a table that does not exist."""
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", page)


def keep(folders: Sequence[str]) -> None:
    """Copies the tables of evaluations to docs/reproduction/0, 1, ..."""
    for number, folder in enumerate(folders):
        (REPORTS / str(number)).mkdir(parents=True, exist_ok=True)
        for name in ("table3", "table4", "table5", "table6", "claims"):
            shutil.copy(Path(folder, f"{name}.csv"), REPORTS / str(number))


if __name__ == "__main__":
    keep(sys.argv[1:])
    if not REPORTS.exists():
        raise SystemExit("docs/reproduction.py: docs/reproduction has no tables; give the folder of an evaluation")
    PAGE.write_text(filled(PAGE.read_text()))
    draw()
