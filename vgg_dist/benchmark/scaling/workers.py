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
WARMUP_MBITS = 10_000.0
WORKER = "vgg_dist.benchmark.scaling.worker"


class Workers:
    """A worker process on each of `count` hosts, with so many threads each."""

    def __init__(self, hosts: Hosts, count: int, threads: int) -> None:
        self._hosts = hosts
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

    def run(self, job: Job, mbits: float) -> list[Measured]:
        """Runs a job on all workers, the timed steps over links of `mbits` Mbit/s.

        ValueError, with the last line of a worker's errors, if one fails.
        """
        self._hosts.limit(WARMUP_MBITS)
        self._tell(json.dumps(asdict(job)))
        self._answers()
        self._hosts.limit(mbits)
        self._tell("go")
        return [Measured(**json.loads(line)) for line in self._answers()]

    def _tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # a worker has ended: its answer will be missing
            for process in self._processes:
                assert process.stdin is not None
                process.stdin.write(f"{line}\n")
                process.stdin.flush()

    def _answers(self) -> list[str]:
        """A line of each worker."""
        lines = []
        for rank, process in enumerate(self._processes):
            assert process.stdout is not None
            lines.append(process.stdout.readline())
            if not lines[-1]:
                raise ValueError(f"scaling: worker {rank} ended: {self._last_error(rank)}")
        return lines

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
