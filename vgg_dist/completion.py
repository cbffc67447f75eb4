"""Shell completion of the `vgg` command, as tyro prints it: commands, their flags, and the choices of flags."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Annotated, Any

import tyro

import cluster.__main__
from pipelines import prepare
from vgg_dist.benchmark.subcommands import Benchmark
from vgg_dist.config import EvalConfig, ReproduceConfig, TrainCommand, TuneConfig
from vgg_dist.config.visualize import Pictures
from vgg_dist.export import ExportConfig
from vgg_dist.report import ReportConfig
from vgg_dist.runs import RunsConfig

SETTINGS: dict[str, Any] = {
    "train": TrainCommand,
    "tune": TuneConfig,
    "evaluate": EvalConfig,
    "reproduce": ReproduceConfig,
    "runs": RunsConfig,
    "report": ReportConfig,
    "visualize": Pictures,
    "export": ExportConfig,
    "benchmark": Benchmark,
    "cluster": cluster.__main__.Command,
}
"""What each subcommand parses, but for prepare's, which are functions."""


def print_completion(shell: str) -> None:
    """Prints the script. `shell`: bash, zsh or fish."""
    preparing: Any = reduce(
        or_, (Annotated[Any, tyro.conf.subcommand(name, constructor=each)] for name, each in prepare.COMMANDS.items())
    )
    kinds = SETTINGS | {"prepare": preparing}
    commands: Any = reduce(or_, (Annotated[kind, tyro.conf.subcommand(name)] for name, kind in kinds.items()))
    tyro.cli(commands, prog="vgg", args=["--tyro-print-completion", shell])
