"""Train, search, evaluate and reproduce the VGG networks on a Ray cluster.

As a library: `build_model`, `load_net`, `list_models` and `evaluate_net`. They are imported on first use, so that
`import vgg_dist` loads neither torch nor Ray nor MLflow; none of the four needs Ray or MLflow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pipelines.signals import begin_command

if TYPE_CHECKING:
    from vgg_dist.api import EvaluationResult, evaluate_net, list_models
    from vgg_dist.models.build import build_model
    from vgg_dist.weights.load import load_net

__all__ = ["EvaluationResult", "build_model", "evaluate_net", "list_models", "load_net"]

_HOMES = {
    "EvaluationResult": "vgg_dist.api",
    "build_model": "vgg_dist.models.build",
    "evaluate_net": "vgg_dist.api",
    "list_models": "vgg_dist.api",
    "load_net": "vgg_dist.weights.load",
}

# Signals are handled only where `python -m vgg_dist.COMMAND` is starting; this is a no-op in a program that imports us.
begin_command(__name__)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, whether they have been imported or not."""
    return sorted({*globals(), *__all__})
