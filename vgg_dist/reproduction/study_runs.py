"""The runs of the two small studies, each for every seed, and of the paper's: what --study asks for.

- small: LeNet-5 (grey images), AlexNet and ZFNet, and A to E without and with batch norm, all with one budget.
- ablations: A, A-LRN, B, its control net B-5x5, C, D, and D again, started from A of the same seed. With --batch-norm also A
  without it, to compare A-LRN with, which has no batch norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from vgg_dist.config import Arch, ReproduceConfig, TrainSettings, at_least
from vgg_dist.config.reproduce import STUDY_ARCHS
from vgg_dist.models.specs import MODELS
from vgg_dist.reproduction.run_graph import ALWAYS_PADDED, Run, paper_runs


class Variant(NamedTuple):
    """A net as a study trains it, once for each seed."""

    arch: Arch
    batch_norm: bool = False
    start: Arch | None = None
    """The net whose layers it starts from; None: all layers as --init says."""

    @property
    def name(self) -> str:
        """Such as D, D-bn or D-from-A."""
        return f"{self.arch}{'-bn' * self.batch_norm}{'' if self.start is None else f'-from-{self.start}'}"


def planned_runs(config: ReproduceConfig) -> list[Run]:
    """The runs of the study, each after the one it depends on; `config` is resolved.

    ValueError, one line, for settings that cannot be used.
    """
    if config.study == "paper":
        return paper_runs(config)
    variants = list(_small(config) if config.study == "small" else _ablations(config))
    return [_run(config, variant, seed) for seed in seeds(config) for variant in variants]


def seeds(config: ReproduceConfig) -> range:
    """The seeds with which each net is trained."""
    return range(config.seed, config.seed + (config.seeds or 1))


def study_view(config: ReproduceConfig) -> Literal["dense", "center"]:
    """What the nets of a study are evaluated on at Q = S: the whole image, as in the paper's Table 3, or its centre crop.

    Nets below 48 pixels take the centre crop: dense evaluation is worse than that by 0.1 points for A of 32 pixels, by 1.5
    for E, which is as much as nets differ. `run_graph.wants_crops` says why.
    """
    return "center" if config.image_size is not None and config.image_size < ALWAYS_PADDED else "dense"


def variant_of(config: TrainSettings) -> Variant:
    """The variant that a run of a study is of."""
    return Variant(config.arch, config.batch_norm, None if config.init_from is None else "A")


def enlarged(runs: Sequence[Run], image_size: int | None) -> list[str]:
    """For people: the nets that do not take images as small as --image-size, one line each."""
    sizes = {run.config.arch: run.config.image_size for run in runs}
    return [
        f"{arch} is trained with {size} pixels, its smallest input, instead of --image-size {image_size}"
        for arch, size in sizes.items()
        if image_size is not None and size != image_size
    ]


def _small(config: ReproduceConfig) -> Iterator[Variant]:
    chosen = [arch for arch in STUDY_ARCHS["small"] if not config.only or arch in config.only]
    if config.image_size is not None:
        least = min(MODELS[arch].min_image_size for arch in chosen)
        at_least("image_size", config.image_size, least, "the least for any of these nets")
    for arch in chosen:
        yield Variant(arch)
        if MODELS[arch].batch_norm:
            yield Variant(arch, batch_norm=True)


def _ablations(config: ReproduceConfig) -> Iterator[Variant]:
    chosen = config.only or STUDY_ARCHS["ablations"]
    for arch in STUDY_ARCHS["ablations"]:
        # D starts from A too, which --only D does not name.
        if arch in chosen or (arch == "A" and "D" in chosen):
            yield Variant(arch, config.batch_norm and MODELS[arch].batch_norm)
        if arch == "A-LRN" and config.batch_norm and {"A", "A-LRN"} <= set(chosen):
            yield Variant("A")
    if "D" in chosen:
        yield Variant("D", config.batch_norm, start="A")


def _run(config: ReproduceConfig, variant: Variant, seed: int) -> Run:
    """The run of a variant. ValueError, one line that names the flag, for settings that it cannot be trained with."""
    arch, batch_norm, start = variant
    size = config.image_size
    if config.study == "small" and size is not None:
        size = max(size, MODELS[arch].min_image_size)
    depends_on = None if start is None else run_name(Variant(start, batch_norm), seed)
    return Run(config.study_run(run_name(variant, seed), arch, batch_norm, seed, size, depends_on), depends_on)


def run_name(variant: Variant, seed: int) -> str:
    """The name of a variant's run, and of its folder."""
    return f"{variant.name}-seed{seed}"
