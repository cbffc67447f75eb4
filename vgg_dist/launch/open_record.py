"""Opens a training's MLflow run in a process of its own: importing mlflow and creating its database take seconds.

Meanwhile the command imports torch. The process gets the settings as JSON and prints the `TrackedRun`, also as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vgg_dist.config import TrainSettings
from vgg_dist.launch.run_record import open_training
from vgg_dist.tracking import TrackedRun, finish_run

POLL_S = 0.1


def begin_opening(config: TrainSettings) -> subprocess.Popen[bytes]:
    """Starts the process. OSError where that is not possible."""
    root = str(Path(__file__).parents[2])  # in case this program has found the package by a path of its own
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.append({root!r}); from {__name__} import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches the command only, which ends the run in order
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(config.to_dict(secrets=True)).encode())
        process.stdin.close()
    process.stdin = None
    return process


def opened(process: subprocess.Popen[bytes], config: TrainSettings, check: Callable[[], None]) -> TrackedRun:
    """The run that the process has opened. If it has failed, opens it here, which raises what `open_training` raises.

    `check` is called now and then. If it raises, the process goes on alone and leaves the run KILLED, or does not open it.
    """
    while True:
        with suppress(subprocess.TimeoutExpired):
            written, _ = process.communicate(timeout=POLL_S)
            break
        try:
            check()
        except BaseException:
            process.terminate()
            raise
    lines = written.splitlines()
    if process.returncode == 0 and lines:
        return TrackedRun(**json.loads(lines[-1]))
    return open_training(config)


def main() -> None:
    """In the process of its own."""
    given_up: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, frame: given_up.append(signum))
    run = open_training(TrainSettings.from_dict(json.load(sys.stdin)))
    if given_up:
        finish_run(run, "KILLED", quick=True)
    print(json.dumps(dataclasses.asdict(run)), flush=True)
    os._exit(0)  # nothing here needs Python's own shutdown, which takes a while with mlflow
