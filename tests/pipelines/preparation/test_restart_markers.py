"""JPEGs that get restart markers as they are sharded, and images that stay as they are."""

from __future__ import annotations

import io
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.jpegs import jpeg, needs_jpegtran, pixels, saved
from support.trees import make_tree, snapshot

from pipelines.pixels import decode
from pipelines.preparation.restart_markers import MIN_PIXELS, SEGMENT_WIDTH, with_restart_markers
from pipelines.preparation.shard_writer import write_shards
from pipelines.prepare import main
from pipelines.stores.image_header import jpeg_segments
from pipelines.stores.open import open_store
from pipelines.stores.restart_table import cut_out_header
from pipelines.stores.shard_index import ShardIndex

pytestmark = needs_jpegtran
JPEGTRAN = "jpegtran"


PICTURE = Image.fromarray(pixels(240, 320))
STAY = {
    "PNG": saved(PICTURE, "PNG"),
    "CMYK": saved(PICTURE.convert("CMYK"), "JPEG"),
    "small": saved(PICTURE.resize((127, 128)), "JPEG"),
    "cut short": saved(PICTURE, "JPEG")[:-200],
    "empty": b"",
    "text": b"not an image at all",
    "several images": saved(PICTURE, "MPO", save_all=True, append_images=[PICTURE]),
}


@pytest.mark.parametrize("kind", STAY)
def test_what_cannot_be_transcoded_or_gains_nothing_stays(kind: str) -> None:
    assert with_restart_markers(STAY[kind], JPEGTRAN) is None


def test_arithmetic_coding_and_wrong_restart_markers_stay() -> None:
    assert with_restart_markers(jpeg(240, 320, "-arithmetic"), JPEGTRAN) is None
    right = jpeg(240, 320, "-restart", "1")
    assert with_restart_markers(right, JPEGTRAN) is not None
    wrong = right.replace(b"\xff\xd1", b"\xff\xd5")  # viewers open it, with a warning at most
    assert np.asarray(Image.open(io.BytesIO(wrong))).shape == (240, 320, 3)
    assert with_restart_markers(wrong, JPEGTRAN) is None


def test_metadata_is_kept_in_front_and_no_part_of_cut_outs() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description " * 100
    original = saved(PICTURE, "JPEG", exif=exif, icc_profile=b"profile" * 50, comment=b"a comment")
    encoded = with_restart_markers(original, JPEGTRAN)
    assert encoded is not None
    with Image.open(io.BytesIO(encoded)) as image, Image.open(io.BytesIO(original)) as before:
        assert image.getexif() == before.getexif()
        assert image.info["icc_profile"] == before.info["icc_profile"]
        assert image.info["comment"] == before.info["comment"]
    first, scan = cut_out_header(encoded) or (0, 0)
    assert b"a description" not in encoded[first:scan]
    assert len(encoded) - scan > 0.8 * len(original) - 2000


def test_transcoding_again_gives_the_same_file() -> None:
    once = with_restart_markers(jpeg(240, 320), JPEGTRAN)
    assert once is not None
    assert with_restart_markers(once, JPEGTRAN) == once


def mcus_a_segment(encoded: bytes | None) -> int:
    assert encoded is not None
    segments = {segment.marker: segment for segment in jpeg_segments(encoded) or []}
    return int.from_bytes(encoded[segments[0xDD].start + 4 : segments[0xDD].end])


