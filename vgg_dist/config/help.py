"""What --help prints: the flags of a command in groups, each with its unit, its default and what it does."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import Any

from vgg_dist.config.groups import field_docs, field_types, grouped, value_name
from vgg_dist.config.names import flag

COLUMN = 28  # where the explanations begin
WIDEST = 110

GENERAL = (
    (
        "--config FILE",
        "YAML file with values for these flags, such as the config.yaml in a run's folder. Flags win over it.",
    ),
    ("-h, --help", "Print this and exit."),
    ("--version", "Print the versions of this package, torch and Ray, and exit."),
)


def format_help(kind: type[Any], prog: str, description: str | None) -> str:
    """The help of a command whose settings are the dataclass `kind`."""
    width = min(shutil.get_terminal_size((100, 24)).columns, WIDEST)
    bold = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    docs, hints = field_docs(kind), field_types(kind)
    positional = [field.name for fields in grouped(kind).values() for field in fields if "Positional" in str(field.type)]
    usage = " ".join([f"usage: {prog}", *(f"[{name.upper()} ...]" for name in positional), "[FLAGS]"])
    parts = [usage, (description or "").strip()]
    for title, fields in grouped(kind).items():
        lines = [f"{bold[0]}{title}{bold[1]}"]
        for field in fields:
            if field.name in positional:
                word = f"{field.name.upper()} ..."
            elif hints[field.name] is bool:
                word = f"{flag(field.name)}, {flag(f'no_{field.name}')}"
            else:
                word = f"{flag(field.name)} {value_name(hints[field.name])}"
            lines.append(_entry(word, docs[field.name] + _default(field.default, docs[field.name]), width))
        parts.append("\n".join(lines))
    parts.append("\n".join([f"{bold[0]}general{bold[1]}", *(_entry(word, text, width) for word, text in GENERAL)]))
    return "\n\n".join(part for part in parts if part)


def _entry(word: str, text: str, width: int) -> str:
    """A flag and its explanation; one that is too long for its column has a line of its own."""
    indent = " " * COLUMN
    lines = textwrap.wrap(text, max(width, 60), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    if len(word) + 4 <= COLUMN:
        lines[0] = f"  {word}".ljust(COLUMN) + lines[0][COLUMN:]
        return "\n".join(lines)
    return "\n".join([f"  {word}", *lines])


def _default(value: Any, doc: str) -> str:
    """The sentence about the default, where the explanation has none."""
    if "Default:" in doc or value is None or value == ():
        return ""
    if isinstance(value, bool):
        return f" Default: {'on' if value else 'off'}."
    values = value if isinstance(value, tuple) else (value,)
    return f" Default: {' '.join(f'{each:g}' if isinstance(each, float) else str(each) for each in values)}."
