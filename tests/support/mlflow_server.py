"""A real MLflow server for tests."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from vgg_dist.tracking import TrackedRun, ui_hint

PATIENCE_S = 900  # a server's start takes 20 seconds, on a busy machine minutes


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


class Server:
    """`mlflow ui` on a fixed port, started with the very command that a person is told at the end of a training."""

    def __init__(self, run: TrackedRun, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.uri = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.command = shlex.split(ui_hint(run).splitlines()[0].removeprefix("MLflow: "))
        self.folder = folder  # an experiment made by way of the server keeps its artifacts there
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["env", *self.command, "--port", self.uri.rpartition(":")[2], "--workers", "1"],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def ready(self) -> bool:
        assert self.process.poll() is None, "the server did not start"
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        """The server and its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
