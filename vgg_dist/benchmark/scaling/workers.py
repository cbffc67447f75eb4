"""The worker processes of `benchmark scaling`, one on each host: started once, then given one job after the other."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from typing import IO

from vgg_dist.benchmark.scaling.hosts import LINK, Hosts, address
from vgg_dist.benchmark.scaling.worker import Job, Measured

PORT = 29500  # of the group's rendezvous; the hosts' network has no other processes
WORKER = "vgg_dist.benchmark.scaling.worker"


class Workers:
    """A worker process on each of `count` hosts, with so many threads each."""

    def __init__(self, hosts: Hosts, count: int, threads: int) -> None:
        self._errors: list[IO[bytes]] = []
        self._processes: list[subprocess.Popen[str]] = []
        env = os.environ | {"OMP_NUM_THREADS": str(threads)}
        for rank in range(count):
            arguments = [str(rank), str(count), f"{address(0)}:{PORT}", LINK, str(threads)]
            command = hosts.command(rank, [sys.executable, "-m", WORKER, *arguments])
            self._errors.append(tempfile.TemporaryFile())  # noqa: SIM115  closed in `close`
            self._processes.append(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors[-1], text=True, env=env
                )
            )

    def run(self, job: Job) -> list[Measured]:
        """Runs a job on all workers. ValueError, with the last line of a worker's errors, if one fails."""
        with contextlib.suppress(BrokenPipeError):  # a worker has ended: its answer is missing below
            for process in self._processes:
                assert process.stdin is not None
                process.stdin.write(json.dumps(asdict(job)) + "\n")
                process.stdin.flush()
        return [self._answer(rank) for rank in range(len(self._processes))]

    def _answer(self, rank: int) -> Measured:
        output = self._processes[rank].stdout
        assert output is not None
        line = output.readline()
        if not line:
            raise ValueError(f"scaling: worker {rank} ended: {self._last_error(rank)}")
        return Measured(**json.loads(line))

    def _last_error(self, rank: int) -> str:
        self._errors[rank].seek(0)
        lines = self._errors[rank].read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no error was printed")

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.kill()
        for process, errors in zip(self._processes, self._errors, strict=True):
            process.communicate()
            errors.close()


@contextlib.contextmanager
def workers(hosts: Hosts, count: int, threads: int) -> Iterator[Workers]:
    """Workers that are ended at the end of the context."""
    started = Workers(hosts, count, threads)
    try:
        yield started
    finally:
        started.close()
