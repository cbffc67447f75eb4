"""Locations as text: paths of this machine and URLs."""

from __future__ import annotations

import os
from urllib.parse import urlsplit, urlunsplit

from pipelines.secrets import masked


def is_remote(location: str) -> bool:
    """Whether a location is an fsspec URL and not a path of this machine."""
    return "://" in location and not location.startswith("file://")


def absolute(location: str) -> str:
    """The same place, whatever a process's current folder is; URLs as they are."""
    return location if is_remote(location) else os.path.abspath(os.path.expanduser(location.removeprefix("file://")))


def join(folder: str, name: str) -> str:
    """The path or URL of `name` in `folder`, itself a path or URL (whose query is kept)."""
    if "://" not in folder:
        return f"{folder.rstrip('/')}/{name}"
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def parent(location: str) -> str:
    """The inverse of `join`: the folder that a path or URL is in."""
    if "://" not in location:
        return location.rstrip("/").rpartition("/")[0]
    parts = urlsplit(location)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/").rpartition("/")[0]))


def last_part(location: str) -> str:
    """The name of what is at a path or URL, without the URL's query and secrets."""
    location = masked(location)
    return (location.partition("?")[0] if is_remote(location) else location).rstrip("/").rpartition("/")[2]
