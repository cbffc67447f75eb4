"""The paper's runs (sections 3.1 and 4): which nets, at which train scales S, and which run each one starts from.

- A and A-LRN at the first scale: from random weights.
- B to E at the first scale: from A's first and last layers.
- C, D and E at the second scale: from the same net at the first.
- C, D and E at the jittered scale: from the same net at the second.

The last two at a tenth of the learning rate. [?] The paper gives no rate for the jittered nets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vgg_dist.config import Arch, ReproduceConfig, TrainSettings
from vgg_dist.models.build import build_model, macs

ALWAYS_PADDED = 48
"""Pixels: below this side, four poolings leave maps of at most 2 x 2."""

DEEP: tuple[Arch, ...] = "C", "D", "E"  # trained at all three scales


@dataclass(frozen=True)
class Run:
    """One of the paper's runs."""

    config: TrainSettings
    depends_on: str | None
    """The name of the run whose weights it starts from."""

    @property
    def name(self) -> str:
        """The run's name, and that of its folder."""
        return self.config.name


def paper_runs(config: ReproduceConfig) -> list[Run]:
    """The runs that --only asks for and those that they depend on, each after the one it depends on; `config` is resolved.

    ValueError, one line, for settings that cannot be used.
    """
    first, second, jittered = config.three_scales()
    runs: dict[str, Run] = {}

    def add(arch: Arch, scale: str, depends_on: str | None, lr: float) -> str:
        run = Run(config.run(arch, scale, depends_on, lr), depends_on)
        runs[run.name] = run
        return run.name

    shallow = add("A", first, None, config.lr)
    add("A-LRN", first, None, config.lr)
    add("B", first, shallow if config.from_shallow else None, config.lr)
    for arch in DEEP:
        name = add(arch, first, shallow if config.from_shallow else None, config.lr)
        name = add(arch, second, name, config.lr / 10)
        add(arch, jittered, name, config.lr / 10)
    return [run for run in runs.values() if run.name in _selected(runs, config.only)]


def _selected(runs: dict[str, Run], only: Sequence[str]) -> set[str]:
    """Names of the runs of these nets (all where `only` is empty), and of all runs that they depend on."""
    selected = {name for name, run in runs.items() if not only or run.config.arch in only}
    for name in list(selected):
        needed = runs[name].depends_on
        while needed is not None:
            selected.add(needed)
            needed = runs[needed].depends_on
    return selected


def is_jittered(config: TrainSettings) -> bool:
    """Whether S is drawn from a range."""
    return not config.train_scale.is_fixed


def longest_first(runs: Sequence[Run]) -> list[Run]:
    """In critical-path order, to start them in when several run at once: the longest chain of runs that depend on each other
    first, by multiply-accumulates."""
    chain: dict[str, int] = {}  # of a run and all that depend on it
    for run in reversed(runs):
        following = [chain[other.name] for other in runs if other.depends_on == run.name]
        chain[run.name] = run.config.epochs * image_macs(run.config) + max(following, default=0)
    return sorted(runs, key=lambda run: -chain[run.name])


def image_macs(config: TrainSettings) -> int:
    """Multiply-accumulates of a forward pass of one image."""
    size = config.image_size
    with torch.device("meta"):
        return macs(build_model(config.arch, head=config.head, image_size=size, width=config.width), size)


def wants_crops(config: ReproduceConfig, run: TrainSettings) -> bool:
    """Whether this net is evaluated on crops, up to Table 5: D and E with jittered scale as in the paper, small nets always.

    A net of less than 48 pixels is trained with maps of 2 x 2 positions in its last stage, all of them beside zero padding.
    Dense evaluation of a larger image takes the padding away, and the error rises: for D and E of 32 pixels at S = Q = 55
    by 18 and 23 points over that of the centre crop. Crops are what such nets were trained on.
    """
    if config.through not in ("table5", "table6"):
        return False
    return run.image_size < ALWAYS_PADDED or (run.arch in ("D", "E") and is_jittered(run))
