"""Thumbnails of images in every mode: the picture as it is, or None for what cannot be decoded."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vgg_dist.reporting.paper_tables.thumbnails import thumbnail


def encoded_pictures() -> Iterator[tuple[str, bytes]]:
    red = Image.new("RGB", (300, 200), (220, 20, 20))
    clear = Image.new("RGBA", (300, 200), (0, 0, 0, 0))
    clear.paste((220, 20, 20, 255), (0, 0, 300, 200))
    for name, image, form in (
        ("RGB", red, "JPEG"), ("CMYK", red.convert("CMYK"), "JPEG"), ("palette", red.quantize(4), "PNG"),
        ("RGBA", clear, "PNG"),
    ):  # fmt: skip
        stream = io.BytesIO()
        image.save(stream, form)
        yield name, stream.getvalue()


def decode(url: str | None) -> NDArray[np.uint8]:
    assert url
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def test_thumbnails_of_odd_modes() -> None:
    for name, encoded in encoded_pictures():
        pixels = decode(thumbnail(encoded))
        assert pixels.shape == (160, 240, 3), name
        np.testing.assert_allclose(pixels.mean((0, 1)), (220, 20, 20), atol=6, err_msg=name)
    ramp = np.linspace(0, 60000, 300 * 200).reshape(200, 300)
    for values, form in (
        (ramp.astype(np.uint16), "PNG"),
        (ramp.astype(np.float32), "TIFF"),
        (ramp.astype(np.int32), "TIFF"),
    ):
        stream = io.BytesIO()
        Image.fromarray(values).save(stream, form)
        pixels = decode(thumbnail(stream.getvalue()))
        assert pixels[0].mean() < 10
        assert pixels[-1].mean() > 245
    for mode in ("1", "L", "LA"):
        stream = io.BytesIO()
        Image.new(mode, (31, 17), (1 if mode == "1" else 255) if mode != "LA" else (0, 0)).save(stream, "PNG")
        assert decode(thumbnail(stream.getvalue())).min() > 245, mode  # white, or clear over white
    assert thumbnail(b"") is None
    assert thumbnail(next(encoded_pictures())[1][:200]) is None
