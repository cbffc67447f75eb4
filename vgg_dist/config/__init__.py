"""The settings of each command: a frozen, flat dataclass.

Its fields are the flags, the keys of config.yaml and config.json, and the MLflow params.

Defaults are the paper's recipe (section 3). `resolved()` fills in what follows from other settings and checks everything
that can be checked without data or a cluster; errors name the flag.
"""

from vgg_dist.config.base import Config, check_checkpoint, check_name, data_location
from vgg_dist.config.bounds import at_least
from vgg_dist.config.evaluate import EvalConfig
from vgg_dist.config.names import flag, with_current_names
from vgg_dist.config.reproduce import ReproduceConfig
from vgg_dist.config.resume import changed_settings, describe_changes, refuse_changes
from vgg_dist.config.scale_range import ScaleRange
from vgg_dist.config.train import TrainCommand, TrainConfig, TrainSettings, WorkerSettings
from vgg_dist.config.train_flags import Arch, TrainFlags
from vgg_dist.config.tune import Choices, Range, TuneConfig
from vgg_dist.errors import TrainingError

__all__ = [
    "Arch",
    "Choices",
    "Config",
    "EvalConfig",
    "Range",
    "ReproduceConfig",
    "ScaleRange",
    "TrainCommand",
    "TrainConfig",
    "TrainFlags",
    "TrainSettings",
    "TrainingError",
    "TuneConfig",
    "WorkerSettings",
    "at_least",
    "changed_settings",
    "check_checkpoint",
    "check_name",
    "data_location",
    "describe_changes",
    "flag",
    "refuse_changes",
    "with_current_names",
]
