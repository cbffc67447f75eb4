"""Opens the nets and the images of an evaluation, and checks that they fit together."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.layouts.devkit import read_devkit
from pipelines.layouts.label_lists import find_label_list
from pipelines.layouts.splits import has_split
from pipelines.paths import is_remote
from pipelines.progress import Progress
from pipelines.secrets import MASK
from pipelines.stores.class_checks import print_notes
from pipelines.stores.file_list import open_image_folder
from pipelines.stores.open import open_store
from pipelines.stores.sample_store import SampleStore
from vgg_dist import paper
from vgg_dist.config import EvalConfig
from vgg_dist.config.base import quarantine_list
from vgg_dist.evaluation.line_files import ClassNumbers, read_lines
from vgg_dist.weights.load import load_net
from vgg_dist.weights.net import NetDescription, TrainedNet


def open_nets(config: EvalConfig) -> list[TrainedNet]:
    """The nets, without their weights. ValueError, one line, where they do not have the same classes in the same order."""
    nets = []
    for location in Progress(config.nets, "reading weights", unit="net"):
        nets.append(open_net(config, location))
        nets[-1].model.to("meta")  # frees its memory; nets are opened again one at a time to compute
    for number, net in enumerate(nets[1:], start=1):
        if any(net.digest == earlier.digest for earlier in nets[:number]):
            raise ValueError(f"{net.name} is given twice: {config.nets[number]} has the weights of an earlier net")
        first = nets[0]
        if net.num_classes != first.num_classes:
            raise ValueError(
                f"{net.name} has {net.num_classes} classes, {first.name} has {first.num_classes}: no mean of both"
            )
        if net.class_names is not None and first.class_names is not None and net.class_names != first.class_names:
            same = "in another order" if sorted(net.class_names) == sorted(first.class_names) else "other ones"
            raise ValueError(f"{net.name} has other classes than {first.name} ({same}): no mean of both")
    if named := [net for net in nets if net.class_names is not None]:
        for net in nets:
            if net.class_names is None and output_order(net, named[0].class_names or []) != named[0].class_names:
                raise ValueError(
                    f"{net.name} has its classes in another order than {named[0].name}: no mean of both"
                    f" ({_some(output_order(net, named[0].class_names or []))}, not {_some(named[0].class_names or [])})"
                )
    return nets


def open_net(config: EvalConfig, location: str) -> TrainedNet:
    """One net; where its weights do not record class names or train scale, those of the flags.

    ValueError, one line, for flags that do not fit the net.
    """
    net = load_net(location, config.weights_format, config.checkpoint)
    if config.class_names is not None:
        names = read_class_names(config.class_names)
        if len(names) != net.num_classes:
            raise ValueError(
                f"--class-names {config.class_names}: {len(names)} names, {net.name} has {net.num_classes} classes"
            )
        if net.class_names not in (None, names):
            raise ValueError(f"--class-names {config.class_names}: {net.name} records other class names itself")
        net = replace(net, class_names=names)
    if config.train_scale is not None and net.train_scale is None:
        net = replace(net, train_scale=config.train_scale.ends)
    return net


def read_class_names(file: str) -> list[str]:
    """The names in --class-names, in the order of the outputs. ValueError, one line, also for a name given twice."""
    names = read_lines("--class-names", file)
    for line, name in enumerate(names, start=1):
        if (earlier := names.index(name) + 1) != line:
            raise ValueError(f"--class-names {file}, line {line}: {name!r} is on line {earlier} already")
    return names


WORDNET_ID = re.compile(r"n\d{8}")
IMAGENET_CLASSES = 1000


def output_order(net: TrainedNet, names: Sequence[str]) -> list[str]:
    """`names`, the data's classes, in the order of the outputs of a net that records no class names.

    The order is known for the numbers from 0 (output k is class k) and for ImageNet's thousand WordNet ids (sorted, as in
    all nets trained on it). ValueError, one line that asks for --class-names, for other names.
    """
    if len(names) == net.num_classes:
        numbers = {int(name): name for name in names if name.isascii() and name.isdecimal()}
        if sorted(numbers) == list(range(len(names))):
            return [numbers[k] for k in range(len(names))]
        if len(names) == IMAGENET_CLASSES and all(WORDNET_ID.fullmatch(name) for name in names):
            return sorted(names)
    raise ValueError(
        f"{net.name} does not say which of its {net.num_classes} outputs is which class, and the {len(names)} classes"
        f" ({_some(names)}) are neither the numbers from 0 nor ImageNet's WordNet ids, whose order is known:"
        " give --class-names FILE, with one class a line in the order of the outputs"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def test_scales(config: EvalConfig, net: TrainedNet) -> tuple[int, ...]:
    """The test scales Q of a net: --test-scales, else the paper's for Tables 3 and 4. ValueError for one below its input."""
    if config.test_scales is not None:
        scales = config.test_scales
    elif net.train_scale is None:
        scales = (default_scale(net),)
    else:
        scales = (paper.single_scale(net.train_scale), *paper.several_scales(net.train_scale, net.image_size))
    if min(scales) < net.image_size:
        raise ValueError(f"--test-scales {min(scales)}: must be at least {net.image_size}, the input size of {net.name}")
    return tuple(sorted(set(scales)))


