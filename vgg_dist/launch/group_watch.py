"""Watches a training's group of workers from Ray Train's controller: nodes that leave, and workers that hang.

- A node is about to be taken away (preempted, drained): all workers are asked to write a checkpoint and leave. Ray Train
  then starts a group on the other nodes.
- A node was lost without notice: in an elastic training that does not count as a failure of the training.
- A worker does not answer Ray Train's health check, or waited in vain for the others: the stacks of all workers are kept in
  the run's folder, and a worker that does not answer is killed.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from pipelines.failures import what_failed
from pipelines.paths import join
from pipelines.secrets import masked
from vgg_dist.ray_cluster.job_lines import Line, LineSender
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.ray_cluster.stacks import Process, dump_and_end
from vgg_dist.storage import replace_file
from vgg_dist.training.stopping import leave_key, training_key
from vgg_dist.worker.leaving import LeftGroup

HANGS = "hangs"
ANSWER_S = 3.0
LOST_S = 120.0  # Ray takes a node for dead after five health checks in vain: 15 s, or 65 s where packets are lost


def ask_to_leave(run: str) -> bool:
    """Asks the workers of a run to write a checkpoint and leave; False if they do not train yet, or Ray's head is away."""
    with suppress(Exception):
        messages = JobMessages()
        if group := messages.get(training_key(run)):
            messages.put(leave_key(group), "")
            return True
    return False


class GroupWatch(WorkerGroupCallback):
    """Runs on Ray Train's controller."""

    def __init__(self, run: str, folder: str, lines: LineSender, prefix: str = "", is_elastic: bool = False) -> None:
        """`folder`: the run's. `prefix`: in front of each line for the terminal."""
        self.run, self.folder, self.prefix = run, folder, prefix
        self.lines = lines
        self.is_elastic = is_elastic
        self.workers: list[Process] = []
        """By rank."""
        self.leaving = False
        self.examined = False

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Notes where the workers run."""
        self.leaving = self.examined = False
        found = [each.metadata for each in worker_group.get_workers()]
        self.workers = [Process(each.node_id, each.node_ip, each.pid) for each in found]

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Called twice a second with what the workers answered."""
        info = worker_group_status.get_preemption_info()
        if info is not None and not self.leaving and ask_to_leave(self.run):
            self.leaving = True
            self._say(_of_preemption(info, self.workers))
        errors = worker_group_status.errors
        if not errors or self.examined or any(isinstance(error, LeftGroup) for error in errors.values()):
            return
        self.examined = True  # Ray Train now ends this group
        hung = [rank for rank, error in errors.items() if isinstance(error, WorkerHealthCheckTimeoutError)]
        lost = ""
        with suppress(Exception):  # where Ray's head is away; an error here would end the training
            lost = self._lost_nodes()
        if lost:
            if self.is_elastic:
                self._say(f"lost {lost}: goes on with the other nodes, which is not counted by --max-failures")
                # Ray Train does not count the loss of a node either, but only if that was announced.
                worker_group_status.worker_statuses[min(errors)].error = LeftGroup(what_failed(errors[min(errors)]))
        elif hung or any(_is_time_out(error) for error in errors.values()):
            self._keep_stacks(hung)

    def _lost_nodes(self) -> str:
        """Which of the group's nodes are dead; empty if none is.

        Waits until Ray knows it too, as it would start workers there.
        """
        addresses = {worker.node_id: worker.address for worker in self.workers}
        begun = time.monotonic()
        while True:
            nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
            dead = [address for node, address in addresses.items() if node not in nodes]
            silent = [address for node, address in addresses.items() if node in nodes and not _answers(nodes[node])]
            if not silent or time.monotonic() - begun > LOST_S:
                return ", ".join(f"node {address}" for address in sorted(dead + silent))
            time.sleep(1.0)

    def _keep_stacks(self, hung: list[int]) -> None:
        """Kills the workers of the ranks in `hung`, once the stacks of all workers are in the run's folder."""
        folder = join(join(self.folder, HANGS), time.strftime("%Y%m%d-%H%M%S"))
        try:
            stacks = dump_and_end(self.workers, [self.workers[rank] for rank in hung])
            for rank, text in enumerate(stacks):
                replace_file(join(folder, f"worker-{rank}.txt"), text.encode())
            kept = f"the stacks of all workers are in {masked(folder)}"
        except Exception as error:  # of the storage, or of Ray; raised here it would end the training
            kept = f"the stacks could not be kept: {what_failed(error)}"
        for rank in hung:
            self._say(f"worker {rank} on {self.workers[rank].address} did not answer and was killed; {kept}")
        if not hung:
            self._say(f"the workers waited too long for each other; {kept}")

    def _say(self, text: str) -> None:
        self.lines.send([Line(self.prefix + text)])


def _is_time_out(error: BaseException) -> bool:
    """Whether a worker gave up waiting for the others: torch raises a RuntimeError of its own for gloo and NCCL."""
    return isinstance(error, RuntimeError) and "timed out" in str(error).lower()


def _answers(node: Mapping[str, Any]) -> bool:
    """Whether the node's raylet accepts a connection."""
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), ANSWER_S).close()
    except OSError:
        return False
    return True


def _of_preemption(info: Any, workers: list[Process]) -> str:
    nodes = sorted({worker.address for worker in workers if worker.node_id in info.preempted_node_ids})
    left = "" if info.deadline_ms is None else f" in {max(0.0, info.deadline_ms / 1000 - time.time()):.0f} s"
    return f"node {', '.join(nodes)} is to be taken away{left}: the workers write a checkpoint and leave it"
