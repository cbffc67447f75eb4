"""Writes the tables and the plot of docs/reproduction.md: python docs/reproduction.py [FOLDER]

FOLDER is an evaluation of the miniature's runs, of all seeds, with `--views dense crops center`. Its tables are copied to
docs/reproduction/; without FOLDER, those that are there are used. Each table of the page stands between two comments,
`<!-- NAME -->` and `<!-- end -->`, and is replaced; tests/test_docs.py compares.
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

from vgg_dist.paper import single_scale

DOCS = Path(__file__).parent
PAGE, REPORT, PLOT = DOCS / "reproduction.md", DOCS / "reproduction", DOCS / "assets" / "reproduction.svg"
FILES = "each", "table5", "table6", "claims"
MARKED = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.S)
IMAGES = 5000  # of the validation set of half of Tiny ImageNet
DEPTHS = {"A": 11, "A-LRN": 11, "B": 13, "C": 16, "D": 16, "E": 19}
"""Weight layers (the paper's Table 1)."""
VIEWS = "dense", "multi-crop", "multi-crop & dense"
Row = dict[str, str]


class Net(NamedTuple):
    """A configuration and its train scale, as the report has them: D and [37;73]."""

    arch: str
    scale: str

    @property
    def test_scale(self) -> str:
        """The one test scale Q."""
        ends = [int(end) for end in re.findall(r"\d+", self.scale)]
        return str(single_scale((ends[0], ends[-1])))

    @property
    def order(self) -> tuple[int, bool, str]:
        """By depth, then by scale, the fixed ones first."""
        return list(DEPTHS).index(self.arch), self.scale.startswith("["), self.scale


def rows_of(name: str) -> list[Row]:
    """The rows of a file, those that were run."""
    with (REPORT / f"{name}.csv").open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if row.get("ours top-1") != ""]


def net_of(row: Row) -> Net:
    """The net of a row, without its kind."""
    return Net(row["net"].partition(",")[0], row["S"])


def one_scale(net: Net, view: str) -> list[Row]:
    """A row for each training of a net, in a view at its one test scale."""
    wanted = net, net.test_scale, view
    return [row for row in rows_of("each") if (net_of(row), row["Q"], row["view"]) == wanted]


def several_scales(net: Net, view: str) -> list[Row]:
    """A row for each training of a net, in a view at three test scales."""
    return [row for row in rows_of("table5") if (net_of(row), row["view"]) == (net, view)]


def top1(rows: Iterable[Row]) -> list[float]:
    """Top-1 errors, percent."""
    return [float(row["ours top-1"]) for row in rows]


def cell(rows: Sequence[Row]) -> str:
    """Top-1 and top-5 error, of several trainings the means; empty without a row."""
    top5 = [float(row["ours top-5"]) for row in rows]
    return f"{mean(top1(rows)):.1f} / {mean(top5):.1f}" if rows else ""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """A Markdown table, with `words` columns of words before those of numbers."""
    rule = [":--"] * words + ["--:"] * (len(headings) - words)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))


def nets() -> str:
    """Every net: centre crop, multi-crop at one and at three test scales, and dense at both."""
    rows = []
    for net in sorted({net_of(row) for row in rows_of("each")}, key=lambda net: net.order):
        at_one = {view: one_scale(net, view) for view in ("centre crop", "multi-crop", "dense")}
        rows.append([
            *net, str(len(at_one["dense"])), cell(at_one["centre crop"]),
            cell(at_one["multi-crop"]), cell(several_scales(net, "multi-crop")),
            cell(at_one["dense"]), cell(several_scales(net, "dense")),
        ])  # fmt: skip
    headings = [
        "net", "S", "trainings", "centre crop", "multi-crop", "multi-crop, 3 scales", "dense", "dense, 3 scales",
    ]  # fmt: skip
    return table(headings, rows, 2)


def fusions() -> str:
    """Tables 5 and 6: D and E with jittered S, and their fusion, dense, on crops, and both."""
    jittered = [row for row in rows_of("table5") if row["S"].startswith("[")]
    of_net = {arch: [row for row in jittered if net_of(row).arch == arch] for arch in "DE"}
    of_net["D + E"] = [row for row in rows_of("table6") if row["nets"].startswith("D + E")]
    rows = [
        [name, *(cell([row for row in found if row["view"] == view]) for view in VIEWS)] for name, found in of_net.items()
    ]
    return table(["", *VIEWS], rows, 1)


