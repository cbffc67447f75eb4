"""Lists of the samples that loaders leave out: where they lie, and how they are written and read.

`quarantine.txt` beside the data is always read. `python -m pipelines.prepare check` writes it; where it cannot (a read-only
mount, a URL without leave to write) it writes a list into this machine's cache folder, found by the data's location.
`--quarantine` names another list, a file or a URL: what all nodes of a cluster see. Samples in any of them are left out.

A line is `name<TAB>reason`, the name as `pipelines.quoting` writes it; a line that begins with # is a comment.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from pipelines.paths import is_remote
from pipelines.quoting import one_line, quoted, unquoted
from pipelines.remote import cache_folder, read_if_exists, write_atomically
from pipelines.secrets import masked

UNREADABLE = "unreadable"
"""How the reasons begin that `check` gives."""


def list_beside(location: str) -> str:
    """The path or URL of the list beside the data, whether it is there or not."""
    return f"{location.rstrip('/') if is_remote(location) else _absolute(location)}/quarantine.txt"


def list_of_this_machine(location: str) -> str:
    """The path of the list for data beside which nothing can be written, whether it is there or not."""
    place = masked(location).rstrip("/") if is_remote(location) else os.path.realpath(_absolute(location))
    key = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return str(cache_folder(None) / "quarantine" / f"{key}.txt")


def find_list(location: str, given: str | None) -> str | None:
    """The list besides the one beside the data: as given, else this machine's if there is one."""
    if given is not None or location.partition(":")[0] == "synthetic":
        return given
    own = list_of_this_machine(location)
    return own if os.path.exists(own) else None


def read_quarantine(location: str, given: str | None = None) -> dict[str, str]:
    """Sample name -> reason, from the list beside the data and the given one.

    ValueError, one line, where that is not there or one cannot be read.
    """
    found = read_list(list_beside(location)) or {}
    if given is None:
        return found
    more = read_list(given)
    if more is None:
        raise ValueError(
            f"--quarantine {masked(given)}: does not exist here; python -m pipelines.prepare check writes it, and all nodes"
            " have to see it"
        )
    return found | more


def read_list(where: str) -> dict[str, str] | None:
    """Sample name -> reason, from one list; None where there is none."""
    content = read_if_exists(where)
    if content is None:
        return None
    lines = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff").split("\n")
    return dict(unquoted(line) for line in (line.removesuffix("\r") for line in lines) if line and line[0] != "#")


def write_list(where: str, entries: Mapping[str, str]) -> None:
    """Replaces a list; OSError, or another kind of a URL's filesystem, where that fails."""
    text = "# Samples the loaders leave out: name, tab, reason. Names that do not print are JSON strings.\n"
    text += "".join(f"{quoted(name)}\t{reason}\n" for name, reason in sorted(entries.items()))
    if not is_remote(where):
        Path(where).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(where, text.encode("utf-8", "surrogateescape"))


def update_quarantine(location: str, given: str | None, unreadable: Mapping[str, str]) -> str:
    """Lists these samples in place of those of an earlier check; what a person added for other reasons stays.

    Returns a line that says where they are, "" where there are none and never were. ValueError, one line, where nothing
    can be written.
    """
    found = {name: f"{UNREADABLE}: {one_line(detail)}" for name, detail in unreadable.items()}
    if given is not None:
        count = _replace(given, found, always=True)
        return f"{count} samples in {masked(given)}"
    beside, own = list_beside(location), list_of_this_machine(location)
    try:
        count = _replace(beside, found)
    except Exception as error:  # every filesystem has its own kinds
        reason = one_line(getattr(error, "strerror", None) or error)
        try:
            count = _replace(own, found, always=True)
        except (OSError, ValueError) as second:
            why = getattr(second, "strerror", None) or one_line(second)
            raise ValueError(
                f"{masked(beside)} cannot be written ({reason}), nor {own} ({why}): --quarantine FILE or URL"
            ) from second
        return (
            f"{count} samples in {own}, as {masked(beside)} cannot be written ({reason}): training and evaluation find it"
            " on this machine; for others, give --quarantine a file or URL that all see, here and there"
        )
    if os.path.exists(own) and not _replace(own, {}):
        os.remove(own)
    return "" if count is None else f"{count} samples in {masked(beside)}"


def _replace(where: str, found: Mapping[str, str], *, always: bool = False) -> int | None:
    """Returns how many samples are in the list; None where there is no list, and nothing to be listed."""
    before = read_list(where)
    entries = {name: reason for name, reason in (before or {}).items() if not reason.startswith(UNREADABLE)} | dict(found)
    if before is None and not entries and not always:
        return None
    if entries != before:
        write_list(where, entries)
    return len(entries)


def _absolute(location: str) -> Path:
    return Path(location.removeprefix("file://")).expanduser().absolute()
