"""Reads weights files without running code, and unwraps the state dict from what other tools put around it.

`read_weights_file` reads a file; `unwrap` finds in its content the state dict of one net, under plain keys. It removes

- dicts around the state dict, nested to any depth: {"state_dict": ...}, {"model": ...}, with epochs, optimizers and
settings; - parts of keys that wrappers insert: `module.` (DataParallel, DDP, AveragedModel), `_orig_mod.` (torch.compile),
those of FSDP
  and of activation checkpointing;
- one prefix before all keys of the net (`model.`, `net.`, `backbone.`: Lightning and training scripts);
- timm's names of the FC layers, which are convolutions there;
- counters: `n_averaged`, `num_batches_tracked` without its batch norm, those of profilers.

If a file has both trained weights and their moving average, the trained ones are used, and a line says so.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipelines.paths import absolute, is_remote
from vgg_dist.run_folder.digests import damaged_member
from vgg_dist.storage import read_file

SUFFIXES = (".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".pth.tar")

# The key of a net's description in the metadata of an exported safetensors file or pickled state dict.
METADATA_KEY = "vgg_dist"

FIRST = "features.0.weight"  # a VGG is recognised by this key
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
COUNTERS = {"n_averaged", "total_ops", "total_params"}
TIMM = {"pre_logits.fc1.": "classifier.0.", "pre_logits.fc2.": "classifier.3.", "head.fc.": "classifier.6."}
AVERAGE = re.compile(r"(^|[._])(ema|averaged?|avg|swa|shadow)($|[._])", re.IGNORECASE)
LOSS = re.compile(r"^(\w+[._])*(criterion|loss|metrics?)\w*\.", re.IGNORECASE)


def unwrap(where: str, content: object) -> dict[str, Tensor]:
    """The state dict of the one net in `content`, under plain keys; see the module's docstring.

    If there is none, the largest state dict, for an error message about its keys. `where`: the file, for messages.
    ValueError, one line, if there are several different nets, or tensors beside the net that may be a part of it.
    """
    found = list(_state_dicts(content, ""))
    if not found:
        keys = f"a dict with {', '.join(str(key) for key in list(content)[:5])}" if isinstance(content, Mapping) else ""
        raise ValueError(f"{where}: is not a state dict; {ALLOWED}; found {keys or f'a {type(content).__name__}'}")
    nets = [(place, weights) for place, each in found for place, weights in _nets(where, place, each)]
    if not nets:
        return max((weights for _, weights in found), key=len)
    trained = [net for net in nets if not AVERAGE.search(net[0])] or nets
    place, weights = trained[0]
    if not all(_equal(weights, other) for _, other in trained[1:]):
        raise ValueError(f"{where}: holds several nets ({', '.join(place for place, _ in trained)}): save one as a file")
    if averaged := [other for other, _ in nets if other not in [place for place, _ in trained]]:
        print(f"{where}: uses {place or 'the plain weights'}, not {', '.join(averaged)}", file=sys.stderr)
    return weights


def plain_weights(where: str, content: object) -> dict[str, Tensor]:
    """The state dict in an exported file, which needs no unwrapping. ValueError, one line, for anything else."""
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{where}: is not the state dict that was exported, it holds other things than tensors")
    return dict(content)


ALLOWED = "allowed: a dict of tensors, as torch.save(model.state_dict(), FILE) writes it, alone or in a larger checkpoint"


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts are the same net, saved under two names."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _state_dicts(content: object, place: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """All dicts of tensors under text keys, each with its place in `content`. An optimizer's state has numbers as keys."""
    if isinstance(content, list | tuple):
        content = {str(number): each for number, each in enumerate(content) if isinstance(each, Mapping)} or None
    if not isinstance(content, Mapping):
        return
    tensors = {key: value.detach() for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors or not content:
        yield place, tensors
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Mapping | list | tuple) and value and not key.startswith("optim"):
            yield from _state_dicts(value, f"{place}.{key}" if place else key)


