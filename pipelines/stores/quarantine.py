"""Quarantine lists: the samples that loaders leave out.

`quarantine.txt` beside the data is always read. `python -m pipelines.prepare check` writes it; if it cannot (a read-only
mount, a URL without write permission), it writes a list to this machine's cache folder, under a name that depends on the
data's location. `--quarantine` names another list, a file or a URL that all nodes of a cluster can read. Samples in any of
these lists are left out.

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
"""The reasons that `check` writes begin with this word."""


def list_beside(location: str) -> str:
    """The path or URL of the list beside the data, whether it exists or not."""
    return f"{location.rstrip('/') if is_remote(location) else _absolute(location)}/quarantine.txt"


def list_of_this_machine(location: str) -> str:
    """The path of the list in this machine's cache folder, whether it exists or not."""
    place = masked(location).rstrip("/") if is_remote(location) else os.path.realpath(_absolute(location))
    key = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return str(cache_folder(None) / "quarantine" / f"{key}.txt")


def find_list(location: str, given: str | None) -> str | None:
    """The list to read in addition to the one beside the data: `given`, or else this machine's, or None."""
    if given is not None or location.partition(":")[0] == "synthetic":
        return given
    own = list_of_this_machine(location)
    return own if os.path.exists(own) else None


def read_quarantine(location: str, given: str | None = None) -> dict[str, str]:
    """Sample name -> reason, from the list beside the data and the `given` one.

    Raises ValueError, one line, if the given list does not exist or a list cannot be read.
    """
    found = read_list(list_beside(location)) or {}
    if given is None:
        return found
    more = read_list(given)
    if more is None:
        raise ValueError(
            f"--quarantine {masked(given)}: does not exist on this machine; python -m pipelines.prepare check writes it,"
            " and all nodes must be able to read it"
        )
    return found | more


def read_list(where: str) -> dict[str, str] | None:
    """Sample name -> reason, from one list; None if it does not exist."""
    content = read_if_exists(where)
    if content is None:
        return None
    lines = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff").split("\n")
    return dict(unquoted(line) for line in (line.removesuffix("\r") for line in lines) if line and line[0] != "#")


def write_list(where: str, entries: Mapping[str, str]) -> None:
    """Replaces a list. Raises OSError, or another type from a URL's filesystem, if that fails."""
    text = "# Samples that loaders leave out: name, tab, reason. Names that cannot be printed are JSON strings.\n"
    text += "".join(f"{quoted(name)}\t{reason}\n" for name, reason in sorted(entries.items()))
    if not is_remote(where):
        Path(where).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(where, text.encode("utf-8", "surrogateescape"))


def update_quarantine(location: str, given: str | None, unreadable: Mapping[str, str]) -> str:
    """Lists these samples instead of those of an earlier check. Entries that a user added for other reasons stay.

    Returns a message that says where the list is; "" if no list was needed. Raises ValueError, one line, if no list can be
    written.
    """
    found = {name: f"{UNREADABLE}: {one_line(detail)}" for name, detail in unreadable.items()}
    if given is not None:
        count = _replace(given, found, always=True)
        return f"{count} samples in {masked(given)}"
    beside, own = list_beside(location), list_of_this_machine(location)
    try:
        count = _replace(beside, found)
    except Exception as error:  # every filesystem raises its own types
        reason = one_line(getattr(error, "strerror", None) or error)
        try:
            count = _replace(own, found, always=True)
        except (OSError, ValueError) as second:
            why = getattr(second, "strerror", None) or one_line(second)
            raise ValueError(
                f"{masked(beside)} cannot be written ({reason}), nor {own} ({why}): pass a file or URL to --quarantine"
            ) from second
        return (
            f"{count} samples in {own}, because {masked(beside)} cannot be written ({reason}): training and evaluation use"
            " this list on this machine; to use it on others, pass a file or URL that all can read to --quarantine"
            ", here and in training"
        )
    if os.path.exists(own) and not _replace(own, {}):
        os.remove(own)
    return "" if count is None else f"{count} samples in {masked(beside)}"


def _replace(where: str, found: Mapping[str, str], *, always: bool = False) -> int | None:
    """The number of samples in the new list; None if there is no list, and none is needed."""
    before = read_list(where)
    entries = {name: reason for name, reason in (before or {}).items() if not reason.startswith(UNREADABLE)} | dict(found)
    if before is None and not entries and not always:
        return None
    if entries != before:
        write_list(where, entries)
    return len(entries)


def _absolute(location: str) -> Path:
    return Path(location.removeprefix("file://")).expanduser().absolute()
