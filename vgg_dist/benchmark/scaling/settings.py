"""A setting of `benchmark scaling`, and what was measured of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import mean, median

from vgg_dist.benchmark.scaling.layouts import DDP_BUCKET_MB
from vgg_dist.benchmark.scaling.model import Compute
from vgg_dist.benchmark.scaling.worker import Measured


@dataclass
class Setting:
    """What was measured of a net with one layout over links of one rate.

    `step_s`: of each timed step, the slowest host's seconds. `sent`, `received`: mean bytes of a step, the most of any
    host. `predicted_s`: the model's; `fitted`: whether the model was fitted to it.
    """

    arch: str
    layout: str
    mbits: float
    counted_bytes: float
    counted_state: float
    bucket_mb: int = DDP_BUCKET_MB
    step_s: list[float] = field(default_factory=list)
    forward_s: list[float] = field(default_factory=list)
    optimizer_s: list[float] = field(default_factory=list)
    sent: float = 0.0
    received: float = 0.0
    state: int = 0
    fitted: bool = False
    predicted_s: float = 0.0

    def add(self, measured: list[Measured]) -> None:
        """Adds a round of all hosts."""
        self.step_s += [max(seconds) for seconds in zip(*(host.step_s for host in measured), strict=True)]
        self.forward_s += [mean(seconds) for seconds in zip(*(host.forward_s for host in measured), strict=True)]
        self.optimizer_s += [mean(seconds) for seconds in zip(*(host.optimizer_s for host in measured), strict=True)]
        self.sent = max(mean(host.sent) for host in measured)
        self.received = max(mean(host.received) for host in measured)
        self.state = max(host.state_bytes for host in measured)

    @property
    def model_error(self) -> float:
        """(model - measured) / measured, of the median step."""
        return self.predicted_s / median(self.step_s) - 1

    def compute(self) -> Compute:
        """The step's parts. Only for steps without other hosts."""
        forward, optimizer = median(self.forward_s), median(self.optimizer_s)
        return Compute(forward, median(self.step_s) - forward - optimizer, optimizer)
