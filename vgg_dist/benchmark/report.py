"""The output of the benchmarks: tables, ratios, and the machine and versions of a measurement."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from pipelines.secrets import masked
from vgg_dist.reporting.text import aligned
from vgg_dist.tracking.code_version import code_version

PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda130", "ray", "mlflow", "numpy", "pillow")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An aligned text table: the first column is left-aligned, the others are right-aligned."""
    return aligned(headings, list(rows), {0})


def paired_ratio(ours: Sequence[float], other: Sequence[float]) -> float:
    """Our speedup: the median over rounds of our rate divided by the other rate of the same round."""
    return median(a / b for a, b in zip(ours, other, strict=True))


def spread(rates: Sequence[float]) -> tuple[str, str, str]:
    """Median, minimum and maximum, as text."""
    return f"{median(rates):.1f}", f"{min(rates):.1f}", f"{max(rates):.1f}"


def describe_machine() -> dict[str, Any]:
    """CPU, cores, GPUs and operating system; nothing that identifies the machine."""
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpus": gpus,
        "system": platform.system(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine_line(machine: dict[str, Any]) -> str:
    """The machine in one line of text."""
    return ", ".join([f"{machine['cores']} cores of {machine['cpu']} ({machine['cpu_capability']})", *machine["gpus"]])


def versions() -> dict[str, str]:
    """The versions of Python, of the relevant packages and of this code."""
    found = {"python": platform.python_version()} | code_version()
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_json(file: Path, settings: Any, figures: dict[str, Any]) -> None:
    """Writes `settings` (a dataclass), `figures`, the machine and the versions to a JSON file."""
    # The files that were asked for are left out: where they are is no part of the result.
    chosen = {name: None if isinstance(value, Path) else value for name, value in dataclasses.asdict(settings).items()}
    record = {
        "benchmark": type(settings).__name__.removesuffix("Benchmark").lower(),
        "settings": masked(chosen),
        "machine": describe_machine(),
        "versions": versions(),
        **figures,
    }
    file.write_text(json.dumps(record, indent=1) + "\n")
