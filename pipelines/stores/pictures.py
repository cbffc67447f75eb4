"""Pictures that a user names one by one for a prediction: files, folders of them, URLs, - for standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.layouts.image_files import IMAGE_EXTENSIONS, LeftOut
from pipelines.paths import is_remote
from pipelines.pixels import MAX_PIXELS, refusal
from pipelines.remote import read_if_exists
from pipelines.stores.file_list import FileListStore
from pipelines.stores.folder import list_images

STANDARD_INPUT = "-"


class Pictures(FileListStore):
    """The pictures that can be decoded, in the order given; `failed` says of each of the others why it is none."""

    def __init__(self, named: Sequence[str], max_pixels: int = MAX_PIXELS) -> None:
        """Reads each picture, or each of a folder, once, to see whether it is one; raises nothing for those that are not."""
        self.max_pixels = max_pixels
        self.held: dict[str, bytes] = {}
        """What cannot, or need not, be read twice: URLs, standard input, pipes."""
        self.failed: dict[str, str] = {}
        good, left_out = list[str](), LeftOut()
        for name in named:
            try:
                for picture in _pictures_at(name, left_out):
                    if self._can_be_shown(picture):
                        good.append(picture)
            except OSError as error:
                self.failed[name] = error.strerror or str(error)
        super().__init__(good, [], left_out=left_out)

    def read(self, index: int) -> bytes:
        """The picture's bytes; OSError with its name."""
        picture = self.files[index]
        return self.held[picture] if picture in self.held else super().read(index)

    def length(self, index: int) -> int:
        """The picture's size in bytes."""
        return len(self.read(index))

    def _can_be_shown(self, picture: str) -> bool:
        try:
            content = self.held.get(picture) or _read(picture)
            if (reason := refusal(content, self.max_pixels)) is not None:
                raise OSError(reason)
        except (OSError, ValueError) as error:
            self.failed[picture] = getattr(error, "strerror", None) or " ".join(str(error).split())
            return False
        if not os.path.isfile(picture):
            self.held[picture] = content
        return True


def _pictures_at(name: str, left_out: LeftOut) -> Iterator[str]:
    """The picture, or those of a folder, by name, what else is there being counted. OSError where a folder has none."""
    if is_remote(name) or not os.path.isdir(name):
        yield name
        return
    inside = list_images(name, left_out)
    if not inside:
        raise OSError(f"a folder without pictures ({' '.join(IMAGE_EXTENSIONS)}) directly in it")
    yield from (os.path.join(name, picture) for picture in inside)


def _read(picture: str) -> bytes:
    if picture == STANDARD_INPUT:
        return sys.stdin.buffer.read()
    if not is_remote(picture):
        return Path(picture.removeprefix("file://")).read_bytes()
    if (content := read_if_exists(picture)) is None:
        raise OSError("does not exist")
    return content
