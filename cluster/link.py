"""A process of `doctor`'s on a node that takes part in all-reduces; sent there by value, as `cluster.probes` is."""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

TIMED_ON_GPU = 10  # all-reduces behind each other: one may be over sooner than is looked whether it is


class Link:
    """One process; Ray lets it see the GPU that it reserved, and no other."""

    def address(self) -> tuple[str, int]:
        """Where the others find this one, if it is the first. It is ready then: what takes long to import has been."""
        import ray
        import torch.distributed  # noqa: F401

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def seconds(
        self, address: tuple[str, int], rank: int, world_size: int, backend: str, megabytes: int, patience_s: float
    ) -> float | str:
        """How long an all-reduce takes, the best of three after one that opens the connections; or what went wrong.

        `address`: the first's; `backend`: nccl, on the GPU, or gloo; `patience_s`: for the others to come, and to answer.
        """
        try:
            return _seconds(address, rank, world_size, backend, megabytes, timedelta(seconds=patience_s))
        except Exception as error:
            # The last line: NCCL says there what it wanted to do.
            return str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__


def _seconds(
    address: tuple[str, int], rank: int, world_size: int, backend: str, megabytes: int, patience: timedelta
) -> float:
    import torch
    import torch.distributed as dist

    gpu = backend == "nccl"
    # An error here, and not the end of this process by NCCL's watchdog; and why, in the job's output.
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
    os.environ.setdefault("NCCL_DEBUG", "WARN")
    device = torch.device("cuda:0" if gpu else "cpu")
    dist.init_process_group(
        backend,
        init_method=f"tcp://{address[0]}:{address[1]}",
        rank=rank,
        world_size=world_size,
        timeout=patience,
        device_id=device if gpu else None,
    )
    values = torch.ones(megabytes * 250_000, device=device)
    times, best = TIMED_ON_GPU if gpu else 1, float("inf")
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
    dist.destroy_process_group()  # not after an error, when it may wait for ever
    return best
