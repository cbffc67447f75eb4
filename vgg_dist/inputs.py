"""What an evaluation is of: the nets, the images, and whether they go together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipelines.archives import read_devkit
from pipelines.flat import open_flat
from pipelines.remote import is_remote
from pipelines.samples import SampleStore
from pipelines.store import SPLIT_FOLDERS, open_store
from vgg_dist import paper
from vgg_dist.config import EvalConfig
from vgg_dist.weights import TrainedNet, load_net


def open_nets(config: EvalConfig) -> list[TrainedNet]:
    """The nets, their weights left out, with the same classes. ValueError, one line, where they do not go together."""
    nets = []
    for location in tqdm(config.nets, "reading weights", unit="net", disable=None):
        nets.append(open_net(config, location))
        nets[-1].model.to("meta")  # frees its memory: who computes opens one net at a time
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
    return nets


def open_net(config: EvalConfig, location: str) -> TrainedNet:
    """One net, with what the flags say of weights that do not say it themselves. ValueError, one line, if that is wrong."""
    net = load_net(location, config.weights_format)
    if config.class_names is not None:
        lines = Path(config.class_names).read_text().split("\n") if Path(config.class_names).is_file() else []
        names = [line.strip() for line in lines if line.strip()]
        if len(names) != net.num_classes:
            raise ValueError(
                f"--class-names {config.class_names}: {len(names)} names, {net.name} has {net.num_classes} classes"
            )
        if net.class_names not in (None, names):
            raise ValueError(f"--class-names {config.class_names}: {net.name} has class names of its own, and other ones")
        net = replace(net, class_names=names)
    if config.train_scale is not None and net.train_scale is None:
        net = replace(net, train_scale=(config.train_scale[0], config.train_scale[-1]))
    return net


def test_scales(config: EvalConfig, net: TrainedNet) -> tuple[int, ...]:
    """All Q for a net: as asked, else the paper's for tables 3 and 4. ValueError for one smaller than a crop."""
    if config.test_scales is not None:
        scales = config.test_scales
    elif net.train_scale is None:
        scales = (round(256 * net.image_size / 224),)
    else:
        scales = (paper.single_scale(net.train_scale), *paper.several_scales(net.train_scale, net.image_size))
    if min(scales) < net.image_size:
        raise ValueError(f"--test-scales {min(scales)}: must be at least {net.image_size}, the input size of {net.name}")
    return tuple(sorted(set(scales)))


def open_images(config: EvalConfig, nets: Sequence[TrainedNet]) -> tuple[SampleStore, list[str]]:
    """The images, labels being indices into the class names, which are the nets'. ValueError, one line."""
    names = next((net.class_names for net in nets if net.class_names is not None), None)
    data = config.data or next((net.data for net in nets if net.data is not None), None)
    if data is None:
        raise ValueError("--data: is needed with weights that do not come from a run of this project")
    if _is_flat(data):
        if names is None:
            raise ValueError(f"--data {data}: is a folder without class folders, so --class-names is needed")
        return open_flat(data, names, None if config.labels is None else read_labels(config)), names
    if config.labels is not None:
        raise ValueError(f"--labels: is for a folder of images; {data} has a folder for each class")
    store = open_store(data, "val")
    if names is None:
        if len(store.class_names) != nets[0].num_classes:
            raise ValueError(
                f"--data {data}: has {len(store.class_names)} classes, {nets[0].name} {nets[0].num_classes}, without names;"
                " --class-names FILE says them, one a line"
            )
        return store, store.class_names
    number = {name: index for index, name in enumerate(names)}
    if unknown := [name for name in store.class_names if name not in number]:
        raise ValueError(f"--data {data}: classes that {nets[0].name} does not know: {', '.join(unknown[:5])}")
    store.labels = np.array([number[name] for name in store.class_names], np.int64)[store.labels]
    store.class_names = names
    return store, names


def _is_flat(data: str) -> bool:
    if is_remote(data) or not os.path.isdir(data):
        return False
    inside = os.listdir(data)
    folders = [name for names in SPLIT_FOLDERS.values() for name in names]
    return not any(name in inside or f"{name}.index.npz" in inside for name in folders)


def read_labels(config: EvalConfig) -> list[str]:
    """The class names in --labels; with --devkit the file holds the classes' official numbers. ValueError, one line."""
    assert config.labels is not None
    try:
        labels = Path(config.labels).read_text().split()
    except OSError as error:
        raise ValueError(f"--labels {config.labels}: {error.strerror}") from error
    if config.devkit is None:
        return labels
    wnids = {str(number): wnid for number, wnid in read_devkit(Path(config.devkit))[0].items()}
    if unknown := sorted(set(labels) - set(wnids)):
        raise ValueError(f"--labels {config.labels}: not numbers of classes: {', '.join(unknown[:5])}")
    return [wnids[label] for label in labels]
