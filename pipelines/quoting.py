"""Writes arbitrary file names and messages on one line each, also with tabs, newlines, quotes or invalid UTF-8 in them."""

from __future__ import annotations

import json


def quoted(name: str) -> str:
    """The name itself; as a JSON string if it cannot be printed, or begins like a JSON string or a comment (#)."""
    return name if name.isprintable() and name[:1] not in ("", '"', "#") else json.dumps(name)


def unquoted(line: str) -> tuple[str, str]:
    """The name at the start of a line, as `quoted` writes it, and the text after the tab that follows.

    Lists written by hand, or by earlier versions, have unquoted names.
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
    """A message as one line that any terminal and file accepts."""
    return " ".join(str(text).split()).encode("utf-8", "backslashreplace").decode()
