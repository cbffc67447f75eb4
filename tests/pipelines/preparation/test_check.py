"""`prepare check`: what it finds in images, and the quarantine list that it writes."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.remote_data import flip_bit
from support.trees import make_tree, picture

from pipelines.preparation.inspection import inspect
from pipelines.prepare import main
from pipelines.stores.open import open_splits, open_store


def rotated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def noisy(encoded: bytes) -> bytes:
    """The JPEG with noise in the middle of its entropy-coded data, which includes markers; its length is unchanged."""
    middle = np.random.default_rng(0).integers(0, 255, len(encoded) // 2, np.uint8).tobytes()
    start = len(encoded) // 3
    return encoded[:start] + middle + encoded[start + len(middle) :]


def animation(extension: str) -> bytes:
    frames = [Image.fromarray(np.full((8, 8, 3), grey, np.uint8)) for grey in (0, 100, 200)]
    stream = io.BytesIO()
    frames[0].save(stream, extension, save_all=True, append_images=frames[1:])
    return stream.getvalue()


def sixteen_bit() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(stream, "PNG")
    return stream.getvalue()


UNREADABLE = {
    "zero.jpg": b"",
    "cut.JPEG": picture(0)[:-200],
    "cut.png": picture(0, "PNG")[:-200],
    "cut.bmp": picture(0, "BMP")[:-200],
    "cut.webp": picture(0, "WEBP")[:-200],
    "header.jpg": picture(0)[:30],
    "noise.jpg": noisy(picture(0)),
    "text.jpg": b"<html>Not found</html>",
    "gif.jpg": picture(0, "GIF"),
}
REMARKABLE = {
    "grey.jpg": (picture(0, mode="L"), {"grey"}),
    "cmyk.jpg": (picture(0, mode="CMYK"), {"CMYK"}),
    "png.JPEG": (picture(0, "PNG"), {"mis-named"}),
    "jpeg.png": (picture(0), {"mis-named"}),
    "exif.jpg": (picture(0, exif=rotated(6)), {"EXIF-rotated"}),
    "exif.webp": (picture(0, "WEBP", exif=rotated(3)), {"EXIF-rotated"}),
    "alpha.png": (picture(0, "PNG", "RGBA"), {"alpha"}),
    "alpha.webp": (picture(0, "WEBP", "RGBA"), {"alpha"}),
    "greyalpha.png": (picture(0, "PNG", "LA"), {"alpha", "grey"}),
    "deep.png": (sixteen_bit(), {"16-bit", "grey"}),
    "animated.webp": (animation("WEBP"), {"animated"}),
    "animated.png": (animation("PNG"), {"animated"}),
}
PLAIN = {
    "plain.jpg": picture(0),
    "upright.jpg": picture(0, exif=rotated(1)),
    "progressive.JPEG": picture(0, progressive=True),
    "two.jpg": animation("MPO"),
    "palette.png": picture(0, "PNG", "P"),
    "plain.png": picture(0, "PNG"),
    "plain.bmp": picture(0, "BMP"),
    "plain.webp": picture(0, "WEBP"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_inspect_finds_what_cannot_be_decoded(name: str) -> None:
    assert [finding.kind for finding in inspect(UNREADABLE[name], name)] == ["unreadable"]


def test_inspect_remarks_on_the_unusual_and_on_nothing_else() -> None:
    for name, (encoded, kinds) in REMARKABLE.items():
        assert {finding.kind for finding in inspect(encoded, name)} == kinds, name
    for name, encoded in PLAIN.items():
        assert inspect(encoded, name) == [], name


def test_inspect_real_photographs(imagenet_samples: list[Path]) -> None:
    for path in imagenet_samples[::10]:
        kinds = {finding.kind for finding in inspect(path.read_bytes(), path.name)}
        with Image.open(path) as image:
            assert ("grey" in kinds) == (image.mode == "L")
        assert "unreadable" not in kinds


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    images = PLAIN | {name: encoded for name, (encoded, _) in REMARKABLE.items()} | UNREADABLE
    files = {f"train/{'ab'[i % 2]}/{name}": encoded for i, (name, encoded) in enumerate(images.items())}
    return make_tree(tmp_path / "mixed", files | {"val/a/fine.jpg": PLAIN["plain.jpg"], "val/b/zero.jpg": b""})


def test_check_lists_everything_and_quarantines_the_unreadable(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--data", str(mixed), "--threads", "3"]) == 1
    lines = capsys.readouterr().out.splitlines()
    listed = {(kind, name.rpartition("/")[2]) for kind, name, _ in (line.split("\t") for line in lines[:-2])}
    expected = {("unreadable", name) for name in [*UNREADABLE, "zero.jpg"]}
    expected |= {(kind, name) for name, (_, kinds) in REMARKABLE.items() for kind in kinds}
    assert listed == expected
    counts = "1 16-bit, 1 CMYK, 2 EXIF-rotated, 3 alpha, 2 animated, 3 grey, 2 mis-named, 10 unreadable"
    assert lines[-2] == f"31 images: {counts}"
    assert lines[-1] == f"10 samples in {mixed}/quarantine.txt"

    train, val = open_splits(str(mixed))
    assert {Path(train.name(i)).name for i in range(len(train))} == {*PLAIN, *REMARKABLE}
    assert [val.name(i) for i in range(len(val))] == ["val/a/fine.jpg"]
    assert main(["check", "--data", str(mixed)]) == 1  # quarantined images are checked again


def test_check_forgets_what_has_been_repaired_and_keeps_what_a_person_added(mixed: Path) -> None:
    assert main(["check", "--data", str(mixed)]) == 1
    for path in mixed.rglob("*.*"):
        if path.name in UNREADABLE:
            path.write_bytes(PLAIN["plain.jpg"])
    with (mixed / "quarantine.txt").open("a") as file:
        file.write("train/a/plain.jpg\tshows nothing\n")
    assert main(["check", "--data", str(mixed)]) == 0
    listed = [line for line in (mixed / "quarantine.txt").read_text().splitlines() if not line.startswith("#")]
    assert listed == ["train/a/plain.jpg\tshows nothing"]


def test_check_of_shards(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shard", "--data", str(mixed), "--out", str(tmp_path / "out")]) == 0
    assert main(["check", "--data", str(tmp_path / "out")]) == 1
    assert "31 images: 1 16-bit, 1 CMYK, 2 EXIF-rotated, 3 alpha" in capsys.readouterr().out
    train, val = open_splits(str(tmp_path / "out"))
    assert (len(train), len(val)) == (20, 1)


def test_check_of_clean_data_writes_no_list(small_tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--data", "synthetic:train=30,val=10"]) == 0
    assert capsys.readouterr().out == "40 images: all plain\n"
    assert main(["check", "--data", str(small_tree)]) == 0
    assert not (small_tree / "quarantine.txt").exists()


@pytest.fixture
def checked_shards(small_shards: Path, tmp_path: Path) -> Path:
    """A copy of the shards, which may be damaged."""
    folder = tmp_path / "checked"
    shutil.copytree(small_shards, folder)
    return folder


def test_bytes_that_differ_from_their_checksum_are_unreadable(
    checked_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(str(checked_shards), "train")
    assert main(["check", "--data", str(checked_shards)]) == 0
    name, shard = store.name(3), store.name(3).partition(":")[0]
    # The last byte of a JPEG is half of its end marker: the image decodes, with or without it.
    flip_bit(f"local://{checked_shards}/{shard}", int(store.index.offset[3]) + store.length(3) - 1)  # type: ignore[attr-defined]
    capsys.readouterr()
    assert main(["check", "--data", str(checked_shards)]) == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("unreadable")]
    assert line == f"unreadable\t{name}\tchecksum does not match: {checked_shards}/{shard} is damaged"
    assert len(open_store(str(checked_shards), "train")) == len(store) - 1


def test_a_damaged_copy_in_the_cache_is_replaced_and_named_once(
    checked_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG_DIST_CACHE", str(tmp_path / "cache"))
    url = f"local://{checked_shards}"
    store = open_store(url, "train")
    store.prefetch()
    shard = store.name(3).partition(":")[0]
    [copy] = (tmp_path / "cache").glob(f"*/{shard}")
    rows = np.flatnonzero(store.index.shard == store.index.shard[3])  # type: ignore[attr-defined]
    for row in rows:
        flip_bit(f"local://{copy}", int(store.index.offset[row]) + store.length(row) // 2)  # type: ignore[attr-defined]
    assert main(["check", "--data", url]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("damaged copy")]
    assert line.endswith(f"{copy} did not match its checksums and was copied again")
    assert copy.read_bytes() == (checked_shards / shard).read_bytes()
    assert not list(checked_shards.glob("quarantine.txt"))


def test_a_record_that_is_damaged_behind_a_url_is_quarantined_and_training_goes_on(
    checked_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG_DIST_CACHE", str(tmp_path / "cache"))
    url = f"local://{checked_shards}"
    store = open_store(url, "train")
    name, shard = store.name(3), store.name(3).partition(":")[0]
    flip_bit(f"{url}/{shard}", int(store.index.offset[3]) + store.length(3) // 2)  # type: ignore[attr-defined]
    assert main(["check", "--data", url]) == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("unreadable")]
    assert line.startswith(f"unreadable\t{name}\t")
    assert "checksum" in line
    assert f"{url}/{shard}" in line
    others = open_store(url, "train")
    assert len(others) == len(store) - 1
    others.prefetch()
    assert [others.read(index) for index in range(len(others))] == [store.read(i) for i in range(len(store)) if i != 3]
