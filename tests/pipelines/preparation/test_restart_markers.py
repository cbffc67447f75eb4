"""JPEGs that get restart markers as they are sharded, and images that stay as they are."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.jpegs import jpeg, needs_jpegtran, pixels
from support.loaders import CPU, MEAN
from support.trees import make_tree, snapshot

from pipelines.loading.dali_graph import Decoding
from pipelines.loading.epoch_plan import Augmentation, EpochPlan
from pipelines.loading.preprocessing import Preprocessing
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


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


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


@pytest.mark.parametrize("width", [320, 376, 424, 500, 1024, 4000])
def test_segments_are_near_the_wanted_width_and_end_with_each_row(width: int) -> None:
    encoded = with_restart_markers(jpeg(200, width, "-sample", "1x1"), JPEGTRAN)
    assert encoded is not None
    segments = {segment.marker: segment for segment in jpeg_segments(encoded) or []}
    interval = int.from_bytes(encoded[segments[0xDD].start + 4 : segments[0xDD].end])
    mcus = -(-width // 8)
    assert mcus % interval == 0
    wanted = max(SEGMENT_WIDTH, width / 10)
    others = [n for n in range(1, mcus + 1) if mcus % n == 0]
    assert all(abs(np.log(interval * 8 / wanted)) <= abs(np.log(n * 8 / wanted)) for n in others)


# --- shards


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes with images of many kinds: sampling, progressive coding, grey, CMYK, PNG, small, strips, metadata."""
    kinds = {
        "a/420.jpg": jpeg(375, 500, "-sample", "2x2"),
        "a/444.jpg": jpeg(333, 500, "-sample", "1x1", seed=1),
        "a/422.jpg": jpeg(301, 404, "-sample", "2x1", seed=2),
        "a/440.jpg": jpeg(404, 301, "-sample", "1x2", seed=3),
        "a/progressive.jpg": jpeg(400, 600, "-progressive", seed=4),
        "a/grey.jpg": jpeg(300, 400, "-grayscale", seed=5),
        "a/rgb.jpg": jpeg(300, 400, "-rgb", seed=6),
        "b/cmyk.jpg": STAY["CMYK"],
        "b/png.png": STAY["PNG"],
        "b/small.jpg": STAY["small"],
        "b/strip.jpg": jpeg(90, 2000, seed=7),
        "b/large.jpg": jpeg(1500, 2000, seed=8),
        "b/tall.jpg": jpeg(700, 131, "-sample", "2x2", seed=9),
    }
    files = {f"{split}/{name}": data for split in ("train", "val") for name, data in kinds.items()}
    return make_tree(tmp_path_factory.mktemp("kinds"), files)


@pytest.fixture(scope="module")
def shards(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    for split in ("train", "val"):
        write_shards(open_store(str(tree), split), split, out, shard_bytes=200_000, seed=0, jpegtran=JPEGTRAN)
    return out


def test_shards_have_the_same_pixels_and_say_which_can_be_cut(tree: Path, shards: Path) -> None:
    store, written = open_store(str(tree), "train"), open_store(str(shards), "train")
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


GRAPHS = {
    "windows": None,
    "crops": Decoding("cpu", cut_outs=True),
    "windows on the GPU's graph": Decoding("cpu", regions=True, cut_outs=True),
}


@pytest.mark.parametrize("pad", [0, 16])
@pytest.mark.parametrize("graph", GRAPHS)
def test_batches_from_cut_outs_are_those_from_whole_images(tree: Path, shards: Path, graph: str, pad: int) -> None:
    """For every kind of image, size and place of the crop, flips included."""
    pytest.importorskip("nvidia.dali")
    from pipelines.loading.dali_loader import DaliLoader

    store, written = open_store(str(tree), "train"), open_store(str(shards), "train")
    names = [Path(store.name(i)).stem for i in range(len(store))]
    order = np.array([names.index(Path(written.name(i)).stem) for i in range(len(written))])
    store = store.subset(order)
    preprocessing = Preprocessing(64, MEAN, (1.0, 1.0, 1.0), pad=pad)
    for epoch, scale in enumerate([(64, 64), (80, 160), (64, 400)]):
        samples = EpochPlan(len(store), 0, epoch, Augmentation(scale)).samples
        batches = []
        for each in (store, written):
            loader = DaliLoader(each, preprocessing, 2, CPU, len(store), GRAPHS[graph])
            (batch,) = loader.batches([samples])
            assert not loader.bad_images
            batches.append(batch.images.numpy().copy())
        # In large images DALI rounds the exact edges of a crop differently, depending on where they are counted from.
        assert np.abs(batches[0] - batches[1]).max() <= (1.0 if graph == "crops" else 0.0)
        assert (batches[0] == batches[1]).mean() > 0.999


def test_a_run_that_was_killed_goes_on_to_the_same_shards(tree: Path, shards: Path, tmp_path: Path) -> None:
    """Whatever was complete stays; a tar that lacks its end is written again."""
    tars = sorted(path.name for path in shards.glob("train-*.tar"))
    assert len(tars) > 3
    made_from = ShardIndex.from_bytes((shards / "train.index.npz").read_bytes(), "").made_from
    files = {
        f"out/{tar[:-4]}{end}": (shards / f"{tar[:-4]}{end}").read_bytes() for tar in tars[:2] for end in (".tar", ".idx")
    }
    files[f"out/{tars[1]}"] = files[f"out/{tars[1]}"][:-600]
    make_tree(tmp_path, files | {"out/train.writing": made_from.encode(), f"out/{tars[2]}.part": b"half"})
    first = tmp_path / "out" / tars[0]
    before = first.stat().st_mtime_ns
    write_shards(open_store(str(tree), "train"), "train", tmp_path / "out", shard_bytes=200_000, seed=0, jpegtran=JPEGTRAN)
    assert first.stat().st_mtime_ns == before
    written = {name: data for name, data in snapshot(tmp_path / "out").items() if not name.endswith(".part")}
    assert written == {name: data for name, data in snapshot(shards).items() if name.startswith("train")}


def test_sharding_shards_again_changes_no_image(shards: Path, tmp_path: Path) -> None:
    assert main(["shard", "--data", str(shards), "--out", str(tmp_path / "again"), "--shard-size", "1"]) == 0
    images = [{open_store(str(each), "train").read(i) for i in range(13)} for each in (shards, tmp_path / "again")]
    assert images[0] == images[1]


def test_without_jpegtran_one_line_says_so_and_shards_are_written(
    tree: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    command = ["shard", "--data", str(tree), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    said = capfd.readouterr()
    assert "jpegtran is not installed (Debian: apt-get install libjpeg-turbo-progs;" in said.err
    assert "restart markers in" not in said.out
    store, original = open_store(str(tmp_path / "out"), "train"), open_store(str(tree), "train")
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
