"""`benchmark startup`: seconds from the command `python -m vgg_dist.train` to its first step and to its end, by phase.

The training records the end of each phase (see vgg_dist.startup_marks). It is compared with a plain torch script without Ray
and MLflow: imports, the same net, one step on a batch of noise.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from pipelines.progress import Progress
from pipelines.secrets import masked
from vgg_dist.benchmark.options import StartupBenchmark
from vgg_dist.benchmark.report import describe_machine, machine_line, table, write_json
from vgg_dist.config import TrainConfig
from vgg_dist.startup_marks import ON_RAY, PHASES, VARIABLE, read_marks

EXIT = "command done"
Times = dict[str, float]
"""Phase -> seconds from the command to the end of the phase."""

PLAIN_SCRIPT = """
from vgg_dist.startup_marks import mark
mark("Python started")
import sys
import torch
from vgg_dist.models.build import build_model
mark("imports done")
arch, batch_norm, head, width, image_size, batch = sys.argv[1:]
size = int(image_size)
model = build_model(arch, batch_norm=batch_norm == "True", head=head, width=float(width), image_size=size)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model.to(device)
channels = next(p for p in model.parameters()).shape[1]
images = torch.randn(int(batch), channels, size, size, device=device)
mark("data and net ready")
torch.nn.functional.cross_entropy(model(images), torch.zeros(int(batch), dtype=torch.int64, device=device)).backward()
optimizer.step()
if device.type == "cuda":
    torch.cuda.synchronize()
mark("first step done")
"""


def run_startup(options: StartupBenchmark) -> None:
    """Starts the training and the plain script alternately; prints and saves. Raises ValueError, one line, if one fails."""
    trainings: list[Times] = []
    scripts: list[Times] = []
    for _ in Progress(range(options.repeats), "starting", unit="start"):
        with tempfile.TemporaryDirectory() as folder:
            trainings.append(time_phases(_train_command(options, folder), Path(folder)))
            scripts.append(time_phases(_plain_command(options.train), Path(folder)))
    print(report(options, trainings, scripts))
    if options.json is not None:
        write_json(options.json, options, {"trainings": trainings, "plain_scripts": scripts})


def _train_command(options: StartupBenchmark, folder: str) -> list[str]:
    train = options.train
    if train.storage_path == TrainConfig().storage_path:  # the benchmark leaves no runs behind
        options = dataclasses.replace(options, train=dataclasses.replace(train, storage_path=os.path.join(folder, "runs")))
    return [sys.executable, "-m", "vgg_dist.train", *options.train_flags()]


def _plain_command(train: TrainConfig) -> list[str]:
    batch = min(train.global_batch, train.micro_batch or 64)  # the default on a CPU
    settings = [train.arch, train.batch_norm, train.head, train.width, train.resolved().image_size, batch]
    return [sys.executable, "-c", PLAIN_SCRIPT, *map(str, settings)]


def time_phases(command: list[str], folder: Path) -> Times:
    """Runs a command and returns when each phase that it recorded, and the command itself, ended.

    Raises ValueError, with the last line of its output, if it fails.
    """
    marks, output = folder / "phases.jsonl", folder / "output.txt"
    marks.unlink(missing_ok=True)
    with output.open("w") as stream:
        start = time.time()
        done = subprocess.run(command, env=os.environ | {VARIABLE: str(marks)}, stdout=stream, stderr=subprocess.STDOUT)
        end = time.time()
    if done.returncode:
        lines = [line for line in output.read_text(errors="replace").splitlines() if line.strip()]
        raise ValueError(f"{' '.join(command[1:3])} ended with exit code {done.returncode}: {lines[-1] if lines else ''}")
    return {phase: when - start for phase, when in read_marks(marks).items()} | {EXIT: end - start}


def report(options: StartupBenchmark, trainings: list[Times], scripts: list[Times]) -> str:
    """The table of results, and the settings and machine."""
    on_ray = any(ON_RAY[0] in times for times in trainings)
    rows: list[list[str]] = []
    missing: list[str] = []
    middles: dict[str, float] = {}
    for phase in (*(phase for phase in PHASES if on_ray or phase not in ON_RAY), EXIT):
        if seconds := [times[phase] for times in trainings if phase in times]:
            middles[phase] = median(seconds)
        else:
            missing.append(phase)
    before = 0.0
    for phase, middle in sorted(middles.items(), key=lambda item: item[1]):
        seconds = [times[phase] for times in trainings if phase in times]
        plain = f"{median(times[phase] for times in scripts):.1f}" if all(phase in times for times in scripts) else ""
        rows.append([phase, *(f"{value:.1f}" for value in (middle, min(seconds), max(seconds), middle - before)), plain])
        before = middle
    rows += [[phase, "not recorded", "", "", "", ""] for phase in missing]
    headings = ["phase", "seconds", "min", "max", "of which here", "plain script"]
    text = (
        f"{table(headings, rows)}\n"
        f"Median of {options.repeats} alternating starts; of several workers, the slowest counts. "
        "Plain script: torch alone, the same net, one step.\n"
        f"python -m vgg_dist.train {masked(' '.join(options.train_flags()))}\n{machine_line(describe_machine())}"
    )
    if on_ray and "workers up" not in trainings[0]:
        text += "\nPhases of the workers are missing: they ran on other nodes, or on a Ray cluster that was already running."
    return text
