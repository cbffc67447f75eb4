"""The benchmark of segment widths: what it counts is what a search of the files finds, and mistakes are one line."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.benchmarks import fails
from support.jpegs import jpeg, needs_jpegtran
from support.loaders import CPU
from support.trees import make_tree

from pipelines.loading.crop_geometry import decode_window
from pipelines.loading.epoch_plan import Augmentation, EpochPlan
from pipelines.loading.preprocessing import Preprocessing
from pipelines.loading.reference_loader import ReferenceLoader
from pipelines.preparation.restart_markers import with_restart_markers
from pipelines.preparation.shard_writer import write_shards
from pipelines.stores.image_header import jpeg_frame, jpeg_segments
from pipelines.stores.open import open_store
from pipelines.stores.sample_store import SampleStore
from vgg_dist.benchmark.__main__ import run
from vgg_dist.benchmark.options import SegmentsBenchmark

pytestmark = needs_jpegtran
PREPROCESSING = Preprocessing(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kinds = [
        jpeg(375, 500, "-sample", "2x2"),
        jpeg(333, 500, "-sample", "1x1", seed=1),
        jpeg(700, 260, "-sample", "2x2", seed=2),
        jpeg(300, 1100, "-grayscale", seed=3),
        jpeg(100, 120, seed=4),  # too small for restart markers
        jpeg(400, 600, "-progressive", seed=5),
        jpeg(500, 333, seed=6),
    ]
    files = {f"train/{'ab'[number % 2]}/{number}.jpg": kind for number, kind in enumerate(kinds)}
    return make_tree(tmp_path_factory.mktemp("photographs"), files)


def small(data: Path, **settings: Any) -> SegmentsBenchmark:
    options = SegmentsBenchmark(
        data=str(data), images=6, threads=1, rounds=2, widths=("16", "100", "row"), train_scales=("256", "300-512")
    )
    return replace(options, **settings)


def first_images(store: SampleStore, count: int) -> list[bytes]:
    return [store.read(index) for index in EpochPlan(len(store), 0, 0, Augmentation()).samples.index[:count].tolist()]


def windows(images: list[bytes], scale: tuple[int, int]) -> list[tuple[int, list[int], list[int]]]:
    """For each sample: the image, and its window's first pixel (y, x) and the one after its last."""
    samples = EpochPlan(len(images), 0, 0, Augmentation(scale)).samples
    frames = [jpeg_frame(images[index]) for index in samples.index.tolist()]
    source = np.array([(frame.height, frame.width) for frame in frames if frame])
    resized, corner = PREPROCESSING.geometry(source, samples)
    window = decode_window(source, resized, corner, 224)
    ends = window.start + window.shape
    return list(zip(samples.index.tolist(), window.start.tolist(), ends.tolist(), strict=True))


def bytes_and_pixels(encoded: bytes, start: list[int], end: list[int]) -> tuple[int, int]:
    """What must be read of a JPEG with restart markers, and decoded, for this window and the 2 px around it.

    Looks at every segment of the file.
    """
    frame, segments = jpeg_frame(encoded), jpeg_segments(encoded)
    assert frame is not None
    assert segments is not None
    scan = segments[-1].end
    (interval,) = (int.from_bytes(encoded[each.start + 4 : each.end]) for each in segments if each.marker == 0xDD)
    ends = [scan + match.end() for match in re.finditer(rb"\xff[\xd0-\xd7]", encoded[scan:])] + [len(encoded)]
    begins, touched = [scan, *ends[:-1]], []
    for k in range(len(ends)):
        row, first_mcu = divmod(k * interval, frame.mcus_per_row)
        top, left = row * frame.mcu_height, first_mcu * frame.mcu_width
        bottom = min(top + frame.mcu_height, frame.height)
        right = min(left + interval * frame.mcu_width, frame.width)
        if top < end[0] + 2 and bottom > start[0] - 2 and left < end[1] + 2 and right > start[1] - 2:
            touched.append((k, (bottom - top) * (right - left)))
    header = scan - 2  # without SOI; cjpeg writes no metadata
    return header + ends[touched[-1][0]] - begins[touched[0][0]], sum(pixels for _, pixels in touched)


