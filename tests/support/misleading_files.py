"""Image folders, tars and weights that mislead those who read them.

    python tests/support/misleading_files.py FOLDER    # writes FOLDER/<situation>/train and val, and the tars

`peers_behaviour.py` beside this has them read; docs/behaviour-of-peers.md says what came out.
"""

from __future__ import annotations

import io
import sys
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

PHONE = (12240, 16320)


def save(path: Path, image: Image.Image, kind: str = "JPEG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, kind)
    return path


def noise(seed: int, height: int = 24, width: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def deep_grey() -> Image.Image:
    """16 bits, from black to white; the mean is 127.5 on the 0-255 scale."""
    return Image.fromarray(np.linspace(0, 65535, 24 * 32).astype(np.uint16).reshape(24, 32))


def two_classes(root: Path) -> None:
    for name in ("cat", "dog"):
        for k in range(2):
            save(root / name / f"{k}.jpg", noise(k))


def sixteen_bit(root: Path) -> None:
    two_classes(root)
    save(root / "cat" / "odd.png", deep_grey(), "PNG")


def no_iend(root: Path) -> None:
    two_classes(root)
    path = save(root / "cat" / "odd.png", noise(0), "PNG")
    path.write_bytes(path.read_bytes()[:-12])


def cut_jpeg(root: Path) -> None:
    two_classes(root)
    path = root / "cat" / "0.jpg"
    path.write_bytes(path.read_bytes()[:-300])


def half_undecodable(root: Path) -> None:
    two_classes(root)
    for name in ("cat", "dog"):
        (root / name / "0.jpg").write_bytes(b"<html>404</html>")


def numbered(root: Path) -> None:
    for k in range(12):
        save(root / str(k) / "a.jpg", noise(k))


def linked(root: Path) -> None:
    two_classes(root)
    (root / "cat" / "link.jpg").symlink_to(root / "cat" / "0.jpg")
    (root / "fox").symlink_to(root / "dog")


def suffixes(root: Path) -> None:
    two_classes(root)
    for name, kind in (("a.JPG", "JPEG"), ("b.jfif", "JPEG"), ("c.tiff", "TIFF"), ("d.webp", "WEBP"), ("e", "JPEG")):
        save(root / "cat" / name, noise(0), kind)


def macosx(root: Path) -> None:
    two_classes(root)
    (root / "__MACOSX" / "cat").mkdir(parents=True)
    (root / "__MACOSX" / "cat" / "._0.jpg").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")


def flat(root: Path) -> None:
    for k in range(4):
        save(root / f"ILSVRC2012_val_{k:08}.JPEG", noise(k))


def two_forms(root: Path) -> None:
    two_classes(root)
    for form in ("NFC", "NFD"):
        save(root / unicodedata.normalize(form, "café") / "a.jpg", noise(0))


def phone(root: Path) -> None:
    two_classes(root)
    save(root / "cat" / "0.jpg", Image.new("L", PHONE))


def strip(root: Path) -> None:
    two_classes(root)
    save(root / "cat" / "odd.png", noise(0, 1, 3000), "PNG")


FOLDERS: dict[str, Callable[[Path], None]] = {
    "16-bit grey PNG, mean 127.5": sixteen_bit,
    "PNG without IEND": no_iend,
    "JPEG cut short, among 4": cut_jpeg,
    "2 of 4 images are web pages": half_undecodable,
    "classes named 0 to 11": numbered,
    "links: an image, a class folder": linked,
    "suffixes .JPG .jfif .tiff .webp and none": suffixes,
    "__MACOSX beside cat and dog": macosx,
    "images in no class folder": flat,
    "one class name, NFC and NFD": two_forms,
    "photograph of 200 megapixels": phone,
    "strip of 3000 x 1, rescaled to 256": strip,
}


def tars(folder: Path) -> dict[str, Path]:
    file, links, twice = io.BytesIO(), folder / "links.tar", folder / "twice.tar"
    noise(0).save(file, "PNG")
    with tarfile.open(links, "w") as tar:
        add(tar, "cat/a.png", file.getvalue())
        add(tar, "dog/b.png", file.getvalue())
        for name, kind in (("cat/hard.png", tarfile.LNKTYPE), ("cat/symbolic.png", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "cat/a.png" if kind == tarfile.LNKTYPE else "a.png"
            tar.addfile(member)
    with tarfile.open(twice, "w") as tar:
        for seed in (0, 1):
            file = io.BytesIO()
            noise(seed).save(file, "PNG")
            add(tar, "cat/a.png", file.getvalue())
        add(tar, "dog/b.png", file.getvalue())
    return {"tar with a hard and a symbolic link": links, "tar with two members of one name": twice}


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def main() -> None:
    folder = Path(sys.argv[1])
    for situation, make in FOLDERS.items():
        for split in ("train", "val"):
            (folder / situation / split).mkdir(parents=True)
            make(folder / situation / split)
    tars(folder)


if __name__ == "__main__":
    main()