def claims() -> str:
    """Every pair of each claim: the paper's difference, and ours by multi-crop, by the centre crop and as in the paper."""
    found: dict[tuple[str, str, str], dict[str, Row]] = {}
    views = "multi-crop", "centre crop", ""
    for row in rows_of("claims"):
        text, view = re.fullmatch(rf"(.*?)(?:, ({'|'.join(views)}))?( \(.*\))?", row["claim"]).group(1, 2)  # type: ignore[union-attr]
        found.setdefault((text, row["first"], row["second"]), {})[view or ""] = row
    rows, last = [], ""
    for (text, first, second), of_view in found.items():
        either = next(iter(of_view.values()))
        ours = [_difference(of_view.get(view)) for view in views]
        rows.append(
            [text if text != last else "", f"{first} vs {second}", f"{float(either['paper difference']):+.1f}", *ours]
        )
        last = text
    headings = ["claim", "pair", "the paper", "here, by multi-crop", "here, by centre crop", "here, as in the paper"]
    return table(headings, rows, 2)


def _difference(row: Row | None) -> str:
    """Ours, its 95 % interval, and the verdict, a line each."""
    if row is None:
        return ""
    mean, low, high = (float(row[name]) for name in ("difference", "low", "high"))
    lines = f"{mean:+.1f}", f"({low:+.1f} to {high:+.1f})", row["verdict of the pair"]
    return "<br>".join(line.replace(" ", "&nbsp;") for line in lines)


def draw() -> None:
    """Writes the plot: top-1 error by multi-crop at one test scale by depth, a series for each S.

    Bars are standard errors over the images; a small mark is one training of several.
    """
    found = {net_of(row) for row in rows_of("each")}
    scales = sorted({net.scale for net in found}, key=lambda scale: (scale.startswith("["), scale))
    style = {"svg.fonttype": "path", "svg.hashsalt": "reproduction", "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        archs = [arch for arch in DEPTHS if any(net.arch == arch for net in found)]
        looks = (("#3465a4", "o"), ("#4e9a06", "s"), ("#ce5c00", "D"))
        for number, (scale, (color, marker)) in enumerate(zip(scales, looks, strict=False)):
            errors = {arch: top1(one_scale(Net(arch, scale), "multi-crop")) for arch in archs if Net(arch, scale) in found}
            means = [mean(each) for each in errors.values()]
            bars = [(error * (100 - error) / IMAGES) ** 0.5 for error in means]
            xs = [archs.index(arch) + 0.14 * (number - 1) for arch in errors]
            axes.errorbar(xs, means, bars, color=color, marker=marker, capsize=3, linestyle="none", label=f"S = {scale}")
            for x, each in zip(xs, errors.values(), strict=True):
                if len(each) > 1:
                    axes.plot([x] * len(each), each, color=color, marker="_", markersize=12, linestyle="none")
        axes.set_xticks(range(len(archs)), [f"{arch}\n{DEPTHS[arch]} layers" for arch in archs])
        axes.set_ylabel("top-1 error, multi-crop at one scale, %")
        axes.margins(x=0.1)
        figure.legend(loc="outside upper center", ncols=len(scales), frameon=False)
        figure.savefig(PLOT, facecolor="white", metadata={"Date": None})


TABLES: dict[str, Callable[[], str]] = {function.__name__: function for function in (nets, fusions, claims)}


def filled(page: str) -> str:
    """The page's text with the tables of this report. KeyError for a table that does not exist."""
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", page)


if __name__ == "__main__":
    if sys.argv[1:]:
        REPORT.mkdir(exist_ok=True)
        try:
            for name in FILES:
                shutil.copy(Path(sys.argv[1], f"{name}.csv"), REPORT)
        except OSError as error:
            raise SystemExit(
                f"docs/reproduction.py: {sys.argv[1]} is no evaluation of the miniature's runs: {error}"
            ) from None
    if not REPORT.exists():
        raise SystemExit("docs/reproduction.py: docs/reproduction has no tables; give the folder of an evaluation")
    PAGE.write_text(filled(PAGE.read_text()))
    draw()