@pytest.mark.parametrize("segment_width", [8, SEGMENT_WIDTH, 200])
@pytest.mark.parametrize("width", [320, 376, 424, 500, 1024, 4000])
def test_segments_are_near_the_wanted_width_and_end_with_each_row(width: int, segment_width: int) -> None:
    image = jpeg(200, width, "-sample", "1x1")
    interval = mcus_a_segment(with_restart_markers(image, JPEGTRAN, segment_width=segment_width))
    mcus = -(-width // 8)
    assert mcus % interval == 0
    wanted = segment_width * max(1, width / 480)
    others = [n for n in range(1, mcus + 1) if mcus % n == 0]
    assert all(abs(np.log(interval * 8 / wanted)) <= abs(np.log(n * 8 / wanted)) for n in others)


def test_the_default_is_48_px_or_a_tenth_of_the_image_and_infinity_is_a_row() -> None:
    for width, mcus in [(480, 6), (960, 12)]:
        image = jpeg(200, width, "-sample", "1x1")
        assert mcus_a_segment(with_restart_markers(image, JPEGTRAN)) == mcus
        assert mcus_a_segment(with_restart_markers(image, JPEGTRAN, segment_width=math.inf)) == width // 8


# --- shards


def test_shards_have_the_same_pixels_and_say_which_can_be_cut(kinds_tree: Path, kinds_shards: Path) -> None:
    store, written = open_store(str(kinds_tree), "train"), open_store(str(kinds_shards), "train")
    stay = {"cmyk", "png", "small"}
    stems = {Path(store.name(i)).stem: i for i in range(len(store))}
    can_cut = written.can_cut_out(np.arange(len(written)))
    for index in range(len(written)):
        stem = Path(written.name(index)).stem
        original = store.read(stems[stem])
        assert np.array_equal(decode(written.read(index)), decode(original))
        assert (written.read(index) == original) == (stem in stay)
        assert can_cut[index] == (stem not in stay)
        assert written.size(index) == decode(original).shape[:2]


def test_a_run_that_was_killed_goes_on_to_the_same_shards(kinds_tree: Path, kinds_shards: Path, tmp_path: Path) -> None:
    """Whatever was complete stays; a tar that lacks its end is written again."""
    tars = sorted(path.name for path in kinds_shards.glob("train-*.tar"))
    assert len(tars) > 3
    made_from = ShardIndex.from_bytes((kinds_shards / "train.index.npz").read_bytes(), "").made_from
    complete = [tars[k].replace(".tar", end) for k in (0, 1) for end in (".tar", ".idx")]
    files = {f"out/{name}": (kinds_shards / name).read_bytes() for name in complete}
    files[f"out/{tars[1]}"] = files[f"out/{tars[1]}"][:-600]
    make_tree(tmp_path, files | {"out/train.writing": made_from.encode(), f"out/{tars[2]}.part": b"half"})
    first = tmp_path / "out" / tars[0]
    before = first.stat().st_mtime_ns
    write_shards(
        open_store(str(kinds_tree), "train"), "train", tmp_path / "out", shard_bytes=200_000, seed=0, jpegtran=JPEGTRAN
    )
    assert first.stat().st_mtime_ns == before
    written = {name: data for name, data in snapshot(tmp_path / "out").items() if not name.endswith(".part")}
    assert written == {name: data for name, data in snapshot(kinds_shards).items() if name.startswith("train")}


def test_sharding_shards_again_changes_no_image(kinds_shards: Path, tmp_path: Path) -> None:
    assert main(["shard", "--data", str(kinds_shards), "--out", str(tmp_path / "again"), "--shard-size", "1"]) == 0
    images = [{open_store(str(each), "train").read(i) for i in range(13)} for each in (kinds_shards, tmp_path / "again")]
    assert images[0] == images[1]


def test_without_jpegtran_one_line_says_so_and_shards_are_written(
    kinds_tree: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    command = ["shard", "--data", str(kinds_tree), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    said = capfd.readouterr()
    assert "jpegtran is not installed (Debian: apt-get install libjpeg-turbo-progs;" in said.err
    assert "restart markers in" not in said.out
    store, original = open_store(str(tmp_path / "out"), "train"), open_store(str(kinds_tree), "train")
    assert {store.read(i) for i in range(len(store))} == {original.read(i) for i in range(len(original))}
    assert not store.can_cut_out(np.arange(len(store))).any()
    assert main([*command, "--no-restart-markers"]) == 0  # the same shards
    assert "jpegtran" not in capfd.readouterr().err


def test_a_jpegtran_that_fails_or_changes_pixels_leaves_images_as_they_are(tmp_path: Path) -> None:
    original = jpeg(240, 320)
    for number, script in enumerate(
        ["exit 1", "echo no jpeg", "cjpeg -version 2>/dev/null; cat >/dev/null", "jpegtran -flip horizontal -restart 4B"]
    ):
        program = tmp_path / f"jpegtran{number}"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        assert with_restart_markers(original, str(program)) is None
    assert MIN_PIXELS < 240 * 320
    assert subprocess.run(["jpegtran", "-version"], capture_output=True, env=os.environ).returncode == 0


def test_dalis_own_reader_sees_the_original_pixels(kinds_tree: Path, kinds_shards: Path) -> None:
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def

    original = open_store(str(kinds_tree), "train")
    rgb = [index for index in range(len(original)) if "cmyk" not in original.name(index)]
    expected = [decode(original.read(index)) for index in rgb]
    tars = sorted(map(str, kinds_shards.glob("train-*.tar")))

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def read() -> object:
        indexes = [tar.replace(".tar", ".idx") for tar in tars]
        encoded, _ = fn.readers.webdataset(paths=tars, index_paths=indexes, ext=["jpg;png", "cls"])
        return fn.decoders.image(encoded)

    pipeline = read()
    found = [np.array(pipeline.run()[0][0]) for _ in range(len(original))]
    assert all(sum(np.array_equal(each, pixels) for pixels in found) == 1 for each in expected)
