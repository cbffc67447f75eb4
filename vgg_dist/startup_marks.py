"""Records when each phase of a training's start was over, for `python -m vgg_dist.benchmark startup`.

The training calls `mark` at the end of a phase; phases may overlap. That appends a JSON line to the file that the
environment variable VGG_DIST_PHASES names, and is a no-op without it. Workers inherit the variable: from the command where
it starts Ray, on a cluster because the command passes it on (`ray_cluster.start`).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Literal, get_args

VARIABLE = "VGG_DIST_PHASES"

Phase = Literal[
    "Python started",
    "imports done",
    "Ray up",
    "MLflow run open",
    "controller up",
    "workers up",
    "worker imports done",
    "data and net ready",
    "first step done",
    "training done",
]
PHASES: tuple[str, ...] = get_args(Phase)
ON_RAY = "Ray up", "controller up", "workers up"  # not in a training of one worker in the command's process


def mark(phase: Phase) -> None:
    """Records that `phase` is over in this process."""
    if not (file := os.environ.get(VARIABLE)):
        return
    line = json.dumps({"time": time.time(), "process": os.getpid(), "phase": phase}) + "\n"
    # A single write to a file opened for appending, so that lines of several processes do not mix.
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read_marks(file: Path) -> dict[str, float]:
    """Phase -> when it was over, in seconds since the Unix epoch, for the phases that were marked.

    A process may mark a phase several times ("first step done" at every report): the first counts. Of several workers the
    last to be done counts.
    """
    first: dict[tuple[str, int], float] = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        mark = json.loads(line)
        first.setdefault((mark["phase"], mark["process"]), mark["time"])
    return {phase: max(when for (name, _), when in first.items() if name == phase) for phase, _ in first}