def default_scale(net: NetDescription) -> int:
    """The test scale Q of the paper's Table 3; 256/224 of the input size where the training scale is not known."""
    if net.train_scale is None:
        return round(net.image_size * 256 / 224)
    return max(net.image_size, paper.single_scale(net.train_scale))


def open_images(config: EvalConfig, nets: Sequence[TrainedNet]) -> tuple[SampleStore, list[str]]:
    """The images, and the nets' class names, which the images' labels are indices into. ValueError, one line."""
    names = next((net.class_names for net in nets if net.class_names is not None), None)
    data = data_of(config, nets)
    if _is_flat(data):
        if names is None:
            raise ValueError(f"--data {data}: is a folder without class folders, so --class-names is needed")
        return _open_flat(config, data, names), names
    if config.labels is not None:
        raise ValueError(f"--labels: is for a folder of images without class folders; {data} has class folders")
    store = open_store(data, "val", quarantine=quarantine_list(data, config.quarantine))
    print_notes(data, val=store)
    if names is None:
        names = _names_in_data(nets[0], data, store.class_names)
    _renumber(store, names, f"--data {data}: classes that {nets[0].name} does not know")
    return store, names


def open_any_images(config: EvalConfig, net: TrainedNet) -> SampleStore:
    """The images, whatever their classes are: val/, or a folder of images. ValueError, one line, where there are none."""
    data = data_of(config, [net])
    store = open_image_folder(data, []) if _is_flat(data) else open_store(data, "val", quarantine=config.quarantine)
    print_notes(data, images=store)
    return store


def data_of(config: EvalConfig, nets: Sequence[TrainedNet]) -> str:
    """The location of the images: --data, or that of the first net that records its own. ValueError, one line, without."""
    data = config.data or next((net.data for net in nets if net.data is not None), None)
    if data is None:
        raise ValueError("--data: is needed, as the weights do not come from a run of vgg_dist")
    if config.data is None and MASK in data:
        raise ValueError(f"--data: is needed; the run's own was {data}, and checkpoints do not keep secrets ({MASK})")
    return data


def _open_flat(config: EvalConfig, data: str, names: list[str]) -> SampleStore:
    """A folder of images without class folders, with the labels of --labels where that is given."""
    store = open_image_folder(data, names)
    print_notes(data, images=store)
    folder = Path(os.path.abspath(data))
    if config.labels is None and config.submission is None and (classes := find_label_list(str(folder))) is not None:
        raise ValueError(
            f"--data {data}: the classes of its images are in {classes}; give --data {folder.parent}, which reads both"
        )
    if config.labels is not None:
        store.labels = _label_numbers(config, names, len(store))
    return store


def _names_in_data(net: TrainedNet, data: str, class_names: list[str]) -> list[str]:
    """The data's class names in the order of the outputs of a net that records none; see `output_order`."""
    if len(class_names) != net.num_classes:
        raise ValueError(
            f"--data {data}: has {len(class_names)} classes, {net.name} {net.num_classes}, without names;"
            " give --class-names FILE, with one name a line"
        )
    names = output_order(net, class_names)
    if names != sorted(names):
        print(
            f"{net.name}: its output k is taken for class k; if it was trained with the folders in the order"
            f" {_some(sorted(names))}, give that order by --class-names FILE",
            file=sys.stderr,
        )
    return names


def _renumber(store: SampleStore, names: list[str], unknown_classes: str) -> None:
    """Makes the store's labels indices into `names`. ValueError that begins with `unknown_classes` for others."""
    known = ClassNumbers(names)
    numbers = [known.get(name) for name in store.class_names]
    if unknown := [name for name, number in zip(store.class_names, numbers, strict=True) if number is None]:
        raise ValueError(f"{unknown_classes}: {', '.join(unknown[:5])}")
    own_names = {number: name for name, number in zip(store.class_names, numbers, strict=True)}
    store.labels = np.array(numbers, np.int64)[store.labels]
    store.class_names = [own_names.get(number, name) for number, name in enumerate(names)]  # the store finds files by them


def _is_flat(data: str) -> bool:
    return not is_remote(data) and os.path.isdir(data) and not has_split(data)


def _label_numbers(config: EvalConfig, names: list[str], count: int) -> NDArray[np.int64]:
    """(count,) the labels in --labels as indices into `names`. ValueError, one line, for a wrong number or class."""
    labels = read_labels(config)
    if len(labels) != count:
        raise ValueError(
            f"--labels {config.labels}: {len(labels)} labels for the {count} images of {config.data};"
            " one a line, in the order of the images' names"
        )
    known = ClassNumbers(names)
    numbers = [known.get(label) for label in labels]
    if None in numbers:
        line = numbers.index(None)
        raise ValueError(f"--labels {config.labels}, line {line + 1}: the net does not know a class {labels[line]!r}")
    return np.array(numbers, np.int64)


def read_labels(config: EvalConfig) -> list[str]:
    """The class names in --labels, which with --devkit holds the classes' official numbers. ValueError, one line."""
    assert config.labels is not None
    labels = read_lines("--labels", config.labels)
    if config.devkit is None:
        return labels
    wnids = {str(number): wnid for number, wnid in read_devkit(Path(config.devkit))[0].items()}
    for line, label in enumerate(labels, start=1):
        if label not in wnids:
            raise ValueError(f"--labels {config.labels}, line {line}: {label!r} is not a class number of --devkit")
    return [wnids[label] for label in labels]
