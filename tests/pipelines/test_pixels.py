"""Training, evaluation, prediction and `check` use the same pixels of a file, or refuse it for the same reason."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support import image_zoo
from support.image_files import ALL, DAMAGED, LARGE, ZOO
from support.image_zoo import HEIGHT, WIDTH, deep, picture
from support.loaders import CPU, LOADERS, REFERENCE, Images, load, make

from pipelines.loading.decodable import Route, route
from pipelines.loading.epoch_plan import evaluation_samples
from pipelines.loading.loader import IGNORED_LABEL
from pipelines.loading.preprocessing import Preprocessing
from pipelines.loading.whole_images import WholeImages
from pipelines.pixels import decode, refusal
from pipelines.preparation.inspection import inspect
from pipelines.stores.image_header import image_size
from pipelines.stores.quarantine import UNREADABLE

DAMAGED += ["PNG, 16-bit RGB", "PNG, animated", "BMP, 24 bits", "BMP, RLE8", "WebP, lossy", "WebP, lossless"]
REFUSED = (
    {"JPEG, 12 bits", "GIF", "TIFF", "PPM", "JPEG2000", "ICO", "AVIF", "TGA", "PCX"}
    | {"no bytes", "one byte", "a web page", "noise"}
)  # fmt: skip


@pytest.fixture(scope="module")
def verdicts() -> dict[str, NDArray[np.uint8] | str]:
    """The defined pixels of every image, or the reason why it is refused."""
    found: dict[str, NDArray[np.uint8] | str] = {}
    for name, encoded in ALL.items():
        try:
            found[name] = decode(encoded)
        except OSError as error:
            found[name] = str(error)
    return found


@pytest.mark.parametrize("kind", LOADERS)
def test_loaders_give_the_pixels_of_the_definition_or_its_refusal(
    kind: str, verdicts: dict[str, NDArray[np.uint8] | str], caplog: pytest.LogCaptureFixture
) -> None:
    """Without a rescale, a centre crop has the decoded pixels."""
    caplog.set_level(logging.ERROR)
    names, size = list(ALL), 16
    loader = make(kind, Images(list(ALL.values())), Preprocessing(size, (0.0,) * 3, (1.0,) * 3, center=True))
    for scale in (HEIGHT, 200):  # the size of the zoo's images, and of the large ones
        rows = [k for k, name in enumerate(names) if min(_shape(verdicts[name]), default=scale) == scale]
        batch = load(loader, evaluation_samples(np.array(rows), scale), size=16)
        crops = batch.images.permute(0, 2, 3, 1).numpy()
        for row, crop, label in zip(rows, crops, batch.labels.tolist(), strict=True):
            expected = verdicts[names[row]]
            if isinstance(expected, str):
                assert label == IGNORED_LABEL, names[row]
                assert loader.bad_images[row] == f"image-{row}: {expected}"
                continue
            assert label == row, (names[row], loader.bad_images.get(row))
            top, left = (np.array(expected.shape[:2]) - size + 1) // 2
            difference = abs(crop - expected[top : top + size, left : left + size])
            # DALI's windows of JPEGs may round an interpolated colour differently.
            most = (1.0, 0.3) if ALL[names[row]].startswith(b"\xff\xd8") and kind != REFERENCE else (0.0, 0.0)
            assert (difference.max(), difference.mean()) <= most, (names[row], difference.max(), difference.mean())


def _shape(verdict: NDArray[np.uint8] | str) -> tuple[int, ...]:
    return () if isinstance(verdict, str) else verdict.shape[:2]


def test_whole_images_and_check_say_the_same(verdicts: dict[str, NDArray[np.uint8] | str]) -> None:
    """Without a rescale, a whole image has the decoded pixels."""
    names = list(ALL)
    whole = WholeImages(Images(list(ALL.values())), Preprocessing(16, (0.0,) * 3, (1.0,) * 3), 1, CPU, 1)
    for row, name in enumerate(names):
        expected = verdicts[name]
        found = [finding.detail for finding in inspect(ALL[name], "name.jpg") if finding.kind == UNREADABLE]
        if isinstance(expected, str):
            assert found == [expected], name
            with pytest.raises(OSError, match="cannot be decoded") as raised:
                list(whole.batches(np.array([row]), 16))
            assert str(raised.value) == f"image-{row}: cannot be decoded: {expected}"
        else:
            assert found == [], name
            (batch,) = whole.batches(np.array([row]), min(expected.shape[:2]))
            np.testing.assert_array_equal(batch.images[0].permute(1, 2, 0).numpy(), expected, name)
            assert image_size(ALL[name]) == expected.shape[:2], name


def test_what_is_read_and_what_is_not(verdicts: dict[str, NDArray[np.uint8] | str]) -> None:
    assert {name for name in ZOO if isinstance(verdicts[name], str)} == REFUSED
    assert all(verdict for verdict in verdicts.values() if isinstance(verdict, str))
    assert verdicts["TIFF"] == "is TIFF; only JPEG, PNG, BMP and WebP are supported"
    assert len(ALL) > 150


@pytest.mark.parametrize("name", [name for name in ZOO if name not in REFUSED])
def test_the_end_cut_off_is_refused(name: str) -> None:
    """Except for damage after the end of the first image, which is ignored."""
    encoded = ZOO[name]
    ends_before = "behind" in name or name in ("MPO", "BMP, RLE8", "PNG, animated", "WebP, animated")
    assert ends_before or refusal(encoded[:-16]) is not None


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("channels", "colour"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_sixteen_bits_are_scaled_and_rounded(channels: int, colour: int, interlaced: bool) -> None:
    values = deep(channels)
    expected = np.rint(values[..., : 1 if channels < 3 else 3] / 257).astype(np.uint8)
    assert (decode(image_zoo.png(values, colour, interlaced=interlaced)) == expected).all()


@pytest.mark.parametrize("name", [name for name in ZOO if name.startswith("PNG") and "16" not in name])
def test_other_pngs_as_pillow_converts_them(name: str) -> None:
    with Image.open(io.BytesIO(ZOO[name])) as image:
        image.info.pop("transparency", None)
        assert (decode(ZOO[name]) == np.asarray(image.convert("RGB"))).all()


def test_damaged_text_and_profiles_do_not_matter() -> None:
    text = image_zoo.chunk(b"tEXt", b"Title\0cat")
    damaged = image_zoo.png(picture(), 2, text[:-1] + bytes([text[-1] ^ 1]))
    assert (decode(damaged) == picture()).all()
    assert [finding.kind for finding in inspect(damaged, "a.png")] == ["damaged metadata"]


def test_plain_images_go_to_dali_as_they_are(imagenet_samples: list[Path]) -> None:
    assert {route(path.read_bytes()) for path in imagenet_samples} == {Route.AS_IS}
    for name in ("JPEG", "JPEG, progressive", "JPEG, grey", "JPEG, EXIF", "JPEG, restart markers", "PNG, RGB", "PNG, grey"):
        assert route(ZOO[name]) == Route.AS_IS, name


def test_damaged_jpegs_are_found_before_a_window_or_a_gpu_hides_the_damage() -> None:
    """Every truncation, followed by nothing, by an end marker, by zeros or by noise."""
    noise = np.random.default_rng(0).bytes(1000)
    start = LARGE.index(b"\xff\xda") + 14
    for at in range(start, len(LARGE) - 2, 97):
        for rest in (b"", bytes(500), noise, noise + b"\xff\xd9"):
            assert route(LARGE[:at] + rest) == Route.CHECKED, (at, rest[:4])


def test_decoding_of_bombs_is_refused_before_memory_is_taken() -> None:
    header = image_zoo.png(deep(1)[:1, :1], 0)
    huge = header[:16] + (60_000).to_bytes(4) * 2 + header[24:29]
    huge += image_zoo.zlib.crc32(huge[12:29]).to_bytes(4) + header[33:]
    assert refusal(huge) == "60000 x 60000 pixels, more than --max-pixels 250000000"


def test_the_zoo_holds_what_it_says() -> None:
    assert picture().shape == (HEIGHT, WIDTH, 3)
    exact = ["PNG, RGB", "PNG, RGB, interlaced", "PNG, RGBA", "PNG, RGB, transparent colour", "WebP, lossless"]
    exact += ["BMP, 24 bits", "BMP, 24 bits, top row first", "BMP, 32 bits", "BMP, OS/2"]
    for name in exact:
        assert (decode(ZOO[name]) == picture()).all(), name
    for name in ("BMP, 16 bits", "BMP, 16 bits, 5-6-5", "JPEG", "JPEG, RGB", "WebP, lossy"):
        assert abs(decode(ZOO[name]).astype(int) - picture()).mean() < 5, name
    for name in ("BMP, 8 bits", "BMP, RLE8"):
        assert (decode(ZOO[name])[:, :, 0] == picture()[:, :, 1]).all(), name
