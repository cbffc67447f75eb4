"""The images that a user passes to a prediction: files, folders of images, URLs, or - for standard input."""

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
    """The images that can be decoded, in the order given. `failed` has the reason for each of the others, by name."""

    def __init__(self, named: Sequence[str], max_pixels: int = MAX_PIXELS) -> None:
        """Reads and decodes each image, or each in a folder, once. Images that fail go to `failed`; nothing is raised."""
        self.max_pixels = max_pixels
        self.in_memory: dict[str, bytes] = {}
        """The content of images that cannot, or should not, be read twice: URLs, standard input, pipes."""
        self.failed: dict[str, str] = {}
        good, left_out = list[str](), LeftOut()
        for name in named:
            try:
                for picture in _pictures_at(name, left_out):
                    if self._is_decodable(picture):
                        good.append(picture)
            except OSError as error:
                self.failed[name] = error.strerror or str(error)
        super().__init__(good, [], left_out=left_out)

    def read(self, index: int) -> bytes:
        """The content of the image. Raises OSError with its name."""
        picture = self.files[index]
        return self.in_memory[picture] if picture in self.in_memory else super().read(index)

    def length(self, index: int) -> int:
        """The size of the image in bytes."""
        return len(self.read(index))

    def _is_decodable(self, picture: str) -> bool:
        try:
            content = self.in_memory.get(picture) or _read(picture)
            if (reason := refusal(content, self.max_pixels)) is not None:
                raise OSError(reason)
        except (OSError, ValueError) as error:
            self.failed[picture] = getattr(error, "strerror", None) or " ".join(str(error).split())
            return False
        if not os.path.isfile(picture):
            self.in_memory[picture] = content
        return True


def _pictures_at(name: str, left_out: LeftOut) -> Iterator[str]:
    """The image itself, or the images of a folder by name; other files are counted in `left_out`.

    Raises OSError if a folder has no images.
    """
    if is_remote(name) or not os.path.isdir(name):
        yield name
        return
    inside = list_images(name, left_out)
    if not inside:
        raise OSError(f"has no images ({' '.join(IMAGE_EXTENSIONS)}) directly in it")
    yield from (os.path.join(name, picture) for picture in inside)


def _read(picture: str) -> bytes:
    if picture == STANDARD_INPUT:
        return sys.stdin.buffer.read()
    if not is_remote(picture):
        return Path(picture.removeprefix("file://")).read_bytes()
    if (content := read_if_exists(picture)) is None:
        raise OSError("does not exist")
    return content
