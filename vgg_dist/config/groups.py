"""In which groups --help and config.yaml show the settings, and how a field is described there."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vgg_dist.config.scale_range import ScaleRange
from vgg_dist.config.worker_range import WorkerRange

GROUPS: dict[str, tuple[str, ...]] = {
    "what is run": ("study", "preset", "dry_run", "only", "seeds", "through", "scales", "from_shallow", "epochs_scale"),
    "search": (
        "search_lr", "search_train_scale", "search_weight_decay", "search_dropout", "search_init", "search", "trials",
        "metric", "early_stopping", "grace_epochs", "max_concurrent_trials",
    ),
    "nets": ("nets", "weights_format", "checkpoint", "class_names"),
    "model": ("arch", "batch_norm", "head", "width", "dropout", "init", "init_std", "init_from"),
    "data": (
        "data", "labels", "devkit", "image_size", "train_scale", "val_scale", "test_scales", "views", "pad", "flip",
        "color_shift", "max_bad_images", "max_pixels", "quarantine", "shuffle",
    ),
    "schedule": (
        "epochs", "max_steps", "global_batch", "lr", "warmup_epochs", "patience", "lr_drops", "momentum", "weight_decay",
        "seed",
    ),
    "results": ("report", "submission", "predict"),
    "hardware": (
        "num_workers", "micro_batch", "loader_threads", "precision", "compile", "deterministic", "bf16_gradients",
        "powersgd_rank", "fc_parallel", "max_failures",
    ),
    "storage and tracking": ("name", "storage_path", "checkpoint_every", "log_every", "experiment", "tracking_uri"),
}  # fmt: skip
"""Names of fields by group; a command shows those that it has."""


def grouped(kind: type[Any]) -> dict[str, list[dataclasses.Field[Any]]]:
    """The fields of a command's settings that have a flag, by group. KeyError for a field that is in no group."""
    fields = {field.name: field for field in dataclasses.fields(kind) if "Suppress" not in str(field.type)}
    groups = {title: [fields.pop(name) for name in names if name in fields] for title, names in GROUPS.items()}
    if fields:
        raise KeyError(f"{', '.join(fields)}: in no group of --help")
    return {title: members for title, members in groups.items() if members}


def field_docs(kind: type[Any]) -> dict[str, str]:
    """The string below each field of a dataclass, and of those that it inherits from, as one line."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(each):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                match following:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        found[statement.target.id] = " ".join(text.split())
    return found


def field_types(kind: type[Any]) -> dict[str, Any]:
    """The type of each field, without annotations."""
    return get_type_hints(kind)


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union; of another type, that alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def value_name(hint: Any) -> str:
    """What stands for a value of this type in --help, such as N, or {fc,gap,linear}."""
    *_, kind = [each for each in alternatives(hint) if each is not type(None)]
    if get_origin(kind) is Literal:
        return f"{{{','.join(map(str, get_args(kind)))}}}"
    if get_origin(kind) is tuple:
        items = get_args(kind)
        return f"{value_name(items[0])} ..." if items[-1] is Ellipsis else " ".join(map(value_name, items))
    return {int: "N", float: "X", ScaleRange: "PX|LOW-HIGH", WorkerRange: "N|MIN:MAX"}.get(kind, "TEXT")
