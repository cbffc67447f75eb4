"""Which files are images, of which class, and what is left out: one rule for folders and for archives.

An image is a file whose suffix, in any case, is one of IMAGE_EXTENSIONS. Its class is the first folder below the split's,
however deep it lies, as for torchvision's ImageFolder. Everything else is left out and counted by reason.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp")

# Left beside images by operating systems, file servers, archivers and notebooks. In lower case.
_SYSTEM_NAMES = frozenset(
    {
        "__macosx", ".ds_store", ".localized", ".appledouble", ".fseventsd", ".spotlight-v100", ".trashes", "icon\r",
        "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information",
        "lost+found", ".directory", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot",
        ".ipynb_checkpoints", "__pycache__",
    }
)  # fmt: skip
_OTHER_FORMATS = (
    ".tif .tiff .gif .heic .heif .avif .jxl .jp2 .j2k .jpf .ppm .pgm .pbm .pnm .tga .psd .ico .svg .exr .hdr .dcm .apng"
    " .cr2 .cr3 .nef .arw .dng .orf .rw2 .raf .raw"
)

# Reasons: `{s}` is the plural's.
HIDDEN = "hidden file{s} or folder{s}"
SYSTEM = "system file{s} or folder{s}"
NO_SUFFIX = "file{s} without a suffix"
OTHER_SUFFIX = "file{s} with another suffix"
NO_CLASS = "image{s} in no class folder"
BROKEN_LINK = "broken link{s}"
CIRCLE = "link{s} in a circle"
OUTSIDE = "link{s} out of the archive"
REPLACED = "member{s} replaced by a later one of the same name"
SPARSE = "sparse member{s}"
SPECIAL = "device{s}, pipe{s} or socket{s}"
EMPTY = "empty folder{s}"
SUBFOLDER = "subfolder{s}"
OTHER_SPLIT = "folder{s} that may be of this split, too"
QUARANTINED = "quarantined image{s}"
NO_LABEL = "image{s} without a label"
NO_IMAGE = "label{s} without an image"

_EXAMPLES = 3


class LeftOut:
    """How much each reason left out, with the first few names."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return self.counts.total()

    def add(self, reason: str, *names: str) -> None:
        """Counts `names` for a reason."""
        if names:
            self.counts[reason] += len(names)
            self.examples[reason] = sorted([*self.examples.get(reason, []), *names])[:_EXAMPLES]

    def merge(self, others: Iterable[LeftOut]) -> None:
        """Adds what others have counted."""
        for other in others:
            for reason, count in other.counts.items():
                self.add(reason, *other.examples[reason])
                self.counts[reason] += count - len(other.examples[reason])

    def lines(self) -> list[tuple[str, str]]:
        """For each reason its number and what it is, as text, and its first names."""
        return [(self._text(reason, count), listed(self.examples[reason], count)) for reason, count in self._sorted()]

    def summary(self) -> str:
        """All of it in one line."""
        reasons = ((self._text(reason, count), shown(self.examples[reason][0])) for reason, count in self._sorted())
        return "; ".join(f"{text} ({example})" for text, example in reasons)

    def _sorted(self) -> list[tuple[str, int]]:
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))

    @staticmethod
    def _text(reason: str, count: int) -> str:
        return f"{count} {reason.replace('{s}', '' if count == 1 else 's')}"


def is_image_name(name: str) -> bool:
    """Whether a file of this name is read."""
    return name.lower().endswith(IMAGE_EXTENSIONS) and name[0] != "."


def is_left_out_folder(name: str) -> bool:
    """Whether all that a folder of this name holds is left out."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def why_left_out(name: str) -> str:
    """The reason for an entry that `is_image_name` or `is_left_out_folder` turns down, by its name."""
    if name.lower() in _SYSTEM_NAMES or name.startswith("._"):  # `._x.jpg`: what macOS knows of x.jpg beside it
        return SYSTEM
    if name.startswith("."):
        return HIDDEN
    suffix = os.path.splitext(name)[1].lower()
    if not suffix:
        return NO_SUFFIX
    if not re.fullmatch(r"\.[a-z][a-z0-9]{0,7}", suffix):  # `x.0001`, `x.jpg ` and `e.g. this` would be no end of reasons
        return OTHER_SUFFIX
    return f"{suffix} file{{s}}" + (", a format that is not read" if suffix in _OTHER_FORMATS.split() else "")


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file, or a link to one."""
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself, or to where this user may not look
        return False


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def class_of(folder: str) -> str:
    """The class that a folder's name stands for: its composed form, since macOS and some servers decompose names."""
    return folder if folder.isascii() else unicodedata.normalize("NFC", folder)


def shown(name: str) -> str:
    """A name in a message: with quotes and escapes where it would be misread without."""
    plain = name.isprintable() and name == name.strip() and ", " not in name and name != ""
    return name if plain else ascii(name)


def listed(names: Sequence[str], count: int | None = None, most: int = 5) -> str:
    """The first names, and how many more there are of `count`."""
    count = len(names) if count is None else count
    first = names[:most]
    return ", ".join(map(shown, first)) + (f" and {count - len(first)} more" if count > len(first) else "")


def alike(name: str, names: Iterable[str]) -> str | None:
    """One of `names` that looks like `name` but for case, blanks or the form of its letters; None if none does."""

    return next((other for other in names if other != name and _look(other) == _look(name)), None)


def lookalikes(names: Iterable[str]) -> list[str]:
    """Names that look like one another, as in `alike`, with an equals sign between them."""
    looks: dict[str, list[str]] = {}
    for name in names:
        looks.setdefault(_look(name), []).append(name)
    return [" = ".join(map(shown, some)) for some in looks.values() if len(some) > 1]


def _look(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
