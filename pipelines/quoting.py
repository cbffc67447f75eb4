"""Names of files in lists and messages of one line each, whatever is in them: tabs, line ends, quotes, invalid UTF-8."""

from __future__ import annotations

import json


def quoted(name: str) -> str:
    """The name, or a JSON string of it where it does not print or begins like one, or like a comment (#)."""
    return name if name.isprintable() and name[:1] not in ("", '"', "#") else json.dumps(name)


def unquoted(line: str) -> tuple[str, str]:
    """The name that a line begins with, as `quoted` writes it, and what follows behind a tab.

    Lists that people write, or earlier versions wrote, have names as they are.
    """
    if line.startswith('"'):
        try:
            name, end = json.JSONDecoder().raw_decode(line)
            if line[end : end + 1] in ("", "\t"):
                return name, line[end + 1 :]
        except ValueError:
            pass
    name, _, rest = line.partition("\t")
    return name, rest


def one_line(text: object) -> str:
    """A message as one line that any terminal and file takes."""
    return " ".join(str(text).split()).encode("utf-8", "backslashreplace").decode()
