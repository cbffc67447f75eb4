"""The `vgg` command, which has all others as subcommands: `vgg train` is `python -m vgg_dist.train`, and so on.

vgg --help
vgg train --arch E --data /data/imagenet
vgg train --help
vgg runs
eval "$(vgg --completion bash)"
"""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import NamedTuple

from pipelines.cli import fail, printing
from pipelines.signals import stoppable
from pipelines.version import version_line


class Subcommand(NamedTuple):
    """A module with a `main(prog=...)`, imported once its subcommand is known: each has its own heavy imports."""

    module: str
    summary: str


SUBCOMMANDS = {
    "train": Subcommand("vgg_dist.train", "Train a network on a Ray cluster, or on this machine."),
    "tune": Subcommand("vgg_dist.tune", "Search learning rate, train scale and other settings with Ray Tune."),
    "evaluate": Subcommand("vgg_dist.evaluate", "Evaluate trained nets as the paper does, or classify pictures."),
    "reproduce": Subcommand("vgg_dist.reproduce", "Train and evaluate all of the paper's nets."),
    "runs": Subcommand("vgg_dist.runs", "List the runs in a folder: how far they are, and their errors."),
    "report": Subcommand("vgg_dist.report", "Compare the trainings of an MLflow experiment."),
    "visualize": Subcommand("vgg_dist.visualize", "Look inside a net: deconvnet, filters, occlusion, receptive fields."),
    "export": Subcommand("vgg_dist.export", "Write a trained net as ONNX, safetensors and others."),
    "prepare": Subcommand("pipelines.prepare", "Unpack, shard, split or check a data set."),
    "benchmark": Subcommand("vgg_dist.benchmark.__main__", "Measure loader, training step, checkpoints and start-up."),
    "cluster": Subcommand("cluster.__main__", "Start a local Ray cluster, or look for faults of one."),
}

SHELLS = "bash", "zsh", "fish"


def main(prog: str = "vgg") -> None:
    """The command line. What follows the subcommand's name is left to the subcommand."""
    word, *rest = sys.argv[1:] or [""]
    if word in SUBCOMMANDS:
        command = f"{prog} {word}"
        sys.argv = [command, *rest]
        with stoppable(command, in_order=False):
            sys.exit(importlib.import_module(SUBCOMMANDS[word].module).main(prog=command))
    with printing():
        if word in ("-h", "--help"):
            print(describe(prog))
        elif word == "--version":
            print(version_line())
        elif word == "--completion":
            if rest[:1] not in [[shell] for shell in SHELLS]:
                fail(prog, f"--completion {' '.join(rest)}: must be one of {', '.join(SHELLS)}")
            from vgg_dist.completion import print_completion

            print_completion(rest[0])
        else:
            fail(prog, _mistake(word))


def describe(prog: str = "vgg") -> str:
    """The help: a line for each subcommand."""
    lines = "\n".join(f"  {name:<11}{subcommand.summary}" for name, subcommand in SUBCOMMANDS.items())
    return f"""usage: {prog} COMMAND [FLAGS]

Train, search, evaluate and explain the VGG networks on a Ray cluster.

{lines}

{prog} COMMAND --help        explains a command's flags
{prog} --version             prints the version
{prog} --completion SHELL    prints a script that completes commands and flags, for {", ".join(SHELLS)}:
                           eval "$({prog} --completion bash)\""""


def _mistake(word: str) -> str:
    if not word:
        return f"a command is needed: {', '.join(SUBCOMMANDS)} (--help explains them)"
    close = difflib.get_close_matches(word.lower(), SUBCOMMANDS, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(SUBCOMMANDS)}"
    kind = "flags follow the command" if word.startswith("-") else "no such command"
    return f"{word}: {kind}; {hint} (--help explains all commands)"


if __name__ == "__main__":
    main()
