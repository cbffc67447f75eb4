"""Writes the option tables of docs/commands/*.md from the settings' dataclasses and their docstrings: python docs/options.py

Each table stands between two comments, `<!-- options of NAME -->` and `<!-- end -->`, and is replaced; the text around it is
written by hand. tests/test_docs.py compares. Needs no torch, Ray or MLflow.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import cluster.__main__
import cluster.local
from pipelines import prepare
from vgg_dist.benchmark import options as benchmark
from vgg_dist.benchmark.scaling.options import ScalingBenchmark
from vgg_dist.config import EvalConfig, ReproduceConfig, ScaleRange, TrainCommand, TrainFlags, TuneConfig
from vgg_dist.config.groups import field_docs, grouped
from vgg_dist.config.visualize import Pictures
from vgg_dist.config.worker_range import WorkerRange
from vgg_dist.export import ExportConfig
from vgg_dist.report import ReportConfig
from vgg_dist.runs import RunsConfig

PAGES = Path(__file__).parent / "commands"
MARKED = re.compile(r"(<!-- options of ([\w. -]+) -->\n).*?(<!-- end -->)", re.S)

SETTINGS: dict[str, Any] = {
    "train": TrainCommand,
    "evaluate": EvalConfig,
    "tune": TuneConfig,
    "reproduce": ReproduceConfig,
    "runs": RunsConfig,
    "report": ReportConfig,
    "export": ExportConfig,
    **{f"visualize {word.name}": kind for kind, word in map(get_args, get_args(Pictures))},
    "benchmark loader": benchmark.LoaderBenchmark,
    "benchmark segments": benchmark.SegmentsBenchmark,
    "benchmark step": benchmark.StepBenchmark,
    "benchmark checkpoint": benchmark.CheckpointBenchmark,
    "benchmark evaluation": benchmark.EvaluationBenchmark,
    "benchmark cache": benchmark.CacheBenchmark,
    "benchmark scaling": ScalingBenchmark,
    "benchmark startup": benchmark.StartupBenchmark,
    "cluster up": cluster.local.Up,
    "cluster doctor": cluster.__main__.Doctor,
    "prepare unpack": prepare.unpack,
    "prepare shard": prepare.shard,
    "prepare split": prepare.split,
    "prepare check": prepare.check,
    "prepare synthetic": prepare.synthetic,
}
"""What each table is made from: a dataclass of settings, or a function with its arguments described under "Args:"."""


class Option(NamedTuple):
    """A row of a table."""

    name: str
    takes: str
    default: str
    text: str


def options(settings: Any) -> dict[str, list[Option]]:
    """The options of a command by group, without those of vgg_dist.train where the command takes all of those, too.

    Commands with few options have a single group without a name.
    """
    if not inspect.isclass(settings):
        return {"": list(_of_function(settings))}
    fields = {field.name: field for field in dataclasses.fields(settings)}
    groups = grouped(settings) if issubclass(settings, TrainFlags | EvalConfig) else {"": list(fields.values())}
    inherits = issubclass(settings, TrainFlags) and settings not in (TrainCommand, TrainFlags)
    shared = {field.name for field in dataclasses.fields(TrainFlags)} if inherits else set()
    texts, hints = field_docs(settings), get_type_hints(settings, include_extras=True)
    found: dict[str, list[Option]] = {}
    for title, members in groups.items():
        for field in members:
            hint = _plain(hints[field.name])
            if field.name in shared or (dataclasses.is_dataclass(hint) and hint not in (ScaleRange, WorkerRange)):
                continue  # flags of another command, which its own page has
            found.setdefault(title, []).append(_of_field(field, hints[field.name], texts.get(field.name, "")))
    return found


def _of_field(field: dataclasses.Field[Any], annotated: Any, text: str) -> Option:
    hint, markers = _plain(annotated), getattr(annotated, "__metadata__", ())
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    default = "required" if required else _default(None if field.default is dataclasses.MISSING else field.default)
    if any("Positional" in str(marker) for marker in markers):
        metavar = next((marker.metavar for marker in markers if getattr(marker, "metavar", None)), None)
        return Option(metavar or field.name.upper(), "" if metavar else _takes(hint), default, text)
    return Option(_flag(field.name, hint), _takes(hint), default, text)


def _of_function(command: Callable[..., Any]) -> Iterator[Option]:
    described = (inspect.getdoc(command) or "").partition("Args:\n")[2]
    texts = dict(re.findall(r"^    (\w+): (.*?)(?=\n    \w+: |\Z)", described, re.M | re.S))
    hints = get_type_hints(command)
    for name, parameter in inspect.signature(command).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        default = "required" if required else "the number of CPUs" if name == "threads" else _default(parameter.default)
        yield Option(_flag(name, hints[name]), _takes(hints[name]), default, texts[name])


def _plain(hint: Any) -> Any:
    """Without tyro's markers."""
    return _plain(get_args(hint)[0]) if hasattr(hint, "__metadata__") else hint


def _flag(name: str, hint: Any) -> str:
    word = name.replace("_", "-")
    return f"`--{word}`, `--no-{word}`" if hint is bool else f"`--{word}`"


def _takes(hint: Any) -> str:
    """The values of a type, in words."""
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return ", ".join(dict.fromkeys(_takes(kind) for kind in get_args(hint) if kind is not type(None)))
    if get_origin(hint) is tuple:
        items = get_args(hint)
        count = "" if items[-1] is Ellipsis else f"{len(items)} x "
        return f"{count}{_takes(items[0])}{' ...' if items[-1] is Ellipsis else ''}"
    if get_origin(hint) is list:
        return f"{_takes(get_args(hint)[0])} ..."
    words = {bool: "", str: "text", int: "whole number", float: "number", Path: "path"}
    words |= {ScaleRange: "`256` or `256-512`", WorkerRange: "range, such as `2:8`"}
    return words.get(hint, hint.__name__)


def _default(value: Any) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def tables(settings: Any) -> str:
    """The options as Markdown tables, one for each group, below its name."""
    groups = options(settings)
    parts = []
    for title, members in groups.items():
        rows = ["| option | takes | default | meaning |", "|---|---|---|---|"]
        for option in members:
            text = " ".join(option.text.split()).replace("<", "&lt;")
            cells = [cell.replace("|", "\\|") for cell in (option.name, option.takes, option.default, text)]
            rows.append(f"| {' | '.join(cells)} |")
        parts += [f"### {title.capitalize()}"] * (len(groups) > 1) + ["\n".join(rows)]
    return "\n\n".join(parts)


def filled(page: str) -> str:
    """The page's text with its tables as the code has them now. KeyError for a table that is not in SETTINGS."""
    return MARKED.sub(lambda found: f"{found[1]}\n{tables(SETTINGS[found[2]])}\n\n{found[3]}", page)


if __name__ == "__main__":
    for path in sorted(PAGES.glob("*.md")):
        path.write_text(filled(path.read_text()))
