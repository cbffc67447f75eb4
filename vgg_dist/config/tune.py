"""The settings of vgg_dist.tune: those of a training, and which of them are searched."""

from __future__ import annotations

import dataclasses
import itertools
import time
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.paths import absolute, join
from vgg_dist.config.base import at_least, check_name, data_location, flag, quarantine_list
from vgg_dist.config.scale_range import ScaleRange
from vgg_dist.config.train import TrainConfig
from vgg_dist.models.specs import MODELS

PAPER_SCALES = ScaleRange(256, 256), ScaleRange(384, 384), ScaleRange(256, 512)  # at 224 pixels
LETTERS = {"lr": "lr", "train_scale": "S", "weight_decay": "wd", "dropout": "dropout", "init": ""}
"""What a searched setting is called in the name of a trial."""


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, drawn uniformly, or uniformly in their logarithm."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Choices:
    """Values to choose from. A train scale is a word here: 256, or 256-512."""

    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class TuneConfig(TrainConfig):
    """Search the settings of a training. What vgg_dist.train takes holds for every trial; --search-... vary.

    Two numbers after --search-lr, --search-weight-decay or --search-dropout are the ends of a range; with --search grid, and
    where there are more or fewer of them, they are the values.
    """

    search_lr: tuple[float, ...] = (1e-3, 1e-1)
    """Learning rates (a range is searched in its logarithm)."""
    search_train_scale: tuple[str, ...] | None = None
    """Train scales: words like 256, or 256-512 for a range to jitter in. Default: 256 384 256-512, as image size / 224."""
    search_weight_decay: tuple[float, ...] = ()
    """Weight decays (a range is searched in its logarithm)."""
    search_dropout: tuple[float, ...] = ()
    """Dropout rates."""
    search_init: tuple[Literal["glorot", "gaussian", "he"], ...] = ()
    """Initialisations."""

    search: Literal["random", "grid", "bayesian"] = "random"
    """How settings are chosen: drawn, all combinations in random order, or by Optuna's tree-structured Parzen estimator."""
    trials: int = 16
    """How many settings are tried (a grid has as many as it has combinations)."""
    metric: Literal["top1_error", "top5_error", "loss"] = "top1_error"
    """The validation metric that is to be small."""
    early_stopping: Literal["asha", "median", "none"] = "asha"
    """asha: only the best quarter goes on after epochs 1, 4, 16, ...; median: those above the median are stopped."""
    grace_epochs: int = 1
    """Epochs that every trial trains: the first of those at which ASHA, or the median, decides."""
    trials_at_once: int | None = None
    """Trials that run beside each other. Default: as many as the cluster has GPUs, or CPUs, for."""

    def resolved(self) -> TuneConfig:
        """With absolute paths and the default scales. ValueError, one line that names the flag, for what cannot be."""
        scales = self.search_train_scale
        if scales is None:
            size = (self.image_size or MODELS[self.arch].image_size) / 224
            fixed = self.train_scale is not None
            scales = () if fixed else tuple(str(scale.scaled(size)) for scale in PAPER_SCALES)
        config = dataclasses.replace(
            self,
            search_train_scale=scales,
            name=f"tune-{self.arch.lower()}-{time.strftime('%Y%m%d-%H%M%S')}" if self.name is None else self.name,
            storage_path=absolute(self.storage_path),
            data=data_location(self.data),
            quarantine=quarantine_list(self.data, self.quarantine),
            init_from=None if self.init_from is None else absolute(self.init_from),
            num_workers=self.num_workers or 1,
        )
        config._check_search()
        return config

    @property
    def folder(self) -> str:
        """Where a search keeps its trials, each a run of its own."""
        return join(self.storage_path, self.name or "")

    def space(self) -> dict[str, Range | Choices]:
        """What is searched, by the name of the training's setting."""
        found: dict[str, Range | Choices] = {}
        for field in LETTERS:
            values: tuple[Any, ...] = getattr(self, f"search_{field}") or ()
            if field in ("lr", "weight_decay", "dropout") and len(values) == 2 and self.search != "grid":
                found[field] = Range(values[0], values[1], log=field != "dropout")
            elif values:
                found[field] = Choices(tuple(values))
        return found

    def num_trials(self) -> int:
        """How many trials the search has."""
        return len(self.combinations()) if self.search == "grid" else self.trials

    def combinations(self) -> list[dict[str, Any]]:
        """Every combination of the values (of a range, of its two ends), by the name of the training's setting."""
        space = self.space()
        ends = [values.values if isinstance(values, Choices) else (values.low, values.high) for values in space.values()]
        return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*ends)]

    def trial(self, values: dict[str, Any], number: int = 0) -> TrainConfig:
        """The training of a trial, resolved; it is named by what differs, and its number."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(TrainConfig)} | values
        if "train_scale" in values:
            settings["train_scale"] = ScaleRange.parse(values["train_scale"], flag("search_train_scale"))
        named = [LETTERS[field] + (f"{v:.3g}" if isinstance(v, float) else str(v)) for field, v in values.items()]
        settings["name"] = "_".join([*named, f"{number:05}"])
        settings["storage_path"] = self.folder
        return TrainConfig(**settings).resolved()

    def _check_search(self) -> None:
        space = self.space()
        if not space:
            raise ValueError("nothing to search: give at least one of " + ", ".join(flag(f"search_{f}") for f in LETTERS))
        at_least("trials", self.trials, 1)
        at_least("grace_epochs", self.grace_epochs, 1)
        if self.trials_at_once is not None:
            at_least("trials_at_once", self.trials_at_once, 1)
        check_name(self.name or "", self.storage_path)
        defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
        for field, values in space.items():
            name = flag(f"search_{field}")
            if getattr(self, field) != defaults[field]:
                raise ValueError(f"{flag(field)} {getattr(self, field)}: is searched by {name}; give one of the two")
            if isinstance(values, Range) and not values.low < values.high:
                raise ValueError(f"{name} {values.low} {values.high}: the first must be less than the second")
            if isinstance(values, Range) and values.log and not values.low > 0:
                raise ValueError(f"{name} {values.low}: must be more than 0, where a range is searched in its logarithm")
        for combination in self.combinations():
            try:
                self.trial(combination)
            except ValueError as error:
                # The error names the setting; where it is a searched one, so is the flag.
                searched = any(str(error).startswith(f"{flag(field)} ") for field in space)
                raise ValueError(str(error).replace("--", "--search-", 1) if searched else str(error)) from None