def test_bytes_and_pixels_are_those_that_a_search_of_the_files_finds(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nvidia.dali")
    file = tmp_path / "segments.json"
    run(small(photographs, json=file))
    record = json.loads(file.read_text())
    assert record["benchmark"] == "segments"
    figures = record["segments"]
    assert list(figures) == ["none", "16", "100", "row"]
    originals = first_images(open_store(str(photographs), "train"), 6)
    all_bytes = sum(len(image) for image in originals)
    frames = [frame for image in originals if (frame := jpeg_frame(image))]
    all_pixels = sum(frame.height * frame.width for frame in frames)
    widths = {"none": None, "16": 16, "100": 100, "row": math.inf}
    for name, width in widths.items():
        cuttable = [width and with_restart_markers(image, "jpegtran", segment_width=width) for image in originals]
        images = [transcoded or image for transcoded, image in zip(cuttable, originals, strict=True)]
        figure = figures[name]
        assert figure["images"] == 6
        assert figure["images_cut"] == sum(image is not None for image in cuttable)
        assert figure["bytes_added"] == pytest.approx(sum(map(len, images)) / all_bytes - 1)
        for scale, ends in {"256": (256, 256), "300-512": (300, 512)}.items():
            found = [
                bytes_and_pixels(images[index], start, end)
                if cuttable[index]
                else (len(images[index]), frames[index].height * frames[index].width)
                for index, start, end in windows(originals, ends)
            ]
            at_scale = figure["scales"][scale]
            assert at_scale["bytes_read"] == pytest.approx(sum(size for size, _ in found) / all_bytes)
            assert at_scale["pixels_decoded"] == pytest.approx(sum(pixels for _, pixels in found) / all_pixels)
            inside = [math.prod(np.subtract(end, start).tolist()) for _, start, end in windows(originals, ends)]
            assert at_scale["window_pixels"] == pytest.approx(sum(inside) / all_pixels)
            assert len(at_scale["images_per_second"]) == 2
            assert min(at_scale["images_per_second"]) > 0
    _, _, rule, *rows = capsys.readouterr().out.splitlines()[:7]
    assert set(rule) == {"-", " "}
    assert [row.split("  ")[0] for row in rows] == ["none", "16 px", "100 px", "row"]
    for row, figure in zip(rows, figures.values(), strict=True):
        at_scale = figure["scales"]["300-512"]
        shares = [f"{at_scale[key]:.1%}" for key in ("bytes_read", "pixels_decoded")]
        assert row.split()[-2:] == shares
        assert f" {figure['bytes_added']:+.1%} " in row


def test_an_image_that_dali_refuses_is_one_line(photographs: Path) -> None:
    pytest.importorskip("nvidia.dali")
    from pipelines.loading.dali_inputs import DaliInputs
    from vgg_dist.benchmark.segments import WindowDecoder, prepare

    store = open_store(str(photographs), "train")
    inputs = DaliInputs(ReferenceLoader(store, PREPROCESSING, 1, CPU), decodes_windows=True, cut_outs=True)
    (batch,) = prepare(inputs, EpochPlan(len(store), 0, 0, Augmentation()).samples, 1)
    damaged = replace(batch, encoded=[np.zeros(1000, np.uint8), *batch.encoded[1:]])
    with pytest.raises(ValueError, match=r"--data: DALI cannot decode an image: \w.+") as error:
        WindowDecoder(PREPROCESSING, 1).seconds([batch, damaged])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widths", "48", "column"], "--widths column: must be a whole number of pixels of at least 1, or row"),
        (["--widths", "0"], "--widths 0: must be a whole number of pixels of at least 1, or row"),
        (["--widths"], "--widths: needs at least one value"),
        (["--train-scales", "256", "100"], "--train-scales 100: must be at least 224"),
        (["--train-scales", "512-256"], "--train-scales 256: must be at least 512"),
        (["--train-scales", "large"], "--train-scales large: must be a number of pixels, such as 256, or a range"),
        (["--rounds", "0"], "--rounds 0: must be at least 1"),
        (["--json", "nowhere/at/all.json"], "--json nowhere/at/all.json: cannot be written"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert message in fails(capsys, monkeypatch, "segments", "--data", "synthetic", *arguments)


@pytest.mark.parametrize("benchmark", ["loader", "segments"])
def test_without_dali_one_line_says_so(
    benchmark: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    assert f"{benchmark}: needs DALI, which is not installed" in fails(capsys, monkeypatch, benchmark, "--data", "synthetic")


def test_without_jpegtran_one_line_names_its_package(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nvidia.dali")
    monkeypatch.setenv("PATH", str(tmp_path))
    line = fails(capsys, monkeypatch, "segments", "--data", str(photographs))
    assert "segments: jpegtran is not installed (Debian: apt-get install libjpeg-turbo-progs;" in line


def test_data_that_is_no_use_is_named(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged images, and shards that have restart markers already."""
    pytest.importorskip("nvidia.dali")
    image = jpeg(240, 320)
    damaged = make_tree(tmp_path / "damaged", {"train/a/good.jpg": image, "train/b/bad.jpg": image[:2000]})
    line = fails(capsys, monkeypatch, "segments", "--data", str(damaged), "--threads", "1")
    assert re.search(r"train/b/bad\.jpg: .*truncated.*pipelines\.prepare check", line)
    store = open_store(str(photographs), "train")
    write_shards(store, "train", tmp_path / "shards", shard_bytes=10**8, seed=0, jpegtran="jpegtran")
    line = fails(capsys, monkeypatch, "segments", "--data", str(tmp_path / "shards"), "--threads", "1")
    assert "has restart markers" in line
