"""Checks that a command makes before it starts Ray and before it imports torch. They take seconds and change nothing.

A run that is refused keeps its record: MLflow, the run's folder and Ray are touched only once all checks have passed.
"""

from __future__ import annotations

import os

from pipelines.paths import is_remote
from vgg_dist.config import EvalConfig, TrainSettings, TuneConfig, flag
from vgg_dist.config.worker_range import NumWorkers, WorkerRange
from vgg_dist.ray_cluster.address import cluster_named
from vgg_dist.ray_cluster.nodes import check_cluster
from vgg_dist.run_folder.choice import find_checkpoints
from vgg_dist.run_folder.outcome import Earlier, read_earlier
from vgg_dist.run_folder.search import refuse_other_search
from vgg_dist.storage import check_storage
from vgg_dist.tracking import check_store, resolve_tracking_uri


def check_training(config: TrainSettings, class_names: list[str] | None = None) -> Earlier | None:
    """Returns what there is of the run already, or None. `class_names`: the data's, where they are known.

    ValueError, one line that names the flag, for settings that the run cannot be resumed with, an --init-from that is not a
    checkpoint, and as `check_place`. A run with nothing left to train needs no cluster and no tracking server.
    """
    check_storage(config.storage_path)
    earlier = read_earlier(config)
    if earlier is not None:
        earlier.check(config, class_names)
        if earlier.is_all(config):
            return earlier
    if config.init_from is not None and not cluster_named():  # on a cluster it may be on the nodes only
        find_checkpoints(config.init_from, "--init-from")
    check_place(config.storage_path, config.tracking_uri, config.num_workers)
    return earlier


def check_search(config: TuneConfig) -> None:
    """ValueError, one line, if --name is a search with other settings, and as `check_place`."""
    check_storage(config.storage_path)
    refuse_other_search(config)
    check_place(config.storage_path, config.tracking_uri, config.num_workers)


def check_evaluation(config: EvalConfig) -> None:
    """ValueError, one line, if a net or the data does not exist, and as `check_place`."""
    for net in config.nets:
        if not net.startswith("torchvision://") and not is_remote(net) and not os.path.isfile(net):
            find_checkpoints(net, "net", config.checkpoint)
    files = {"data": config.data, "labels": config.labels, "devkit": config.devkit, "class_names": config.class_names}
    for field, file in files.items():
        if file is not None and not is_remote(file) and not file.startswith("synthetic") and not os.path.exists(file):
            raise ValueError(f"{flag(field)} {file}: does not exist")
    check_place(config.storage_path, config.tracking_uri, config.num_workers)


def check_place(storage_path: str, tracking_uri: str | None, num_workers: NumWorkers | None) -> None:
    """ValueError, one line, for storage that cannot be written, or a cluster or tracking server that does not answer.

    Also for more workers than fit on this machine, where Ray is to be started here.
    """
    uri = resolve_tracking_uri(tracking_uri, storage_path)
    check_storage(storage_path)
    if isinstance(num_workers, WorkerRange):
        check_cluster(num_workers.least, num_workers.most)
    else:
        check_cluster(num_workers)
    check_store(uri, make=False)
