"""The settings of vgg_dist.tune: those of a training, and which of them are searched over which values."""

from __future__ import annotations

import dataclasses
import itertools
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from vgg_dist.config.base import check_name
from vgg_dist.config.bounds import AtLeast, check_bounds
from vgg_dist.config.names import flag
from vgg_dist.config.scale_range import ScaleRange
from vgg_dist.config.train import TrainConfig, TrainSettings
from vgg_dist.config.train_flags import TrainFlags
from vgg_dist.config.worker_range import fixed_workers
from vgg_dist.models.specs import MODELS

PAPER_SCALES = ScaleRange(256, 256), ScaleRange(384, 384), ScaleRange(256, 512)  # at 224 pixels
LETTERS = {"lr": "lr", "train_scale": "S", "weight_decay": "wd", "dropout": "dropout", "init": ""}
"""The short name of a searched setting in the name of a trial."""


@dataclass(frozen=True)
class Range:
    """Numbers between `low` and `high`, drawn uniformly; if `log`, so that their logarithm is uniform."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Choices:
    """Values to choose from. Train scales are text here, such as 256-512: Optuna takes numbers and text only."""

    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class TuneConfig(TrainFlags):
    """Search the settings of a training. The flags of vgg_dist.train apply to every trial; the --search-... flags vary.

    Two numbers after --search-lr, --search-weight-decay or --search-dropout are the ends of a range. With --search grid, or
    if there are more or fewer than two, they are the values themselves.
    """

    search_lr: tuple[float, ...] = (1e-3, 1e-1)
    """Learning rates. Two numbers are the ends of a range, which is searched on a logarithmic scale."""
    search_train_scale: tuple[str, ...] | None = None
    """Train scales, such as 256 384 256-512. Default: these three, times image size / 224."""
    search_weight_decay: tuple[float, ...] = ()
    """Weight decays. Two numbers are the ends of a range, which is searched on a logarithmic scale."""
    search_dropout: tuple[float, ...] = ()
    """Dropout rates. Two numbers are the ends of a range."""
    search_init: tuple[Literal["glorot", "gaussian", "he"], ...] = ()
    """Initialisations."""

    search: Literal["random", "grid", "bayesian"] = "random"
    """How settings are chosen: random draws them; grid tries all combinations, in random order; bayesian uses Optuna's
    tree-structured Parzen estimator."""
    trials: Annotated[int, AtLeast(1)] = 16
    """Number of settings to try. A grid has as many trials as combinations."""
    metric: Literal["top1_error", "top5_error", "loss"] = "top1_error"
    """Validation metric to minimise."""
    early_stopping: Literal["asha", "median", "none"] = "asha"
    """Which trials are stopped early. asha: after epochs 1, 4, 16, ... only the best quarter is promoted; median: trials
    worse than the median of the others are stopped; none: all trials train to the end."""
    grace_epochs: Annotated[int, AtLeast(1)] = 1
    """Epochs that every trial trains before --early-stopping may stop it."""
    max_concurrent_trials: Annotated[int | None, AtLeast(1)] = None
    """Trials that run at the same time, at most. Default: as many as the GPUs, or CPUs, of the cluster allow."""

    def resolved(self) -> TuneConfig:
        """With absolute paths and the default scales. ValueError, one line that names the flag, for a value not allowed."""
        check_bounds(self)
        scales = self.search_train_scale
        if scales is None:
            size = (self.image_size or MODELS[self.arch].image_size) / 224
            fixed = self.train_scale is not None
            scales = () if fixed else tuple(str(scale.scaled(size)) for scale in PAPER_SCALES)
        config = dataclasses.replace(
            self,
            search_train_scale=scales,
            name=f"tune-{self.arch.lower()}-{time.strftime('%Y%m%d-%H%M%S')}" if self.name is None else self.name,
            num_workers=fixed_workers(self.num_workers) or 1,
            **self.located(),
        )
        config._check_search()
        return config

    def space(self) -> dict[str, Range | Choices]:
        """The searched settings, by the name of the training's field."""
        found: dict[str, Range | Choices] = {}
        for field in LETTERS:
            values: tuple[Any, ...] = getattr(self, f"search_{field}") or ()
            if field in ("lr", "weight_decay", "dropout") and len(values) == 2 and self.search != "grid":
                found[field] = Range(values[0], values[1], log=field != "dropout")
            elif values:
                found[field] = Choices(tuple(values))
        return found

    def num_trials(self) -> int:
        """The number of trials."""
        return len(self.combinations()) if self.search == "grid" else self.trials

    def combinations(self) -> list[dict[str, Any]]:
        """Every combination of the values (of a range, its two ends), by the name of the training's field."""
        space = self.space()
        ends = [values.values if isinstance(values, Choices) else (values.low, values.high) for values in space.values()]
        return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*ends)]

    def trial(self, values: dict[str, Any], number: int = 0) -> TrainSettings:
        """The resolved settings of a trial. Its name has the searched values and its number."""
        settings = self.training_fields() | values
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
        check_name(str(self.name), self.storage_path)
        defaults = {field.name: field.default for field in dataclasses.fields(TrainFlags)}
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
                # The error names the flag of vgg_dist.train; for a searched setting, name the --search-... flag.
                searched = any(str(error).startswith(f"{flag(field)} ") for field in space)
                raise ValueError(str(error).replace("--", "--search-", 1) if searched else str(error)) from None
