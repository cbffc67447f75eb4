"""The data that a command opens before anything is started, where it can."""

from __future__ import annotations

from pipelines.loading.shard_order import check_shuffle
from pipelines.stores.class_checks import print_notes
from pipelines.stores.open import open_splits
from pipelines.stores.sample_store import SampleStore
from vgg_dist.config import TrainFlags
from vgg_dist.ray_cluster.address import cluster_named


def open_data_here(config: TrainFlags, is_needed: bool = False) -> tuple[SampleStore, SampleStore] | None:
    """The training and validation images, with notes on their classes printed.

    ValueError, one line, for bad data, and for --shuffle blocks of data without shards. None on a cluster, where only the
    workers may be able to read the data, unless the command cannot do without (`is_needed`).
    """
    if cluster_named() and not is_needed:
        return None
    train_images, val_images = open_splits(config.data, quarantine=config.quarantine)
    check_shuffle(config.shuffle, train_images, config.data)
    print_notes(config.data, train=train_images, val=val_images)
    return train_images, val_images
