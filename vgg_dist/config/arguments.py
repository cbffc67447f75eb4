"""What is done with the words of a command line before tyro parses them.

--help is answered, --preset and --config are looked up, and names that other tools or earlier versions of this one use are
replaced by the present ones.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from vgg_dist.config.config_file import read_config_file
from vgg_dist.config.help import format_help
from vgg_dist.config.names import RENAMED, flag, known_arch
from vgg_dist.config.presets import preset_settings


class Arguments(NamedTuple):
    """A command line, ready for tyro."""

    words: list[str]
    settings: dict[str, Any]
    """Those of --preset and in the file of --config, by field, which flags override."""


def read_arguments(kind: type[Any], prog: str, description: str | None, words: Sequence[str] | None = None) -> Arguments:
    """The command line, for a command whose settings are the dataclass `kind`. `words`: by default this process's own.

    ValueError, one line, for a --config that cannot be used. Ends the process after --help.
    """
    words = list(sys.argv[1:] if words is None else words)
    if "-h" in words or "--help" in words:
        print(format_help(kind, prog, description))
        sys.exit(0)
    fields = {field.name for field in dataclasses.fields(kind)}
    words, file = _take_config(words)
    words = _with_current_flags(words, fields, prog.removeprefix("python -m "))
    if "arch" in fields:
        words = _with_known_archs(words)
    from_file = {} if file is None else read_config_file(file, kind)
    return Arguments(words, preset_settings(fields, words, from_file) | from_file)


def _take_config(words: Sequence[str]) -> tuple[list[str], str | None]:
    """The words without --config FILE, and the file; the last one where there are several."""
    rest: list[str] = []
    file = None
    remaining = iter(words)
    for word in remaining:
        name, equals, value = word.partition("=")
        if name != "--config":
            rest.append(word)
            continue
        file = value if equals else next(remaining, "")
        if not file or file.startswith("--"):
            raise ValueError("--config: give a YAML file, such as runs/first/config.yaml")
    return rest, file


def _with_current_flags(words: Sequence[str], fields: set[str], command: str) -> list[str]:
    """Flags of earlier versions under their present names, with a line on stderr for each."""
    old = {flag(before): flag(now) for before, now in RENAMED.items() if now in fields}
    old |= {f"--no-{before[2:]}": f"--no-{now[2:]}" for before, now in old.items()}
    found = []
    for word in words:
        name, equals, value = word.partition("=")
        now = old.get(name.replace("_", "-")) if name.startswith("--") else None
        if now is not None:
            print(f"{command}: {name} is now called {now}; the old name still works", file=sys.stderr)
        found.append(word if now is None else f"{now}{equals}{value}")
    return found


def _with_known_archs(words: Sequence[str]) -> list[str]:
    """--arch vgg16_bn as --arch D --batch-norm."""
    text = "\0".join(words)

    def replaced(found: re.Match[str]) -> str:
        known = known_arch(found[2])
        if known is None:
            return found[0]
        return f"{found[1]}{known.arch}" + ("\0--batch-norm" if known.batch_norm else "")

    text = re.sub(r"((?:^|(?<=\0))--arch[=\0])([^\0]*)", replaced, text)
    return text.split("\0") if words else []
