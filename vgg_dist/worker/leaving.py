"""How a group of workers leaves so that its training goes on in another group: with the nodes that there are then."""

from __future__ import annotations

import logging
from typing import Any

from ray.exceptions import RayActorError


class LeftGroup(RayActorError):
    """Raised by every worker once the group has stopped at one step and its checkpoint is written.

    Ray Train takes it for the loss of a preempted node: it starts the training again, and counts that by
    `FailureConfig.max_preemption_failures`, not by --max-failures. A worker that returned would end the training.
    """

    def __init__(self, why: str = "left") -> None:
        super().__init__(error_msg=why, preempted=True)


def raise_if_left(value: dict[str, Any]) -> dict[str, Any]:
    """What `process.run_worker` returned; LeftGroup where this worker has left its group."""
    if "left" in value:
        logging.getLogger("ray.train.v2._internal.util").setLevel(logging.CRITICAL)  # else it prints a traceback
        raise LeftGroup(f"left at step {value['left']}")
    return value
