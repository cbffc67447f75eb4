"""A training whose number of workers follows the nodes of the cluster, within --num-workers MIN:MAX.

Ray Train's elastic policy decides how many workers there are: as many as fit whenever a group of workers starts, and more
once nodes have joined. It is used here with what it lacks: nodes that are dead or about to be taken away are not counted,
and before a group is replaced by a larger one it writes a checkpoint, so that no step is trained twice.
"""

from __future__ import annotations

import os
import time
from typing import Any

import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingDecision
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy

from vgg_dist.launch.group_watch import ask_to_leave
from vgg_dist.ray_cluster.job_lines import Line, LineSender

LOOK_S = 15.0  # how often a running group looks for further nodes; Ray counts them every 20 s
LEAVE_S = 120.0  # for a group to write a checkpoint before it grows; without one, Ray restarts it from the last one
PLACE_S = 60.0  # for workers to be placed; then they are counted again, as a node may have been lost meanwhile
PAUSE_S = 0.5
SAY_EVERY_S = 30.0

PLACE_VARIABLE = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


class ElasticTrainer(TorchTrainer):
    """A TorchTrainer with a `NodeFollower` as its scaling policy. Needs a ScalingConfig with a range of workers."""

    def __init__(self, *arguments: Any, run: str, prefix: str, **settings: Any) -> None:
        """`run`: the training's name. `prefix`: in front of each line for the terminal."""
        super().__init__(*arguments, **settings)
        self.run, self.prefix = run, prefix

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        """Ray's own, private as it is, is the only place where a policy of one's own can be given."""
        settings["scaling_policy"] = NodeFollower(self.scaling_config, self.run, self.prefix)
        before = os.environ.get(PLACE_VARIABLE)
        os.environ[PLACE_VARIABLE] = str(PLACE_S)
        try:
            return super()._initialize_and_run_controller(**settings)
        finally:
            os.environ.pop(PLACE_VARIABLE)
            if before is not None:
                os.environ[PLACE_VARIABLE] = before


class NodeFollower(ElasticScalingPolicy):
    """Decides on Ray Train's controller how many workers the next group has, and when a larger one replaces it."""

    def __init__(self, scaling_config: ScalingConfig, run: str, prefix: str) -> None:
        super().__init__(scaling_config)
        self.run, self.prefix, self.lines = run, prefix, LineSender(run)
        self.wanted: ResizeDecision | None = None
        """The larger group for which the running one has been asked to leave."""
        self.asked_at = 0.0
        self.said_at = -SAY_EVERY_S

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """How many workers to start; none as long as there is no room for the least number of them."""
        self.wanted = None
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            self._say_waiting()
            time.sleep(PAUSE_S)  # Ray's controller asks again at once, and would keep a CPU busy
        return decision

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> ScalingDecision:
        """Asks the group to leave where more workers fit. Ray Train then starts a group with all that fit.

        A group never shrinks here: the loss of a node shows in its workers. Ray's reservations do not tell of it: they may
        be on other nodes.
        """
        if self.wanted is not None:
            if time.monotonic() - self.asked_at < LEAVE_S:
                return NoopDecision()
            decision, self.wanted = self.wanted, None
            return decision
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if not isinstance(decision, ResizeDecision) or decision.num_workers <= worker_group_state.num_workers:
            return NoopDecision()
        if ask_to_leave(self.run):
            self.wanted, self.asked_at = decision, time.monotonic()
            self._say(f"room for {decision.num_workers} workers, not {worker_group_state.num_workers}: restarts with them")
        return NoopDecision()

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        """Ray reserves resources also on nodes that died in the last 20 s, and on draining ones, which take no workers."""
        try:
            usable = usable_nodes()
        except Exception:  # Ray's head is away; an error here would end the training
            return 0
        return super()._count_possible_workers({node: of for node, of in reserved_resources.items() if node in usable})

    def _say_waiting(self) -> None:
        now = time.monotonic()
        if now - self.said_at < SAY_EVERY_S or self._latest_reserved_resources is None:
            return
        self.said_at = now
        there = self._count_possible_workers(self._latest_reserved_resources)
        least = self.scaling_config.min_workers
        self._say(f"waits for {least} workers: the cluster has room for {there}")

    def _say(self, text: str) -> None:
        self.lines.send([Line(self.prefix + text)])


def usable_nodes() -> set[str]:
    """The ids of the nodes that are alive and not about to be taken away."""
    draining = ray._private.state.state.get_draining_nodes() or {}
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]} - set(draining)
