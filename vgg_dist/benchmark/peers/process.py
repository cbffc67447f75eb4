"""The benchmark's side of a peer: a child process that runs an epoch on command and measures the time itself."""

from __future__ import annotations

import multiprocessing
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import vgg_dist
from vgg_dist.benchmark.peers import PeerError
from vgg_dist.benchmark.work import Work

ROOT = str(Path(vgg_dist.__file__).parents[1])
# ROOT goes to the front of sys.path only if it is not in there: it may be a site-packages folder, whose versions of other
# packages must not hide those of the peer's environment.
SERVE = (
    "import sys; root = sys.argv[1]; root in sys.path or sys.path.insert(0, root)\n"
    "from vgg_dist.benchmark.peers.child import serve\n"
    "serve(sys.argv[2], sys.argv[3].split(), int(sys.argv[4]), sys.argv[5])"
)


class PeerProcess:
    """Runs `peers/<name>.py` with the interpreter `python`. `versions` has the versions of `distributions`.

    `folder`, which must not exist, receives the peer's files and its output (`log`). Entering the context waits until the
    peer is set up. All methods raise PeerError if the peer fails.
    """

    def __init__(self, name: str, python: str, distributions: list[str], work: Work, folder: Path) -> None:
        self.name, self.python, self.distributions = name, python, distributions
        self.work, self.folder = work, folder
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.folder.mkdir()
        self.work.save(self.folder / "work.npz")
        self.connection, theirs = multiprocessing.Pipe()
        arguments = [ROOT, self.name, " ".join(self.distributions), str(theirs.fileno()), str(self.folder)]
        with theirs, open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [self.python, "-c", SERVE, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
            )
        try:
            (self.versions,) = self._receive("ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()  # which ends the peer if it waits for a command
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def seconds(self) -> float:
        """Runs an epoch and returns its time as measured by the peer."""
        self._send("time")
        (seconds,) = self._receive("seconds")
        return float(seconds)

    def epoch(self) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """The batches of an epoch: positions (n,) in the work's order, and images (n, 3, size, size) float32 on the CPU."""
        size = self.work.preprocessing.image_size
        self._send("pixels")
        while (message := self._receive("batch", "end")) != ():
            (count,) = message
            positions = np.frombuffer(self._read(self.connection.recv_bytes), np.int64)
            images = torch.frombuffer(bytearray(self._read(self.connection.recv_bytes)), dtype=torch.float32)
            yield positions, images.view(count, 3, size, size)

    def prepared_bytes(self) -> int:
        """Size of the files that the peer wrote in advance."""
        return sum(file.stat().st_size for file in self.folder.joinpath("prepared").rglob("*") if file.is_file())

    def _send(self, command: str) -> None:
        try:
            self.connection.send(command)
        except OSError:  # the peer has ended; the next _receive raises the reason
            return

    def _receive(self, *kinds: str) -> tuple[Any, ...]:
        kind, *rest = self._read(self.connection.recv)
        if kind == "failed":
            raise PeerError(rest[0])
        assert kind in kinds, kind
        return tuple(rest)

    def _read(self, receive: Callable[[], Any]) -> Any:
        try:
            return receive()
        except (EOFError, OSError):
            code = self.process.wait()
            lines = self.folder.joinpath("log").read_text(errors="replace").splitlines()
            last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
            raise PeerError(f"its process ended with exit code {code}: {last}") from None
