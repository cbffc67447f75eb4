"""Writes the tables and the plot of docs/scaling.md from the results in docs/scaling.json: python docs/scaling.py

The results are those of `python -m vgg_dist.benchmark scaling --json docs/scaling.json`. Each table stands between two
comments, `<!-- NAME -->` and `<!-- end -->`, and is replaced; tests/test_docs.py compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from vgg_dist.benchmark.scaling.clusters import GBITS, Prediction, predict, published
from vgg_dist.benchmark.scaling.layouts import TITLES
from vgg_dist.benchmark.scaling.options import ScalingBenchmark
from vgg_dist.benchmark.scaling.plot import draw
from vgg_dist.benchmark.scaling.settings import Setting

DOCS = Path(__file__).parent
PAGE, RESULTS, PLOT = DOCS / "scaling.md", DOCS / "scaling.json", DOCS / "assets" / "scaling.svg"
MARKED = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.S)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows))


def measured(results: dict[str, Any]) -> str:
    """Bytes and seconds of every setting, beside those of DDP in fp32."""
    settings = [setting for setting in settings_of(results) if setting.predicted_s]
    plain = {(setting.arch, setting.mbits): setting for setting in settings if setting.layout == "ddp"}
    rows = []
    for setting in settings:
        ddp, seconds = plain[setting.arch, setting.mbits], median(setting.step_s)
        rows.append([
            setting.arch,
            f"{setting.mbits:g}",
            TITLES[setting.layout],
            f"{setting.sent / 1e6:.1f}",
            f"{setting.counted_bytes / 1e6:.1f}",
            f"{setting.sent / ddp.sent:.3f}",
            f"{seconds:.2f} ({min(setting.step_s):.2f} to {max(setting.step_s):.2f})",
            f"{median(ddp.step_s) / seconds:.1f}",
            f"{setting.predicted_s:.2f}",
            f"{100 * setting.model_error:+.0f} %{'' if setting.fitted else ' (held out)'}",
        ])  # fmt: skip
    headings = [
        "net",
        "Mbit/s",
        "layout",
        "MB sent",
        "counted",
        "of DDP's",
        "step, s (min to max)",
        "times shorter",
        "model, s",
    ]
    return table([*headings, "its error"], rows)


def summary(results: dict[str, Any]) -> str:
    """How well bytes are counted, and what each layout saves on the slowest links."""
    settings = [setting for setting in settings_of(results) if setting.predicted_s]
    off = max(abs(setting.sent / setting.counted_bytes - 1) for setting in settings)
    lines = [f"- Measured bytes differ from the counted ones by at most {100 * off:.1f} %."]
    slowest = min(setting.mbits for setting in settings)
    for arch in results["settings"]["archs"]:
        ddp, *better = [each for each in settings if each.arch == arch and each.mbits == slowest]
        said = [
            f"{TITLES[each.layout]} sends {100 * each.sent / ddp.sent:.2g} % of the bytes, in steps "
            f"{median(ddp.step_s) / median(each.step_s):.1f} times shorter"
            for each in better
        ]
        lines.append(f"- {arch} at {slowest:g} Mbit/s, compared with {TITLES[ddp.layout]}: {'; '.join(said)}.")
    return "\n".join(lines)


def alone(results: dict[str, Any]) -> str:
    """The steps without the other host."""
    rows = []
    for arch in results["settings"]["archs"]:
        parts = [setting for setting in settings_of(results) if setting.arch == arch and not setting.predicted_s]
        seconds = [value for setting in parts for value in setting.step_s]
        rows.append([arch, f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"])
    return table(["net", "step without network, s (min to max)"], rows)


def errors(results: dict[str, Any]) -> str:
    """How far the model is from the settings that it was fitted to, and from the others; and its constants."""
    modelled = [setting for setting in settings_of(results) if setting.predicted_s]
    rows = []
    for name, fitted in (("fitted", True), ("held out", False)):
        found = [100 * abs(setting.model_error) for setting in modelled if setting.fitted is fitted]
        if found:
            rows.append([name, str(len(found)), f"{median(found):.0f} %", f"{max(found):.0f} %"])
    constants = ", ".join(f"{name} {value:.2g}" for name, value in results["constants"].items())
    return f"{table(['settings', 'how many', 'median error', 'worst'], rows)}\n\nFitted constants: {constants}."


def memory(results: dict[str, Any]) -> str:
    """Bytes that a worker keeps between two steps, for each net and layout at the first rate."""
    first = results["settings"]["mbits"][0]
    rows = [
        [setting.arch, TITLES[setting.layout], f"{setting.state / 1e6:.1f}", f"{setting.counted_state / 1e6:.1f}"]
        for setting in settings_of(results)
        if setting.mbits == first and setting.predicted_s
    ]
    return table(["net", "layout", "MB measured", "MB by arithmetic"], rows)


def others(results: dict[str, Any]) -> str:
    """The model beside published figures."""
    rows = [
        [
            figure.who,
            f"{figure.gpus}, {figure.gpus_per_node} a node",
            f"{figure.gbits:g}",
            str(figure.images),
            f"{100 * figure.measured:.0f} %",
            f"{100 * figure.modelled:.0f} %",
        ]
        for figure in published()
    ]
    return table(["", "GPUs", "Gbit/s a node", "images a GPU", "published", "model"], rows)


PLOTTED = ScalingBenchmark(gpus_per_node=4)
TODAY = ScalingBenchmark(gpu_rate=2000.0, gpu_precision="bf16", gpus_per_node=8)
CLUSTERS = {
    "P100, 4 a node, as Horovod's": PLOTTED,
    "P100, 1 a node": ScalingBenchmark(gpus_per_node=1),
    "V100, 8 a node": ScalingBenchmark(gpu_rate=229.0, gpus_per_node=8),
    "a GPU with 2,000 images/s in bf16, 8 a node": TODAY,
}


def weak(results: dict[str, Any]) -> str:
    """Weak scaling to 512 GPUs, for several GPUs and nodes."""
    rows = []
    for name, options in CLUSTERS.items():
        for gbits in GBITS:
            cells = [_cell(each) for each in predict(options, [512], [gbits]) if not each.strong]
            rows.append([name, str(gbits), *cells])
    return table(["512 GPUs, 64 images each", "Gbit/s a node", *TITLES.values()], rows)


def sizes(results: dict[str, Any]) -> str:
    """Weak scaling of P100s in nodes of 4 at 25 Gbit/s, by their number."""
    rows = []
    for name, workers, trees in (("8", 8, True), ("64", 64, True), ("512", 512, True), ("512, rings only", 512, False)):
        found = predict(PLOTTED, [workers], [25], trees)
        rows.append([name, *(_cell(each) for each in found if not each.strong)])
    return table(["GPUs", *TITLES.values()], rows)


def strong(results: dict[str, Any]) -> str:
    """Strong scaling to 64 GPUs."""
    rows = []
    for name, options in CLUSTERS.items():
        for gbits in GBITS:
            cells = [_cell(each) for each in predict(options, [64], [gbits]) if each.strong]
            rows.append([name, str(gbits), *cells])
    return table(["64 GPUs, 4 images each", "Gbit/s a node", *TITLES.values()], rows)


def nodes(results: dict[str, Any]) -> str:
    """Strong scaling of fast GPUs over a few nodes."""
    rows = []
    for count, gbits in ((1, None), (2, 100), (2, 400), (4, 100), (4, 400), (8, 100), (8, 400)):
        found = predict(TODAY, [8 * count], [gbits or 100])
        rows.append([str(count), f"{256 // (8 * count)}", str(gbits or ""), *(_cell(each) for each in found if each.strong)])
    return table(["nodes", "images a GPU", "Gbit/s a node", *TITLES.values()], rows)


def _cell(prediction: Prediction) -> str:
    return f"{100 * prediction.efficiency:.0f} %" + (f" ({prediction.group})" if prediction.group > 1 else "")


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    function.__name__: function
    for function in (measured, summary, alone, errors, memory, others, weak, sizes, strong, nodes)
}


def settings_of(results: dict[str, Any]) -> list[Setting]:
    """What was measured."""
    return [Setting(**setting) for setting in results["settings_measured"]]


def filled(page: str, results: dict[str, Any]) -> str:
    """The page's text with the tables of these results. KeyError for a table that does not exist."""
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]](results)}\n\n{found[3]}", page)


if __name__ == "__main__":
    found = json.loads(RESULTS.read_text())
    PAGE.write_text(filled(PAGE.read_text(), found))
    draw(PLOTTED, settings_of(found), PLOT)
