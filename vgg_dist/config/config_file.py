"""Settings in a YAML file: read for --config, and written into the folder of each run.

Keys are names of flags, with or without dashes: `global-batch`, `global_batch` and `--global-batch` are the same.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal, get_args, get_origin

from pipelines.paths import absolute
from pipelines.secrets import MASK, masked
from vgg_dist.config.base import Config
from vgg_dist.config.bounds import check_bounds
from vgg_dist.config.groups import alternatives, field_types, grouped
from vgg_dist.config.names import RENAMED, known_arch
from vgg_dist.config.scale_range import ScaleRange
from vgg_dist.config.suggestions import hint_for_choice, hint_for_key
from vgg_dist.config.worker_range import WorkerRange

CONFIG_FILE = "config.yaml"


class _WrongType(Exception):
    """A value that is not of the type of its field."""


def read_config_file(file: str, kind: type[Any]) -> dict[str, Any]:
    """The settings in a YAML file for a command whose settings are the dataclass `kind`, by field.

    ValueError, one line that names the file and the key, for a file that cannot be read, a key that is no flag of the
    command, or a value that it cannot have.
    """
    values: dict[str, Any] = {}
    for key, value in _read_mapping(file).items():
        name = str(key).lstrip("-").replace("-", "_")
        name = RENAMED.get(name, name)
        if name not in {field.name for fields in grouped(kind).values() for field in fields}:
            hint = hint_for_key(name, kind)
            raise ValueError(f"--config {file}: {key}: is no setting of this command{f'; {hint}' if hint else ''}")
        if name == "tracking_uri" and MASK in str(value):
            continue  # the password is not kept; MLFLOW_TRACKING_URI may have it
        if name == "arch" and (known := known_arch(str(value))):
            value = known.arch
            values |= {"batch_norm": True} if known.batch_norm else {}
        try:
            values[name] = converted(value, field_types(kind)[name])
        except _WrongType:
            hint = _hint_for_value(value, field_types(kind)[name])
            raise ValueError(f"--config {file}: {key}: {value!r} is not {hint}") from None
    try:
        check_bounds(kind(**values))
    except ValueError as error:
        raise ValueError(f"--config {file}: {error}") from None
    return values


def _read_mapping(file: str) -> dict[Any, Any]:
    import yaml

    from vgg_dist.storage import read_file

    try:
        content = read_file(absolute(file))
        found = None if content is None else yaml.load(content, _loader())
    except OSError as error:
        raise ValueError(f"--config {file}: cannot be read: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {file}: is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        raise ValueError(f"--config {file}: does not exist")
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"--config {file}: must have a line such as `lr: 0.01` for each setting")
    return found or {}


def _loader() -> Any:
    """YAML's safe loader, for which 2:8 is text. In YAML 1.1 it is 128: a number of minutes and seconds."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: ClassVar = {
            first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:int"]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
    return Loader


def converted(value: Any, hint: Any) -> Any:
    """A value of YAML as one of a field of that type. _WrongType if it is none."""
    for kind in alternatives(hint):
        try:
            return _converted_to(value, kind)
        except (_WrongType, ValueError):
            continue
    raise _WrongType


def _converted_to(value: Any, kind: Any) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is type(None) and value is None:
        return None
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    if get_origin(kind) is tuple:
        items = value if isinstance(value, list) else [value]
        kinds = get_args(kind)
        if kinds[-1] is Ellipsis or len(kinds) == len(items):
            return tuple(converted(item, kinds[0]) for item in items)
    if kind is ScaleRange:
        return (
            ScaleRange.of([converted(end, int) for end in value])
            if isinstance(value, list)
            else ScaleRange.parse(str(value))
        )
    if kind is WorkerRange:
        return WorkerRange.parse(str(value))
    if (kind is bool and isinstance(value, bool)) or (kind is int and is_number and isinstance(value, int)):
        return value
    if kind is float and (is_number or isinstance(value, str)):
        return float(value)  # YAML takes 1e-2, without a point, for text
    if kind is str and (is_number or isinstance(value, str)):
        return str(value)
    raise _WrongType


def _hint_for_value(value: Any, hint: Any) -> str:
    """What a value must be, for people; for one of a few choices also which may be meant."""
    words = []
    for kind in alternatives(hint):
        if get_origin(kind) is Literal:
            meant = hint_for_choice(str(value), "", [str(each) for each in get_args(kind)])
            words.append(f"one of {', '.join(map(str, get_args(kind)))}{f'; {meant}' if meant else ''}")
        elif get_origin(kind) is tuple:
            kinds = get_args(kind)
            count = "" if kinds[-1] is Ellipsis else f"{len(kinds)} "
            words.append(f"a list of {count}values, each {_hint_for_value(value, kinds[0])}")
        elif kind is not type(None):
            words.append({
                bool: "true or false", int: "a whole number", float: "a number", str: "text",
                ScaleRange: "a number of pixels, such as 256, or a range, such as 256-512",
                WorkerRange: "a range, such as 2:8, of which the first number is at least 1 and not more than the second",
            }[kind])  # fmt: skip
    return " or ".join(words)


def to_yaml(config: Config, command: str) -> str:
    """The settings as a YAML file for --config, in the groups of --help, secrets masked.

    `command`: such as vgg_dist.train, for the comment at the top.
    """
    import yaml

    lines = [
        f"# The settings of {command}, secrets masked. With --config, they are the defaults of another start:",
        f"#   python -m {command} --config {CONFIG_FILE} --name another",
    ]
    for title, fields in grouped(type(config)).items():
        values = {field.name: _yaml_value(getattr(config, field.name)) for field in fields if field.name != "dry_run"}
        if values:
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
            lines += ["", f"# {title}", text.rstrip()]
    return "\n".join(lines) + "\n"


def _yaml_value(value: Any) -> Any:
    if isinstance(value, ScaleRange):
        return value.low if value.is_fixed else str(value)
    if isinstance(value, WorkerRange):
        return str(value)
    return list(masked(value)) if isinstance(value, tuple) else masked(value)
