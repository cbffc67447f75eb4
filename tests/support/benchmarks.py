"""Small data and settings for benchmarks."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vgg_dist.benchmark.__main__ import main
from vgg_dist.benchmark.options import LoaderBenchmark
from vgg_dist.config import ScaleRange


def write_tree(root: Path, shapes: list[tuple[int, int]], subsampling: str = "4:2:0") -> Path:
    """Writes two classes of smooth random JPEGs with these (height, width)."""
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(shapes):
        folder = root / "train" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.jpg", quality=95, subsampling=subsampling)
    return root


def small(data: Path, **settings: Any) -> LoaderBenchmark:
    options = LoaderBenchmark(data=str(data), image_size=32, train_scale=ScaleRange(40, 56), batch=3, rounds=2, threads=1)
    return dataclasses.replace(options, **settings)


def fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The one-line error of a command that must fail."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line
