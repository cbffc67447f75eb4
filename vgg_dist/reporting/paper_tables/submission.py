"""The file to upload to the ILSVRC test server: five guesses for each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.paths import absolute
from vgg_dist.paper import NUM_CLASSES
from vgg_dist.reporting.paper_tables.errors import TOP, top_guesses
from vgg_dist.storage import replace_file


def write_submission(path: str | Path, posteriors: NDArray[np.floating], class_ids: Sequence[int]) -> None:
    """One line for each row of `posteriors` (N, num_classes): five ids, most probable first, separated by blanks.

    `class_ids`: the ILSVRC2012_ID of each column, 1 to 1000. The file (a path or URL) is written whole or not at all.
    ValueError, one line, for ids that do not fit the columns, or fewer than five; OSError where it cannot be written.
    """
    ids = np.asarray(class_ids)
    if posteriors.ndim != 2 or posteriors.shape[1] != len(ids):
        raise ValueError(f"{path}: {len(ids)} class ids do not fit posteriors of shape {posteriors.shape}: one a column")
    if len(ids) < TOP:
        raise ValueError(f"{path}: {len(ids)} classes, but the test server wants {TOP} guesses an image")
    if (
        not np.issubdtype(ids.dtype, np.integer)
        or len(set(ids.tolist())) != len(ids)
        or ids.min() < 1
        or ids.max() > NUM_CLASSES
    ):
        raise ValueError(f"{path}: class ids must be different numbers from 1 to {NUM_CLASSES}")
    lines = (" ".join(map(str, row)) + "\n" for row in ids[top_guesses(posteriors)].tolist())
    replace_file(absolute(str(path)), "".join(lines).encode("ascii"))
