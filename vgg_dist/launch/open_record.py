"""Opens a training's MLflow run in a process of its own: importing mlflow and creating its database take seconds.

Meanwhile the command imports torch. The process gets the settings as JSON and prints the `TrackedRun`, also as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vgg_dist.config import TrainSettings
from vgg_dist.launch.run_record import open_training
from vgg_dist.tracking import TrackedRun

POLL_S = 0.1


def begin_opening(config: TrainSettings) -> subprocess.Popen[bytes]:
    """Starts the process. OSError where that is not possible."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C reaches the command only, which ends the run in order
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(config.to_dict(secrets=True)).encode())
        process.stdin.close()
    process.stdin = None
    return process


def opened(process: subprocess.Popen[bytes], config: TrainSettings, meanwhile: Callable[[], object]) -> TrackedRun:
    """The run that the process has opened. If it has failed, opens it here, which raises what `open_training` raises.

    `meanwhile` is called now and then until the process has ended.
    """
    while True:
        with suppress(subprocess.TimeoutExpired):
            written, _ = process.communicate(timeout=POLL_S)
            break
        meanwhile()
    lines = written.splitlines()
    if process.returncode == 0 and lines:
        return TrackedRun(**json.loads(lines[-1]))
    return open_training(config)


def main() -> None:
    """In the process of its own."""
    run = open_training(TrainSettings.from_dict(json.load(sys.stdin)))
    print(json.dumps(dataclasses.asdict(run)), flush=True)
    os._exit(0)  # nothing here needs Python's own shutdown, which takes a while with mlflow
