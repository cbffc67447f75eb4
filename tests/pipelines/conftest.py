"""Images of many kinds, as a tree and as shards with restart markers."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from support.jpegs import jpeg, pixels, saved
from support.trees import make_tree

from pipelines.preparation.shard_writer import write_shards
from pipelines.stores.open import open_store


@pytest.fixture(scope="session")
def kinds_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes with images of many kinds: sampling, progressive coding, grey, CMYK, PNG, small, strips, metadata."""
    picture = Image.fromarray(pixels(240, 320))
    kinds = {
        "a/420.jpg": jpeg(375, 500, "-sample", "2x2"),
        "a/444.jpg": jpeg(333, 500, "-sample", "1x1", seed=1),
        "a/422.jpg": jpeg(301, 404, "-sample", "2x1", seed=2),
        "a/440.jpg": jpeg(404, 301, "-sample", "1x2", seed=3),
        "a/progressive.jpg": jpeg(400, 600, "-progressive", seed=4),
        "a/grey.jpg": jpeg(300, 400, "-grayscale", seed=5),
        "a/rgb.jpg": jpeg(300, 400, "-rgb", seed=6),
        "b/cmyk.jpg": saved(picture.convert("CMYK"), "JPEG"),
        "b/png.png": saved(picture, "PNG"),
        "b/small.jpg": saved(picture.resize((127, 128)), "JPEG"),
        "b/strip.jpg": jpeg(90, 2000, seed=7),
        "b/large.jpg": jpeg(1500, 2000, seed=8),
        "b/tall.jpg": jpeg(700, 131, "-sample", "2x2", seed=9),
    }
    files = {f"{split}/{name}": data for split in ("train", "val") for name, data in kinds.items()}
    return make_tree(tmp_path_factory.mktemp("kinds"), files)


@pytest.fixture(scope="session")
def kinds_shards(kinds_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    for split in ("train", "val"):
        write_shards(open_store(str(kinds_tree), split), split, out, shard_bytes=200_000, seed=0, jpegtran="jpegtran")
    return out
