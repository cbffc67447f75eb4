"""How a group of workers leaves so that its training goes on in another group: with the nodes that there are then."""

from __future__ import annotations

from ray.exceptions import RayActorError


class LeftGroup(RayActorError):
    """Raised by every worker once the group has stopped at one step and its checkpoint is written.

    Ray Train takes it for the loss of a preempted node: the training is started again, and the restart is counted towards
    `FailureConfig.max_preemption_failures`, not towards --max-failures. A worker that returned would end the training.
    """

    def __init__(self, why: str = "left") -> None:
        super().__init__(error_msg=why, preempted=True)
