"""Which files are images, of which class, and which are left out: the same rules for folders and for archives.

An image is a file whose extension, in upper or lower case, is in IMAGE_EXTENSIONS. Its class is the first folder below the
split's, at whatever depth the file is, as in torchvision's ImageFolder. All other files are left out and counted by reason.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp")

# Files and folders that operating systems, file servers, archivers and notebooks create. In lower case.
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

# Reasons why files are left out; `{s}` becomes the plural's s.
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
    """What was left out: for each reason a count and the first few names."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return self.counts.total()

    def add(self, reason: str, *names: str) -> None:
        """Counts `names` under a reason."""
        if names:
            self.counts[reason] += len(names)
            self.examples[reason] = sorted([*self.examples.get(reason, []), *names])[:_EXAMPLES]

    def merge(self, others: Iterable[LeftOut]) -> None:
        """Adds the counts and names of others."""
        for other in others:
            for reason, count in other.counts.items():
                self.add(reason, *other.examples[reason])
                self.counts[reason] += count - len(other.examples[reason])

    def lines(self) -> list[tuple[str, str]]:
        """For each reason the count with the reason, as text, and the first names."""
        return [(self._text(reason, count), listed(self.examples[reason], count)) for reason, count in self._sorted()]

    def summary(self) -> str:
        """All counts in one line, each with an example."""
        reasons = ((self._text(reason, count), shown(self.examples[reason][0])) for reason, count in self._sorted())
        return "; ".join(f"{text} ({example})" for text, example in reasons)

    def _sorted(self) -> list[tuple[str, int]]:
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))

    @staticmethod
    def _text(reason: str, count: int) -> str:
        return f"{count} {reason.replace('{s}', '' if count == 1 else 's')}"


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image."""
    return name.lower().endswith(IMAGE_EXTENSIONS) and name[0] != "."


def is_left_out_folder(name: str) -> bool:
    """Whether a folder of this name is left out with all of its contents."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def why_left_out(name: str) -> str:
    """Why a file or folder of this name is left out, according to `is_image_name` and `is_left_out_folder`."""
    if name.lower() in _SYSTEM_NAMES or name.startswith("._"):  # `._x.jpg`: metadata of x.jpg, from macOS
        return SYSTEM
    if name.startswith("."):
        return HIDDEN
    suffix = os.path.splitext(name)[1].lower()
    if not suffix:
        return NO_SUFFIX
    if not re.fullmatch(r"\.[a-z][a-z0-9]{0,7}", suffix):  # or else `x.0001`, `x.0002`, ... would all be reasons
        return OTHER_SUFFIX
    return f"{suffix} file{{s}}" + (", a format that is not read" if suffix in _OTHER_FORMATS.split() else "")


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file, or a link to a file."""
    try:
        return entry.is_file()
    except OSError:  # a link to itself, or to a place without permission
        return False


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to a folder."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def class_of(folder: str) -> str:
    """The class that a folder's name means: its composed Unicode form, because macOS and some servers decompose names."""
    return folder if folder.isascii() else unicodedata.normalize("NFC", folder)


def shown(name: str) -> str:
    """A name in a message, with quotes and escapes if it could be misread without them."""
    plain = name.isprintable() and name == name.strip() and ", " not in name and name != ""
    return name if plain else ascii(name)


def listed(names: Sequence[str], count: int | None = None, most: int = 5) -> str:
    """The first `most` names, and how many more there are out of `count`."""
    count = len(names) if count is None else count
    first = names[:most]
    return ", ".join(map(shown, first)) + (f" and {count - len(first)} more" if count > len(first) else "")


def similar_name(name: str, names: Iterable[str]) -> str | None:
    """One of `names` that differs from `name` only in case, blanks or Unicode form; None if there is none."""

    return next((other for other in names if other != name and _normalized(other) == _normalized(name)), None)


def similar_names(names: Iterable[str]) -> list[str]:
    """Groups of names that are similar in the sense of `similar_name`, each as "one = other"."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_normalized(name), []).append(name)
    return [" = ".join(map(shown, some)) for some in groups.values() if len(some) > 1]


def _normalized(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
