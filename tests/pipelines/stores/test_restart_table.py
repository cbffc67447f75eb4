"""Windows that are cut out of JPEGs: their pixels are those of the whole image, and damage is noticed."""

from __future__ import annotations

import numpy as np
import pytest
from support.jpegs import SAMPLINGS, jpeg, needs_jpegtran

from pipelines.pixels import decode
from pipelines.preparation.restart_markers import with_restart_markers
from pipelines.stores.restart_table import DamagedTable, cut_out, cut_out_header, cut_out_of

pytestmark = needs_jpegtran

# One MCU, smaller than a segment, just over an MCU, primes (whose rows have no middling divisor), a strip, a photograph.
SIZES = [(1, 1), (8, 8), (7, 30), (17, 23), (16, 33), (97, 101), (48, 64), (5, 400), (300, 7), (131, 240), (333, 500)]


def transcoded(*arguments: object) -> bytes:
    encoded = with_restart_markers(jpeg(*arguments), "jpegtran", min_pixels=0)  # type: ignore[arg-type]
    assert encoded is not None
    return encoded


def windows(height: int, width: int, count: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """All of the image, its corners and edges, a pixel in each corner, and `count` at random."""
    rng = np.random.default_rng([height, width])
    ys, xs = sorted({0, height // 2, height - 1}), sorted({0, width // 2, width - 1})
    spans = [((top, left), (bottom + 1, right + 1)) for top in ys for bottom in ys for left in xs for right in xs]
    spans = [(start, end) for start, end in spans if start < end and start[1] < end[1]]
    for _ in range(count):
        top, bottom = np.sort(rng.integers(0, height + 1, 2)).tolist()
        left, right = np.sort(rng.integers(0, width + 1, 2)).tolist()
        spans.append(((min(top, height - 1), min(left, width - 1)), (max(bottom, top + 1), max(right, left + 1))))
    return [(start, (min(end[0], height), min(end[1], width))) for start, end in spans]


@pytest.mark.parametrize("progressive", [[], ["-progressive"]], ids=["baseline", "progressive"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_pixels_of_any_window_are_those_of_the_whole_image(sampling: str, progressive: list[str]) -> None:
    for height, width in SIZES:
        options = [*SAMPLINGS[sampling], *progressive]
        original, encoded = decode(jpeg(height, width, *options)), transcoded(height, width, *options)
        assert np.array_equal(decode(encoded), original)
        for (top, left), (bottom, right) in windows(height, width, 40):
            found = cut_out_of(encoded, (height, width), (top, left), (bottom, right))
            pixels, (y, x) = decode(found.encoded.tobytes()), found.origin
            assert pixels.shape[:2] == found.shape
            assert np.array_equal(pixels[top - y : bottom - y, left - x : right - x], original[top:bottom, left:right])


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_dali_decodes_cut_outs_as_it_decodes_windows(sampling: str) -> None:
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def

    size = 331, 500
    encoded = transcoded(*size, *SAMPLINGS[sampling])
    spans = windows(*size, 40)
    cuts = [cut_out_of(encoded, size, *span) for span in spans]

    shapes = [np.subtract(end, start).astype(np.int32) for start, end in spans]

    def decoded(images: list[np.ndarray], origins: list[tuple[int, int]]) -> list[np.ndarray]:
        starts = [np.subtract(start, origin).astype(np.int32) for (start, _), origin in zip(spans, origins, strict=True)]

        @pipeline_def(batch_size=len(spans), num_threads=2, device_id=None)
        def decoders() -> object:
            given = fn.external_source(source=[(images, starts, shapes)], num_outputs=3, batch=True)
            return fn.decoders.image_slice(given[0], start=given[1], shape=given[2], axis_names="HW")

        (found,) = decoders().run()
        return [np.array(found[k]) for k in range(len(spans))]

    whole_images = decoded([np.frombuffer(encoded, np.uint8)] * len(spans), [(0, 0)] * len(spans))
    cut_outs = decoded([each.encoded for each in cuts], [each.origin for each in cuts])
    for whole, from_cut in zip(whole_images, cut_outs, strict=True):
        assert np.array_equal(whole, from_cut)


def test_a_cut_out_has_only_the_bytes_under_the_window() -> None:
    encoded = transcoded(750, 1024, "-sample", "1x1")
    read: list[tuple[int, int]] = []
    first, scan = cut_out_header(encoded) or (0, 0)

    def reader(at: int, length: int) -> bytes:
        read.append((at, length))
        return encoded[scan + at : scan + at + length]

    found = cut_out(encoded[first:scan], (750, 1024), (300, 400), (412, 512), reader)
    assert len(read) == 1  # in one go
    assert len(found.encoded) < len(encoded) * 0.05
    assert found.shape[0] <= 112 + 4 + 2 * 8
    assert found.shape[1] <= 112 + 4 + 2 * 128


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:0", "grey"])
def test_a_flipped_bit_in_the_header_is_noticed_or_changes_nothing(sampling: str) -> None:
    """Wherever the bit is in the restart table: the cut-out is refused, or it is the same."""
    size, span = (97, 150), ((30, 40), (70, 100))
    encoded = transcoded(*size, *SAMPLINGS[sampling])
    first, scan = cut_out_header(encoded) or (0, 0)
    table, table_end = encoded.index(b"RESTART\0") - 4, encoded.rindex(b"\xff\xda", 0, scan)
    expected = cut_out_of(encoded, size, *span).encoded.tobytes()
    refused = 0
    for position in range(table, table_end):
        for bit in range(8):
            hurt = bytearray(encoded)
            hurt[position] ^= 1 << bit
            data = bytes(hurt)
            try:
                found = cut_out(data[first:scan], size, *span, lambda at, n, data=data: data[scan + at : scan + at + n])
            except DamagedTable:
                refused += 1
            else:
                assert found.encoded.tobytes() == expected
    assert refused > 100


def test_images_without_a_table_and_tables_of_other_images_are_refused() -> None:
    plain = jpeg(64, 64)
    with pytest.raises(DamagedTable, match="no restart table"):
        cut_out_of(plain, (64, 64), (0, 0), (8, 8))
    assert cut_out_header(plain) is None
    assert cut_out_header(b"") is None
    assert cut_out_header(plain[:100]) is None
    with pytest.raises(DamagedTable, match="no restart table"):
        cut_out(plain[:200], (64, 64), (0, 0), (8, 8), lambda at, length: b"")
    encoded = transcoded(200, 300, "-sample", "2x2")
    with pytest.raises(DamagedTable, match="of another image"):
        cut_out_of(encoded, (200, 301), (0, 0), (8, 8))
    first, scan = cut_out_header(encoded) or (0, 0)
    other = transcoded(200, 300, "-sample", "2x2", "-quality", "50")
    with pytest.raises(DamagedTable, match="does not fit the data"):
        cut_out(
            encoded[first:scan], (200, 300), (50, 50), (90, 90), lambda at, length: other[scan + at : scan + at + length]
        )