def _nets(where: str, place: str, weights: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The nets in one dict, told apart by the prefix of their keys: (place and prefix, state dict)."""
    plain: dict[str, Tensor] = {}
    raw: dict[str, str] = {}
    for key, value in weights.items():
        name = ".".join(part for part in key.split(".") if part not in WRAPPERS)
        if name in plain and not torch.equal(plain[name], value):
            raise ValueError(f"{where}: holds several nets ({raw[name]} and {key}): save one as a file")
        plain[name], raw[name] = value, key
    prefixes = [key.removesuffix(FIRST) for key in plain if key == FIRST or key.endswith("." + FIRST)]
    # Without a prefix all keys are the net's; the caller finds unexpected ones.
    beside = [key for key in plain if not any(key.startswith(prefix) for prefix in prefixes)]
    if prefixes and (strange := [key for key in beside if not _no_part_of_a_net(key, plain[key])]):
        raise ValueError(
            f"{where}: has, beside the net below {prefixes[0]}, {', '.join(strange[:3])}, which may be a part of it"
            " (as a layer that prepares the images is): save the net alone as a file"
        )
    for prefix in prefixes:
        others = [other for other in prefixes if other != prefix and other.startswith(prefix)]
        own = {
            key.removeprefix(prefix): value
            for key, value in plain.items()
            if key.startswith(prefix) and not any(key.startswith(other) for other in others)
        }
        yield ".".join(part for part in (place, prefix.rstrip(".")) if part), _of_torchvision(own)


def _no_part_of_a_net(key: str, value: Tensor) -> bool:
    """Whether a tensor outside the net is certainly no layer: a counter, part of a loss or a metric, or a single number."""
    return (
        key.rpartition(".")[2] in COUNTERS
        or LOSS.search(key) is not None
        or not value.is_floating_point()
        or value.ndim == 0
    )


def _of_torchvision(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without needless counters, and with torchvision's keys in place of timm's."""
    counted = {key.removesuffix("running_var") for key in weights if key.endswith(".running_var")}
    kept = {}
    for key, value in weights.items():
        layer, _, name = key.rpartition(".")
        if name in COUNTERS or (name == "num_batches_tracked" and f"{layer}." not in counted):
            continue
        for theirs, ours in TIMM.items():
            if key.startswith(theirs):
                key, value = ours + key.removeprefix(theirs), value.flatten(1) if value.ndim == 4 else value
        kept[key] = value
    return kept


def read_weights_file(file: Path, location: str) -> tuple[object, str | None]:
    """A file's content, tensors on the CPU, and the description of its net as JSON, or None.

    `location`: the file as the user gave it, for messages. ValueError, one line, if the file is damaged, of another format,
    or cannot be read without running code.
    """
    if file.suffix == ".safetensors":
        return _read_safetensors(file, location)
    return _read_pickled(file, location)


def _read_safetensors(file: Path, location: str) -> tuple[dict[str, Tensor], str | None]:
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
        return safetensors.torch.load_file(file), metadata.get(METADATA_KEY)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{location}: is damaged or not a safetensors file: {one_line(error)}") from error


class StandIn:
    """Replaces objects of other classes in a pickle, such as settings beside the weights; holds nothing, does nothing."""

    def __new__(cls, *_: object) -> StandIn:
        """Accepts and ignores the arguments of the replaced class."""
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _read_pickled(file: Path, location: str) -> tuple[object, str | None]:
    if (member := damaged_member(file)) is not None:
        raise ValueError(f"{location}: is damaged: {member} in it does not have its checksum")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        # torch's message advises to allow the code to run: only the class that it names is passed on.
        if not (forbidden := re.search(r"GLOBAL (\S+)", str(error))):
            raise ValueError(f"{location}: is damaged or not a file of torch.save: {one_line(error)}") from error
        content = _read_with_stand_ins(file)
        if content is None:
            raise ValueError(
                f"{location}: holds more than weights ({forbidden[1]}), which could run code, and is not read;"
                " allowed: a state dict, as torch.save(model.state_dict(), FILE) writes it"
            ) from error
    return content, getattr(content, "_metadata", {}).get(METADATA_KEY)


def _read_with_stand_ins(file: Path) -> object | None:
    """A file's content with stand-ins for objects of other classes; still `weights_only`, so that none of their code runs.

    None if no state dict of a net remains: then the objects were the weights, or contained them.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        with torch.serialization.safe_globals([(StandIn, name) for name in names]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # of any kind: the caller reports the error of the first attempt
        return None
    whole = [weights for _, weights in _state_dicts(content, "") if any(key.endswith(FIRST) for key in weights)]
    return content if whole else None


def one_line(error: Exception) -> str:
    """An error's class and message on one line, without torch's advice."""
    words = str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0].split()
    return " ".join([f"{type(error).__name__}:", *words])[:200]


@contextmanager
def local_file(location: str) -> Iterator[Path]:
    """A file on this machine: in place, or as a temporary copy. ValueError, one line, if there is no such file."""
    try:
        content = read_file(location) if is_remote(location) else None
    except (OSError, ValueError) as error:
        raise ValueError(f"{location}: cannot be read: {one_line(error)}") from error
    if content is None:
        file = Path(absolute(location))
        if is_remote(location) or not file.is_file():
            raise ValueError(f"{location}: does not exist; expected a run's folder, a checkpoint or a weights file")
        yield file
        return
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, location.rpartition("/")[2])
        file.write_bytes(content)
        yield file
