"""The Python stacks of workers on any node, also of one that hangs; py-spy, which comes with ray[default], reads them."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.failures import what_failed

DUMP_S = 10.0  # for one process
TRIES = 3
WAIT_S = 60.0  # for all


PR_SET_PTRACER, ANY = 0x59616D61, -1


def allow_dumps() -> None:
    """Lets other processes of this user read this one's stacks.

    By default Linux lets only a parent do that where its Yama module is on, as on Ubuntu, and in pods without SYS_PTRACE.
    """
    with suppress(OSError, AttributeError):  # another system
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(ANY), 0, 0, 0)


class Process(NamedTuple):
    """A process of the cluster."""

    node_id: str
    address: str
    pid: int


def dump_and_end(processes: Sequence[Process], end: Sequence[Process]) -> list[str]:
    """The stacks of the processes; then those in `end` are killed, also where they are stopped.

    In place of a stack, why it could not be read. All are read first: the death of one would end what the others wait for.
    """
    found = _on_nodes(_dump_all, processes)
    _on_nodes(_end_all, end)
    return [found[process.node_id].get(process.pid, found[process.node_id].get(0, "")) for process in processes]


def _on_nodes(work: Callable[[list[int]], dict[int, str]], processes: Sequence[Process]) -> dict[str, dict[int, str]]:
    """What `work` returns on each node of the processes, for the pids there, by the node's id."""
    task = ray.remote(num_cpus=0, max_retries=0)(work)
    refs = {}
    for node in dict.fromkeys(process.node_id for process in processes):
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        pids = [process.pid for process in processes if process.node_id == node]
        refs[node] = task.options(scheduling_strategy=there).remote(pids)
    if refs:
        ray.wait(list(refs.values()), num_returns=len(refs), timeout=WAIT_S)
    return {node: _result(ref) for node, ref in refs.items()}


def _result(ref: ray.ObjectRef) -> dict[int, str]:
    try:
        return ray.get(ref, timeout=0)
    except Exception as error:  # the node is lost, or has no process to spare
        return {0: f"no answer from the node: {what_failed(error)}\n"}


def _dump_all(pids: list[int]) -> dict[int, str]:
    with ThreadPoolExecutor(len(pids)) as pool:
        return dict(zip(pids, pool.map(dump, pids), strict=True))


def _end_all(pids: list[int]) -> dict[int, str]:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return {}


def dump(pid: int) -> str:
    """The stacks of all threads of a process of this node, and its state."""
    program = shutil.which("py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    state = _state(pid)
    if program is None:
        return f"{state}py-spy is not installed on this node\n"
    # By default py-spy pauses the process. It cannot pause one that is stopped, and may not where tracing is forbidden.
    # Without a pause the stack may change while it is read.
    tries = [["--nonblocking"]] * TRIES
    if "(stopped)" not in state:
        tries.insert(0, [])
    wrong = ""
    for flags in tries:
        try:
            command = [program, "dump", *flags, "--pid", str(pid)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=DUMP_S, check=False)
        except subprocess.TimeoutExpired:
            wrong = f"no answer within {DUMP_S:.0f} s\n"
            continue
        if done.returncode == 0 and done.stdout:
            return state + done.stdout
        wrong = done.stderr
    return f"{state}py-spy: {wrong}"


def _state(pid: int) -> str:
    """What the kernel says of the process, such as `State: T (stopped)`, and in which of its functions it waits."""
    lines = []
    with suppress(OSError):
        lines += [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("State:")]
        lines += [f"Waits in: {Path(f'/proc/{pid}/wchan').read_text()}"]
    return "".join(line + "\n" for line in lines)
