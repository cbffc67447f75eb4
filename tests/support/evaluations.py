"""Two trained nets, and the settings of evaluations of them."""

from __future__ import annotations

from pathlib import Path

from support.runs import make_run
from vgg_dist.config import EvalConfig


def make_runs(storage: Path) -> Path:
    """Runs net-A and net-B in `storage`, which is returned."""
    for number, letter in enumerate("AB"):
        make_run(storage, f"net-{letter}", number)
    return storage


def settings(runs: Path, **more: object) -> EvalConfig:
    nets = (str(runs / "net-A"), str(runs / "net-B"))
    return EvalConfig(**{"nets": nets, "storage_path": str(runs), "precision": "fp32"} | more).resolved()  # type: ignore[arg-type]
