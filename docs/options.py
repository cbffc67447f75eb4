"""Writes the option tables of docs/commands/*.md from the settings' dataclasses and their docstrings: python docs/options.py

Each table stands between two comments, `<!-- options of NAME -->` and `<!-- end -->`, and is replaced; the text around it is
written by hand. tests/test_docs.py compares. Needs no torch, Ray or MLflow.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import cluster.__main__
import cluster.local
from pipelines import prepare
from vgg_dist.benchmark import options as benchmark
from vgg_dist.config import EvalConfig, ReproduceConfig, ScaleRange, TrainCommand, TrainFlags, TuneConfig
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
    "benchmark loader": benchmark.LoaderBenchmark,
    "benchmark step": benchmark.StepBenchmark,
    "benchmark checkpoint": benchmark.CheckpointBenchmark,
    "benchmark evaluation": benchmark.EvaluationBenchmark,
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


def options(settings: Any) -> list[Option]:
    """The options of a command, those that it shares with vgg_dist.train left out where it takes all of those."""
    if not inspect.isclass(settings):
        return list(_of_function(settings))
    texts = {name: text for kind in reversed(settings.__mro__) for name, text in _field_docstrings(kind).items()}
    inherits = issubclass(settings, TrainFlags) and settings not in (TrainCommand, TrainFlags)
    shared = {field.name for field in dataclasses.fields(TrainFlags)} if inherits else set()
    hints = get_type_hints(settings, include_extras=True)
    found = []
    for field in dataclasses.fields(settings):
        hint, markers = _plain(hints[field.name]), getattr(hints[field.name], "__metadata__", ())
        metavar = next((marker.metavar for marker in markers if isinstance(getattr(marker, "metavar", None), str)), "")
        if any("Suppress" in str(marker) for marker in markers) or (inherits and field.name in shared):
            continue
        if dataclasses.is_dataclass(hint) and not metavar:
            continue  # all flags of another command, which its own page has
        if any("Positional" in str(marker) for marker in markers):
            name, takes = metavar or field.name.upper(), "" if metavar else _takes(hint)
        else:
            words = ", ".join(f"`{word}`" for word in metavar.split("|"))
            name, takes = _flag(field.name, hint), words if metavar else _takes(hint)
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = None if field.default is dataclasses.MISSING else field.default
        found.append(Option(name, takes, "required" if required else _default(default), texts.get(field.name, "")))
    return found


def _of_function(command: Callable[..., Any]) -> Iterator[Option]:
    texts = dict(
        re.findall(r"^    (\w+): (.*?)(?=\n    \w+: |\Z)", inspect.getdoc(command).split("Args:\n")[1], re.M | re.S)
    )
    hints = get_type_hints(command)
    for name, parameter in inspect.signature(command).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        default = "required" if required else "the number of CPUs" if name == "threads" else _default(parameter.default)
        yield Option(_flag(name, hints[name]), _takes(hints[name]), default, texts[name])


def _field_docstrings(kind: type) -> dict[str, str]:
    """The strings that follow the fields in a class's source."""
    if not dataclasses.is_dataclass(kind):
        return {}
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, following in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(following, ast.Expr):
            found[field.target.id] = str(ast.literal_eval(following.value))
    return found


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
    words = {bool: "", str: "text", int: "whole number", float: "number", Path: "path", ScaleRange: "`256` or `256-512`"}
    return words.get(hint, hint.__name__)


def _default(value: Any) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def table(settings: Any) -> str:
    """The options as a Markdown table."""
    rows = ["| option | takes | default | meaning |", "|---|---|---|---|"]
    for option in options(settings):
        text = " ".join(option.text.split()).replace("<", "&lt;")
        cells = [cell.replace("|", "\\|") for cell in (option.name, option.takes, option.default, text)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def filled(page: str) -> str:
    """The page's text with its tables as the code has them now. KeyError for a table that is not in SETTINGS."""
    return MARKED.sub(lambda found: f"{found[1]}\n{table(SETTINGS[found[2]])}\n\n{found[3]}", page)


if __name__ == "__main__":
    for path in sorted(PAGES.glob("*.md")):
        path.write_text(filled(path.read_text()))
