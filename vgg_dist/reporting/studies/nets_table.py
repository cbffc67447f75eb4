"""The nets of a study as a table and as charts: size, cost, speed and errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from vgg_dist.reporting.scatter import Point, scatter_chart
from vgg_dist.reporting.studies.results import Kind, Results, Spread, StudiedNet

LOOKS: dict[Kind, str] = {"vgg": "c0", "batch norm": "c2", "earlier": "c1"}
"""The CSS class of each kind of net."""

KINDS: dict[Kind, str] = {"vgg": "VGG", "batch norm": "VGG with batch norm", "earlier": "earlier nets"}

LEFT = {0}
"""The columns of words."""


def headings(results: Results) -> list[str]:
    """Of the table, each of up to two lines."""
    errors = [f"top-{top}\nerror %" for top in results.tops]
    return ["net", "pixels", "S", "parameters", "GMACs\nan image", "images/s", *errors, "seeds"]


def cells(results: Results) -> list[list[str]]:
    """A row for each net; of several seeds the mean, ± the standard deviation."""
    return [_row(net, results) for net in results.nets]


def _row(net: StudiedNet, results: Results) -> list[str]:
    return [
        net.name, str(net.image_size), net.scale, f"{net.parameters:,}", gmacs_text(net.macs),
        _rate_text(net.rate()),
        *(_text(net.error(top), "{:.2f}".format) for top in results.tops),
        str(len(net.trainings)),
    ]  # fmt: skip


def gmacs_text(macs: int) -> str:
    """Billions of multiply-accumulates, with three digits: 19.6, 0.313, 0.000417."""
    return f"{macs / 1e9:.3g}" if macs >= 1e5 else f"{macs / 1e9:.2g}"


def _rate_text(rate: Spread | None) -> str:
    """Three digits, and all of them before the point: 1.23 ± 0.04, 45,600 ± 1,200."""
    digits = 0 if rate is None or rate.mean <= 0 else max(0, 2 - math.floor(math.log10(rate.mean)))
    return _text(rate, lambda value: f"{value:,.{digits}f}")


def _text(spread: Spread | None, form: Callable[[float], str]) -> str:
    return "-" if spread is None else spread.text(form)


def data_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """The table for other programs: headings and rows, in full precision; a cell without a value is empty."""
    names = ["net", "image size", "S", "parameters", "macs", "images/s", "images/s sd"]
    names += [f"top{top} error{sd}" for top in results.tops for sd in ("", " sd")]
    rows = []
    for net in results.nets:
        spreads = [net.rate(), *(net.error(top) for top in results.tops)]
        numbers = [number for spread in spreads for number in (spread or (None, None))]
        row = [net.name, net.image_size, net.scale, net.parameters, net.macs, *numbers, len(net.trainings)]
        rows.append(["" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value) for value in row])
    return [*names, "seeds"], rows


def run_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """A row for each training, for other programs."""
    names = ["run", "net", "seed", "epochs", "images/s", *(f"top{top} error" for top in results.tops)]
    rows = [
        [
            training.run, net.name, str(training.seed), _number(training.epochs), _number(training.rate),
            *(f"{training.error(top):.6g}" for top in results.tops),
        ]
        for net in results.nets
        for training in net.trainings
    ]  # fmt: skip
    return names, rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def charts(results: Results) -> list[dict[str, Any]]:
    """Top-1 error by parameters, by multiply-accumulates and by images/s; those that have a point."""
    measures: Sequence[tuple[str, str, Callable[[StudiedNet], float | None]]] = (
        ("Top-1 error (%) by parameters", "parameters (millions)", lambda net: net.parameters / 1e6),
        ("Top-1 error (%) by computation", "GMACs an image", lambda net: net.macs / 1e9),
        ("Top-1 error (%) by speed of training", "images/s", _mean_rate),
    )
    found = []
    for title, x_label, measure in measures:
        points = []
        for net in results.nets:
            error, x = net.error(1), measure(net)
            if error is not None and x is not None:
                points.append(Point(net.name, LOOKS[net.kind], x, error.mean, error.sd, net.twin))
        if chart := scatter_chart(title, x_label, "top-1 error (%)", points):
            found.append(chart)
    return found


def _mean_rate(net: StudiedNet) -> float | None:
    rate = net.rate()
    return None if rate is None else rate.mean


def legend(results: Results) -> list[dict[str, str]]:
    """The kinds of nets that there are, with their CSS classes."""
    kinds = {net.kind for net in results.nets}
    return [{"look": LOOKS[kind], "name": name} for kind, name in KINDS.items() if kind in kinds]
