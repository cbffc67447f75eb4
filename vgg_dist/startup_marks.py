"""When each phase of a training's start was reached, for `python -m vgg_dist.benchmark startup`.

The training calls `mark` where a phase ends. Unless the environment variable VGG_DIST_PHASES names a file, that does
nothing; with it, each call appends one JSON line. The workers have the variable from the command: the Ray that it starts
inherits its environment, a cluster is sent the variable (see ray_start).
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
]
PHASES: tuple[str, ...] = get_args(Phase)


def mark(phase: Phase) -> None:
    """Notes that this process is through with `phase`, now."""
    if not (file := os.environ.get(VARIABLE)):
        return
    line = json.dumps({"time": time.time(), "process": os.getpid(), "phase": phase}) + "\n"
    # One write to a file opened for appending: lines of several processes do not mix.
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read_marks(file: Path) -> dict[str, float]:
    """Phase -> when it was over, seconds since the Unix epoch, for the phases that were marked.

    A process may mark a phase again (every step is a step): its first mark counts. Of several workers the last one counts.
    """
    first: dict[tuple[str, int], float] = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        mark = json.loads(line)
        first.setdefault((mark["phase"], mark["process"]), mark["time"])
    return {phase: max(when for (name, _), when in first.items() if name == phase) for phase, _ in first}
