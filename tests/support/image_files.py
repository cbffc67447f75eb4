"""Image files of every kind, with their expected pixels."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

import numpy as np
from PIL import Image

from support import image_zoo
from support.image_zoo import picture
from support.paths import SHARED

ZOO = image_zoo.whole()


LARGE = image_zoo.save(Image.fromarray(picture()).resize((240, 200)), "JPEG", quality=92)


DAMAGED = ["JPEG", "JPEG, progressive", "JPEG, restart markers", "MPO", "PNG, RGB", "PNG, RGB, interlaced", "PNG, palette"]


def damages() -> Iterator[tuple[str, bytes]]:
    """Images of the zoo, damaged: truncated, ending in zeros or noise, with flipped bits or an early end marker."""
    rng = np.random.default_rng(0)
    for name in DAMAGED:
        whole = ZOO[name]
        for end in (30, len(whole) // 2, len(whole) - 14, len(whole) - 12, len(whole) - 5, len(whole) - 1):
            yield f"{name}, {end} of {len(whole)} bytes", whole[:end]
        yield f"{name}, half, then zeros", whole[: len(whole) // 2] + bytes(len(whole) // 2)
        yield f"{name}, half, then the end", whole[: len(whole) // 2] + whole[-12:]
        for at in rng.integers(2, len(whole), 3).tolist():
            yield f"{name}, bit flipped in byte {at}", whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :]
    noise = rng.bytes(300)
    for at in (len(LARGE) // 3, len(LARGE) * 9 // 10):
        yield f"large JPEG, noise at {at}", LARGE[:at] + noise + LARGE[at + 300 :]
        yield f"large JPEG, end at {at}", LARGE[:at] + b"\xff\xd9"
        yield f"large JPEG, end and noise at {at}", LARGE[:at] + b"\xff\xd9" + noise


def given() -> Iterator[tuple[str, bytes]]:
    """Images from other projects, if they are present."""
    archive = SHARED / "inputs" / "failing-inputs.tar"
    if archive.exists():
        with tarfile.open(archive) as tar:
            for name in ("zoo/grey16.png", "damaged/no-iend.png", "damaged/cut60.png"):
                yield name, tar.extractfile(name).read()  # type: ignore[union-attr]


ALL = ZOO | dict(damages()) | dict(given())
