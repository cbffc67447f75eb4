"""A page of pictures: sections with text, tables and pictures, as one self-contained HTML file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from vgg_dist.reporting.html import render


@dataclass(frozen=True)
class Picture:
    """A picture on the page."""

    png: bytes
    caption: str
    """Below it; also what a screen reader says."""
    file: str | None = None
    """Name of the PNG file that it is written to as well; None: on the page only."""

    @property
    def source(self) -> str:
        """For the page."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, so that the page does not jump while it loads."""
        with Image.open(io.BytesIO(self.png)) as image:
            return image.size


@dataclass(frozen=True)
class Table:
    """Rows of text; the columns in `left` hold words, the others numbers."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    heading: str
    text: Sequence[str] = ()
    """Paragraphs."""
    table: Table | None = None
    pictures: Sequence[Picture] = ()
    width: int = 26
    """The least width of a picture, in em; as many as fit are in a row."""


@dataclass(frozen=True)
class Page:
    """A page, and the files beside it."""

    name: str
    """Of its file and folder."""
    title: str
    text: Sequence[str]
    sections: Sequence[Section]
    files: dict[str, bytes] = field(default_factory=dict)
    """Further PNG files by name, which are not on the page."""

    def to_html(self) -> str:
        """The page with all its pictures in it."""
        return render("pictures.html", title=self.title, text=self.text, sections=self.sections)

    def all_files(self) -> dict[str, bytes]:
        """The PNG files by name."""
        shown = {each.file: each.png for section in self.sections for each in section.pictures if each.file}
        return shown | self.files
