"""Every command line of README.md and docs/ is one that its command takes, and the runs it names are made before it."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
from typing import Any

import pytest
import tyro
from support.paths import ROOT

import cluster.__main__
from pipelines import prepare
from vgg_dist.benchmark.subcommands import Benchmark
from vgg_dist.cli import SUBCOMMANDS
from vgg_dist.config import EvalConfig, ReproduceConfig, TrainCommand, TuneConfig
from vgg_dist.config.arguments import read_arguments
from vgg_dist.config.visualize import Pictures
from vgg_dist.export import ExportConfig
from vgg_dist.report import ReportConfig
from vgg_dist.runs import RunsConfig

DOCUMENTS = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]
SETTINGS: dict[str, Any] = {
    "vgg_dist.train": TrainCommand,
    "vgg_dist.tune": TuneConfig,
    "vgg_dist.evaluate": EvalConfig,
    "vgg_dist.export": ExportConfig,
    "vgg_dist.reproduce": ReproduceConfig,
    "vgg_dist.report": ReportConfig,
    "vgg_dist.visualize": Pictures,
    "vgg_dist.runs": RunsConfig,
    "vgg_dist.benchmark": Benchmark,
    "cluster": cluster.__main__.Command,
}
ANY_RUN = {"NAME"}


def command_lines(text: str) -> list[list[str]]:
    """Module and flags of each command in a block of shell or between backquotes, by `python -m` or by `vgg`."""
    block = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.M | re.S)
    shell = [code for language, code in block.findall(text) if language in ("", "sh")]
    lines = [line for code in shell for line in code.replace("\\\n", " ").splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", block.sub("", text))]
    found = []
    for line in lines:
        for part in re.sub(r"\s#\s.*", "", line).split("&&"):
            if match := re.search(r"(?:python -m|^\s*vgg) (.*)", part):
                words = shlex.split(match[1].strip().rstrip("'").replace("EPOCHS", "9"))
                if "python -m" not in part and words[0] in SUBCOMMANDS:
                    words[0] = SUBCOMMANDS[words[0]].module.removesuffix(".__main__")
                found.append(words)
    return found


def parsed(module: str, flags: list[str]) -> Any:
    """The settings; for `pipelines.prepare` only whether the flags are there."""
    if module == "pipelines.prepare":
        taken = inspect.signature(getattr(prepare, flags[0])).parameters if flags else {}
        for flag in flags:
            assert not flag.startswith("--") or flag.removeprefix("--").replace("-", "_") in taken, flag
        return None
    if not any(flag.startswith("-") for flag in flags):  # named, not meant to be typed
        return None
    kind = SETTINGS[module]
    if dataclasses.is_dataclass(kind):
        if "--config" in flags:  # a file of a run, which is not here
            place = flags.index("--config")
            assert flags[place + 1].endswith(".yaml")
            flags = flags[:place] + flags[place + 2 :]
        flags = read_arguments(kind, module, None, flags).words
    return tyro.cli(kind, args=flags)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_taken_and_what_they_name_is_made_before(document: str) -> None:
    made: set[str] = set(ANY_RUN)
    for module, *flags in command_lines((ROOT / document).read_text()):
        if module in ("pytest", "venv") or module.startswith("-"):  # vgg --help
            continue
        settings = parsed(module, flags)
        if settings is None:
            continue
        locations = [getattr(settings, "init_from", None), getattr(settings, "net", None), *getattr(settings, "nets", ())]
        for location in [each for each in locations if each and each.startswith("runs/")]:
            assert location.split("/")[1] in made, f"{document} makes no run {location}"
        if isinstance(settings, TrainCommand) and settings.name:
            made.add(settings.name)


def test_the_readme_has_them() -> None:
    modules = {module for module, *_ in command_lines((ROOT / "README.md").read_text())}
    assert modules >= {*SETTINGS, "pipelines.prepare"} - {"vgg_dist.runs"}
