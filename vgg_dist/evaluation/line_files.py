"""Text files with one entry a line, such as class names or labels, in any Unicode encoding and with any line ends."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

# The longer ones first: UTF-32's little-endian mark begins with UTF-16's.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def read_lines(flag: str, file: str) -> list[str]:
    """The lines of a file, without line ends, surrounding blanks and the empty lines at its end.

    `flag`: the flag that named the file, for messages. ValueError, one line, for a file that cannot be read, is not Unicode
    text, is empty, or has an empty line between others, as the position of a line counts.
    """
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise ValueError(f"{flag} {file}: {error.strerror}") from error
    lines = [
        line.strip() for line in _decoded(f"{flag} {file}", content).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    ]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ValueError(f"{flag} {file}: is empty; expected one entry a line")
    if "" in lines:
        raise ValueError(f"{flag} {file}, line {lines.index('') + 1}: is empty; expected one entry a line")
    return lines


def _decoded(where: str, content: bytes) -> str:
    mark, encoding = next(((m, e) for m, e in MARKS.items() if content.startswith(m)), (b"", _without_mark(content)))
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = content[len(mark) :][: error.start].decode(encoding, "replace").count("\n") + 1
        raise ValueError(f"{where}, line {line}: is not {encoding.upper()} text; save the file as UTF-8") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"{where}, line {line}: holds a zero byte, so it is not text; save the file as UTF-8")
    return text


def _without_mark(content: bytes) -> str:
    """The encoding of a text without byte-order mark, by the zero bytes around its first character."""
    zero = [byte == 0 for byte in content[:4]]
    if zero == [False, True, True, True]:
        return "utf-32-le"
    if zero == [True, True, True, False]:
        return "utf-32-be"
    if zero[:2] == [False, True]:
        return "utf-16-le"
    return "utf-16-be" if zero[:2] == [True, False] else "utf-8"


class ClassNumbers:
    """Class names and their positions. Names are found in composed and decomposed Unicode form, as file systems differ."""

    def __init__(self, names: Iterable[str]) -> None:
        places = {name: place for place, name in enumerate(names)}
        self._places: Mapping[str, int] = {_composed(name): place for name, place in places.items()} | places

    def get(self, name: str) -> int | None:
        """The position of a name; None if it is not in the list."""
        return self._places.get(name, self._places.get(_composed(name)))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
