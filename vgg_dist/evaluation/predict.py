"""The classes of pictures, for `python -m vgg_dist.evaluate --predict`: the five most probable ones of each."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from pipelines.quoting import one_line, quoted
from pipelines.secrets import masked
from pipelines.stores.pictures import Pictures
from pipelines.stores.sample_store import SampleStore
from vgg_dist.config import EvalConfig
from vgg_dist.evaluation.compute import Evaluator, view_images
from vgg_dist.evaluation.open import open_net, open_nets, test_scales


def predict(config: EvalConfig, store: SampleStore) -> NDArray[np.float32]:
    """Posteriors (n, num_classes) of the pictures in `store`: the mean over the nets and views.

    Each net sees them at all of --test-scales; where none are given, at the middle one of its own.
    """
    evaluator = Evaluator(config, store)
    indices, parts = np.arange(len(store)), []
    for location in config.nets:
        net = open_net(config, location)
        viewer, whole = evaluator.prepare(net)
        scales = test_scales(config, net)
        for scale in scales if config.test_scales is not None else [scales[len(scales) // 2]]:
            parts += [view_images(viewer, whole, view, scale, indices) for view in config.views]
    return np.mean(parts, axis=0)


def print_predictions(config: EvalConfig) -> bool:
    """Prints each picture's five most probable classes with their posteriors; on stderr, a line for each unreadable one.

    Returns whether all pictures could be read.
    """
    nets = open_nets(config)
    for line in filter(None, (net.origin for net in nets)):
        print(line, file=sys.stderr)  # without the command's name, which begins the lines of unreadable pictures
    labels = [net.class_labels or net.class_names for net in nets]
    names = next((each for each in labels if each is not None), None)
    pictures = Pictures(config.predict, config.max_pixels)
    for picture, posteriors in zip(pictures.files, predict(config, pictures) if pictures.files else (), strict=True):
        print(quoted(masked(picture)))
        for label in (-posteriors).argsort(kind="stable")[:5]:
            print(f"  {100 * posteriors[label]:6.2f} %  {quoted(names[label]) if names is not None else f'class {label}'}")
    if len(pictures.left_out):
        print(f"left out: {masked(pictures.left_out.summary())}", file=sys.stderr)
    for picture, why in pictures.failed.items():
        print(f"vgg_dist.evaluate: --predict {masked(f'{quoted(picture)}: {one_line(why)}')}", file=sys.stderr)
    return not pictures.failed
