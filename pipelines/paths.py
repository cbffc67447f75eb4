"""Locations as text: local paths and URLs."""

from __future__ import annotations

import os
from urllib.parse import urlsplit, urlunsplit

from pipelines.secrets import masked


def is_remote(location: str) -> bool:
    """Whether a location is an fsspec URL, not a local path."""
    return "://" in location and not location.startswith("file://")


def absolute(location: str) -> str:
    """The location as an absolute path, valid in any working directory; URLs are returned unchanged."""
    return location if is_remote(location) else os.path.abspath(os.path.expanduser(location.removeprefix("file://")))


def join(folder: str, name: str) -> str:
    """The path or URL of `name` inside `folder`, which is a path or a URL; a URL's query is kept."""
    if "://" not in folder:
        return f"{folder.rstrip('/')}/{name}"
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def parent(location: str) -> str:
    """The folder that contains a path or URL; the inverse of `join`."""
    if "://" not in location:
        return location.rstrip("/").rpartition("/")[0]
    parts = urlsplit(location)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/").rpartition("/")[0]))


def last_part(location: str) -> str:
    """The last component of a path or URL, without the query and secrets of a URL."""
    location = masked(location)
    return (location.partition("?")[0] if is_remote(location) else location).rstrip("/").rpartition("/")[2]
