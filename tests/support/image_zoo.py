"""Images of every kind: formats, bit depths, colour models and kinds of damage, as encoded files in memory."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

HEIGHT, WIDTH = 20, 24
# Made with libjpeg-turbo's cjpeg (-arithmetic) and imagecodecs (bitspersample=12, lossless=True), which no test needs.
RARE = {
    "JPEG, arithmetic-coded": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8X"
        "GBYUGBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBT/yQAR"
        "CAAUABgDASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AOZzHEshgkgBeJmEHrtlqaYXKdwJnk0ovrqrRNafFiUnSG9zSR75"
        "9lK/ERE5K44yc2JcfRCYRyIkW0w7B3n+knHXm4oaZ+vOFTrEGkRIBTgXGbteTQEkdmfDwpC0wV3bzMA1RZ6EoP/Z"
    ),
    "JPEG, arithmetic-coded, progressive": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5"
        "PTgyPC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjL/ygAR"
        "CAAUABgDASIAAhEBAxEB/8wABgAQARD/2gAMAwEAAhADEAAAAf8AcwrIT9htZ+SnitGD0JrGIRuQWwGL/8wABBAF/9oACAEBAAEFAhORR5Km"
        "ENRqskgc/8wABBEF/9oACAEDAQE/AUP7127/zAAEEQX/2gAIAQIBAT8BOThs+65i04D/zAAEEAX/2gAIAQEABj8CwP/MAAQQBf/aAAgBAQAB"
        "PyFQtI0lPtD/2gAMAwEAAgADAAAAEGayRP/MAAQRBf/aAAgBAwEBPxCfbyr/zAAEEQX/2gAIAQIBAT8Q1G5OhrEg/8wABBAF/9oACAEBAAE/"
        "ENNAXdAPOP/Z"
    ),
    "JPEG, 12 bits": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8X"
        "GBYUGBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBT/wQAR"
        "DAAUABgDASIAAhEBAxEB/8QAGAABAQEBAQAAAAAAAAAAAAAAAAwLCg3/xAAkEAAAAwYHAQAAAAAAAAAAAAAACyUHCRFDVHIBCBc3QWFiJ//E"
        "ABcBAAMBAAAAAAAAAAAAAAAAAAALDA3/xAAxEQAAAQkFBAsAAAAAAAAAAAAAAgMFBgkkJUNhAQQKQmIHFlFSGCYoNDVBU3GSotH/2gAMAwEA"
        "AhEDEQA/AISctVcp7WINNKtFXaWquVI6WINNKtGH2WquVIaWINNKtFXYWquU9rEGmlWgxUWFd8fgHqS/egGiLO7vrlzZRuClqjlTatBppVoD"
        "voLVHKkdK0GmlWgJWZphhXe0IlYBxl6iqBdlt8Z3ddrw5fWto81yLVMqjOfliNTc4eehV2lqmVRnMWWI1Nzh56ABpcWKiUxWI/DDEySbrpD6"
        "loiike+u5GbKT+CrsLVcqjOYsrRqbnDz0AAJWZpgpisdIRKwwx5yTfMVpC7Lb4ikfvteHcj4k8baD//Z"
    ),
    "JPEG, lossless": (
        "/9j/7gAOQWRvYmUAZAAAAAAA/8MAEQgAFAAYA1IRAEcRAEIRAP/EABcAAAMBAAAAAAAAAAAAAAAAAAADBAj/2gAMA1IARwBCAAEAAM/5/wA/"
        "trHVjax1Y2sdWNrHVjax1Y2sdYOrG1jqxtY6sbWOrG1jqxtY6waVurG1jqxtY6sbWOrG1jqxtY6sdYNrHVjax1Y2sdWNrHVjax1Y6wcVtrHV"
        "jax1Y2sdWNrHVjax1Y6sbYOrG1jqxtY6sbWOrG1jqx1Y2waVurG1jqxtY6sbWOrG1jqx1Y2sdYNrHVjax1Y2sdWNrHVjqxtY6wcVtrHVjax1"
        "Y2sdWNrHVjqxtY6sbYOrG1jqxtY6sbWOrHVjax1Y2waVurG1jqxtY6sbWOrHVjax1Y2sdYNrHVjax1Y2sdWOrG1jqxtY6wcVtrHVjax1Y2sd"
        "WOrG1jqxtY6sbYOrG1jqxtY6sdWNrHVjax1Y2waVurG1jqxtY6sdWNrHVjax1Y2sdYNrHVjax1Y6sbWOrG1jqxtY6wcVtrHVjax1Y6sbWOrG"
        "1jqxtY6sbYOrG1jqx1Y2sdWNrHVjax1Y2waVurG1jqx1Y2sdWNrHVjax1Y2sdYNrHVjqxtY6sbWOrG1jqxtY6wcVtrHVjqxtY6sbWOrG1jqx"
        "tY6sbYOrHVjax1Y2sdWNrHVjax1Y2waVurHVjax1Y2sdWNrHVjax1Y2sdYOrG1jqxtY6sbWOrG1jqxtY6wcWOrG1jqxtY6sbWOrG1jqxtY6s"
        "dYNrHVjax1Y2sdWNrHVjax1Y6wcVtrHVjax1Y2sdWNrHVjax1Y6sbYOrG1jqxtY6sbWOrG1jqx1Y2waVurG1jqxtY6sbWOrG1jqx1Y2sdYNr"
        "HVjax1Y2sdWNrHVjqxtY6wcVtrHVjax1Y2sdWNrHVjqxtY6sbYOrG1jqxtY6sbWOrHVjax1Y2waVurG1jqxtY6sbWOrHVjax1Y2sdYNrHVja"
        "x1Y2sdWOrG1jqxtY6wcVtrHVjax1Y2sdWOrG1jqxtY6sbYOrG1jqxtY6sdWNrHVjax1Y2waVurG1jqxtY6sdWNrHVjax1Y2sdYNrHVjax1Y6"
        "sbWOrG1jqxtY6wcVtrHVjax1Y6sbWOrG1jqxtY6sbYOrG1jqx1Y2sdWNrHVjax1Y2w//2Q=="
    ),
}


def picture() -> NDArray[np.uint8]:
    """A gradient in each channel, uint8 (HEIGHT, WIDTH, 3)."""
    down, right = np.linspace(0, 1, HEIGHT), np.linspace(0, 1, WIDTH)
    both = np.stack([np.add.outer(down, right) / 2, *np.meshgrid(right, down)], axis=2)
    return (both * 255).astype(np.uint8)


def deep(channels: int) -> NDArray[np.uint16]:
    """16-bit samples over the whole range, with all values of the low byte: uint16 (HEIGHT, WIDTH, channels)."""
    values = np.linspace(0, 65535, HEIGHT * WIDTH * channels).astype(np.uint16)
    return np.random.default_rng(0).permutation(values.reshape(-1, 1)).reshape(HEIGHT, WIDTH, channels)


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples: NDArray[np.uint16] | NDArray[np.uint8], colour: int, *extra: bytes, interlaced: bool = False) -> bytes:
    """A PNG of samples (H, W, C), 8 or 16 bits by their dtype, with all five filters. `extra`: chunks before the data."""
    size = samples.shape[1], samples.shape[0]
    header = struct.pack(">IIBBBBB", *size, 8 * samples.itemsize, colour, 0, 0, interlaced)
    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = adam7 if interlaced else [(0, 0, 1, 1)]
    rows = b"".join(_filtered(samples[top::down, left::right]) for top, left, down, right in passes)
    chunks = chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _filtered(samples: NDArray[np.uint16] | NDArray[np.uint8]) -> bytes:
    """The rows, filtered; row k with filter k modulo 5 (PNG, section 9): none, sub, up, average, Paeth."""
    height, width, channels = samples.shape
    step = channels * samples.itemsize
    raw = samples.astype(samples.dtype.newbyteorder(">")).tobytes()
    plain = np.frombuffer(raw, np.uint8).reshape(height, width * step).astype(np.int32)
    padded = np.pad(plain, ((1, 0), (step, 0)))
    left, up, corner = padded[1:, :-step], padded[:-1, step:], padded[:-1, :-step]
    towards = np.stack([abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)])
    paeth = np.choose(towards.argmin(axis=0), [left, up, corner])
    predicted = [np.zeros_like(plain), left, up, (left + up) // 2, paeth]
    lines = (bytes([k % 5]) + (plain[k] - predicted[k % 5][k]).astype(np.uint8).tobytes() for k in range(height))
    return b"".join(lines)


def bmp(
    bits: int, rows: bytes, *, palette: bytes = b"", masks: bytes = b"", packing: int = 0, top_down: bool = False
) -> bytes:
    """A Windows bitmap with an information header of 40 bytes."""
    start = 54 + len(masks) + len(palette)
    height = -HEIGHT if top_down else HEIGHT
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, packing, len(rows), 2835, 2835, len(palette) // 4, 0)
    return struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start) + header + masks + palette + rows


def bitmaps() -> Iterator[tuple[str, bytes]]:
    """Bitmaps of all depths."""
    rgb = picture()[::-1].astype(np.uint32)  # the bottom row is the first
    red, green, blue = (rgb[..., k] for k in range(3))
    grey_levels = b"".join(bytes([k, k, k, 0]) for k in range(256))
    short = (red >> 3 << 10 | green >> 3 << 5 | blue >> 3).astype("<u2").tobytes()
    wide = (red >> 3 << 11 | green >> 2 << 5 | blue >> 3).astype("<u2").tobytes()
    long = (red << 16 | green << 8 | blue).astype("<u4").tobytes()
    yield "BMP, 24 bits", save(Image.fromarray(picture()), "BMP")
    yield "BMP, 24 bits, top row first", bmp(24, picture()[..., ::-1].tobytes(), top_down=True)
    yield "BMP, 32 bits", bmp(32, long)
    yield "BMP, 32 bits, alpha", save(Image.fromarray(picture()).convert("RGBA"), "BMP")
    yield "BMP, 16 bits", bmp(16, short)
    yield "BMP, 16 bits, 5-6-5", bmp(16, wide, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F), packing=3)
    yield "BMP, 8 bits", bmp(8, green.astype(np.uint8).tobytes(), palette=grey_levels)
    yield "BMP, 4 bits", save(Image.fromarray(picture()).quantize(16), "BMP")
    yield "BMP, 1 bit", save(Image.fromarray(picture()).convert("1"), "BMP")
    runs = b"".join(b"".join(bytes([1, int(v)]) for v in row) + b"\0\0" for row in green) + b"\0\1"
    yield "BMP, RLE8", bmp(8, runs, palette=grey_levels, packing=1)
    core = struct.pack("<2sIHHIIHHHH", b"BM", 26 + 3 * HEIGHT * WIDTH, 0, 0, 26, 12, WIDTH, HEIGHT, 1, 24)
    yield "BMP, OS/2", core + picture()[::-1, :, ::-1].tobytes()


def pngs() -> Iterator[tuple[str, bytes]]:
    """PNGs of all colour types and depths."""
    image = Image.fromarray(picture())
    grey = image.convert("L")
    alpha = np.dstack([picture(), np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)])
    gamma, srgb = chunk(b"gAMA", struct.pack(">I", 100000)), chunk(b"sRGB", b"\0")
    frames = [Image.fromarray(np.full((HEIGHT, WIDTH, 3), level, np.uint8)) for level in (50, 100, 200)]
    yield "PNG, RGB", png(picture(), 2)
    yield "PNG, RGB, interlaced", png(picture(), 2, interlaced=True)
    yield "PNG, RGB, transparent colour", png(picture(), 2, chunk(b"tRNS", struct.pack(">HHH", *picture()[3, 3])))
    yield "PNG, RGB, gamma", png(picture(), 2, gamma)
    yield "PNG, RGB, sRGB", png(picture(), 2, srgb)
    yield "PNG, RGB, ICC profile", save(image, "PNG", icc_profile=profile())
    yield "PNG, grey", png(picture()[..., :1], 0)
    yield "PNG, grey, transparent level", png(picture()[..., :1], 0, chunk(b"tRNS", struct.pack(">H", 100)))
    yield "PNG, RGBA", png(alpha, 6)
    yield "PNG, grey with alpha", png(alpha[..., 2:], 4)
    for name, channels, colour in (("grey", 1, 0), ("grey with alpha", 2, 4), ("RGB", 3, 2), ("RGBA", 4, 6)):
        yield f"PNG, 16-bit {name}", png(deep(channels), colour)
        yield f"PNG, 16-bit {name}, interlaced", png(deep(channels), colour, interlaced=True)
    yield "PNG, 16-bit RGB, transparent colour", png(deep(3), 2, chunk(b"tRNS", struct.pack(">HHH", *deep(3)[3, 3])))
    yield "PNG, 1 bit", save(image.convert("1"), "PNG")
    yield "PNG, 2-bit grey", packed(2)
    yield "PNG, 4-bit grey", packed(4)
    yield "PNG, palette", save(image.quantize(200), "PNG")
    yield "PNG, palette of 4", save(image.quantize(4), "PNG")
    yield "PNG, palette, transparent colours", save(image.quantize(8), "PNG", transparency=bytes([0, 128, 255]))
    yield "PNG, EXIF", save(image, "PNG", exif=rotated(6))
    yield "PNG, animated", save(frames[0], "PNG", save_all=True, append_images=frames[1:])
    yield "PNG, one pixel", save(Image.new("RGB", (1, 1), "red"), "PNG")
    yield "PNG, bytes behind the end", save(grey, "PNG") + b"and a note"


def packed(bits: int) -> bytes:
    """A grey PNG with 2 or 4 bits per pixel."""
    levels = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % (1 << bits)
    binary = np.unpackbits(levels[..., None], axis=2)[..., 8 - bits :].reshape(HEIGHT, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in binary)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def jpegs() -> Iterator[tuple[str, bytes]]:
    """JPEGs of all kinds."""
    image = Image.fromarray(picture())
    cmyk = Image.merge("CMYK", [*image.split(), Image.fromarray(picture()[::-1, :, 0] // 2)])
    plain = save(image, "JPEG", quality=90)
    yield "JPEG", plain
    yield "JPEG, progressive", save(image, "JPEG", progressive=True)
    for subsampling in ("4:4:4", "4:2:2", "4:1:1"):
        yield f"JPEG, {subsampling}", save(image, "JPEG", subsampling=subsampling)
    yield "JPEG, grey", save(image.convert("L"), "JPEG")
    yield "JPEG, restart markers", save(image, "JPEG", restart_marker_rows=1)
    yield "JPEG, quality 100", save(image, "JPEG", quality=100, subsampling=0)
    yield "JPEG, RGB", save(image, "JPEG", keep_rgb=True)
    yield "JPEG, EXIF", save(image, "JPEG", exif=rotated(6))
    yield "JPEG, ICC profile", save(image, "JPEG", icc_profile=profile())
    yield "JPEG, CMYK", save(cmyk, "JPEG", quality=95)
    adobe = save(cmyk, "JPEG", quality=95)
    at = adobe.index(b"Adobe") - 4
    yield "JPEG, CMYK without Adobe's marker", adobe[:at] + adobe[at + 16 :]
    yield "JPEG, YCCK", adobe.replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2")
    yield "JPEG, bytes behind the end", plain + b"and a note"
    yield "JPEG, zero bytes behind the end", plain + bytes(100)
    yield "JPEG, a second one behind it", plain + save(image.rotate(180), "JPEG")
    yield "MPO", save(image, "MPO", save_all=True, append_images=[image.rotate(180)])
    for name, text in RARE.items():
        yield name, base64.b64decode(text)


def others() -> Iterator[tuple[str, bytes]]:
    """WebP images, unsupported formats, and files that are not images."""
    image = Image.fromarray(picture())
    frames = [Image.fromarray(np.full((HEIGHT, WIDTH, 3), level, np.uint8)) for level in (50, 100, 200)]
    yield "WebP, lossy", save(image, "WEBP")
    yield "WebP, lossless", save(image, "WEBP", lossless=True)
    transparent = image.convert("RGBA")
    transparent.putalpha(Image.fromarray(picture()[..., 0]))
    yield "WebP, lossy with alpha", save(transparent, "WEBP")
    yield "WebP, lossless with alpha", save(transparent, "WEBP", lossless=True)
    yield "WebP, animated", save(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    yield "WebP, EXIF", save(image, "WEBP", exif=rotated(6))
    yield "WebP, bytes behind the end", save(image, "WEBP") + b"and a note"
    for kind in ("GIF", "TIFF", "PPM", "JPEG2000", "ICO", "AVIF", "TGA", "PCX"):
        yield kind, save(image, kind)
    yield "no bytes", b""
    yield "one byte", b"\xff"
    yield "a web page", b"<html>404</html>"
    yield "noise", np.random.default_rng(0).bytes(3000)


def whole() -> dict[str, bytes]:
    """All undamaged images, and files that are not images, by description."""
    return dict([*jpegs(), *pngs(), *bitmaps(), *others()])


def rotated(orientation: int) -> Image.Exif:
    """EXIF data with an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def profile() -> bytes:
    """A colour profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
