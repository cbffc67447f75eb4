"""The process of `doctor` that takes part in all-reduces on a node; sent to the node by value, like `cluster.probes`."""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

REPEATS_ON_GPU = 10  # all-reduces in one measurement: a single one is too short to time


class AllReduceWorker:
    """A Ray actor; it sees only the GPU that it reserved."""

    def has_started(self) -> None:
        """Returns as soon as Ray has started this process, for which it needs the GPU."""

    def address(self) -> tuple[str, int]:
        """The address at which the others find this process if it is rank 0. Returns once the slow imports are done."""
        import ray
        import torch.distributed  # noqa: F401

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def seconds(
        self, address: tuple[str, int], rank: int, world_size: int, backend: str, megabytes: int, timeout_s: float
    ) -> float | str:
        """Seconds of an all-reduce, the best of three after a warm-up that opens the connections; or an error message.

        `address`: of rank 0. `backend`: nccl, on the GPU, or gloo. `timeout_s`: for the others to join, and to answer.
        """
        try:
            return _seconds(address, rank, world_size, backend, megabytes, timedelta(seconds=timeout_s))
        except Exception as error:
            # NCCL's last line says what it was trying to do.
            return str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__


def _seconds(
    address: tuple[str, int], rank: int, world_size: int, backend: str, megabytes: int, timeout: timedelta
) -> float:
    import torch
    import torch.distributed as dist

    gpu = backend == "nccl"
    # Makes a timeout raise here, instead of NCCL's watchdog ending the process; warnings go to the job's output.
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
    os.environ.setdefault("NCCL_DEBUG", "WARN")
    device = torch.device("cuda:0" if gpu else "cpu")
    dist.init_process_group(
        backend,
        init_method=f"tcp://{address[0]}:{address[1]}",
        rank=rank,
        world_size=world_size,
        timeout=timeout,
        device_id=device if gpu else None,
    )
    values = torch.ones(megabytes * 250_000, device=device)
    times, best = REPEATS_ON_GPU if gpu else 1, float("inf")
    for repeat in range(4):
        dist.barrier()
        started = time.perf_counter()
        works = [dist.all_reduce(values, async_op=True) for _ in range(times)]
        for work in works:
            work.wait()
        if gpu:
            torch.cuda.synchronize()
        if repeat:
            best = min(best, (time.perf_counter() - started) / times)
    dist.destroy_process_group()  # only after success: after an error it may block forever
    return best
