"""The settings of each command: a frozen, flat dataclass, which is the command line, the MLflow params and config.json.

Defaults are the paper's recipe (section 3). `resolved()` fills in what follows from other settings and checks everything
that can be checked without data or a cluster; errors name the flag.
"""

from vgg_dist.config.base import Config, at_least, check_checkpoint, check_name, data_location, flag
from vgg_dist.config.evaluate import EvalConfig
from vgg_dist.config.reproduce import PaperArch, ReproduceConfig
from vgg_dist.config.resume import changed_settings, describe_changes, refuse_changes
from vgg_dist.config.scale_range import ScaleRange
from vgg_dist.config.train import Arch, TrainConfig
from vgg_dist.config.tune import Choices, Range, TuneConfig
from vgg_dist.errors import TrainingError

__all__ = [
    "Arch",
    "Choices",
    "Config",
    "EvalConfig",
    "PaperArch",
    "Range",
    "ReproduceConfig",
    "ScaleRange",
    "TrainConfig",
    "TrainingError",
    "TuneConfig",
    "at_least",
    "changed_settings",
    "check_checkpoint",
    "check_name",
    "data_location",
    "describe_changes",
    "flag",
    "refuse_changes",
]
