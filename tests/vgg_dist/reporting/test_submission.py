"""The file for the ILSVRC test server: five ids a line, or refused with the old file left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vgg_dist.reporting.paper_tables import write_submission


def test_submission(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    posteriors = rng.integers(0, 50, (30, 1000)).astype(np.float32)
    ids = rng.permutation(1000) + 1
    write_submission(tmp_path / "new" / "submission.txt", posteriors, ids.tolist())
    lines = (tmp_path / "new" / "submission.txt").read_text().split("\n")
    assert lines.pop() == ""
    assert lines == [
        " ".join(str(ids[c]) for c in sorted(range(1000), key=lambda c: (-row[c], c))[:5]) for row in posteriors
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, ids: (p[:, :4], ids[:4]), "4 classes"),
        (lambda p, ids: (p, ids[:-1]), "9 class ids do not fit"),
        (lambda p, ids: (p, [*ids[:-1], 1001]), "from 1 to 1000"),
        (lambda p, ids: (p, [*ids[:-1], 0]), "from 1 to 1000"),
        (lambda p, ids: (p, [*ids[:-1], ids[0]]), "different"),
        (lambda p, ids: (np.where(p > 0.9, np.nan, p), ids), "not finite"),
    ],
)
def test_submission_refused_and_the_file_left_alone(
    tmp_path: Path, change: Callable[[NDArray, list[int]], tuple[NDArray, list[int]]], message: str
) -> None:
    file = tmp_path / "submission.txt"
    file.write_text("before")
    with pytest.raises(ValueError, match=message):
        write_submission(file, *change(np.linspace(0, 1, 50).reshape(5, 10), list(range(1, 11))))
    assert [path.name for path in tmp_path.iterdir()] == ["submission.txt"]
    assert file.read_text() == "before"
