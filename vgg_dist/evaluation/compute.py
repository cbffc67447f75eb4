"""Computes the posteriors of an evaluation (paper, section 3.2).

`plan_evaluation` opens nets and images and lists the posteriors to have: one set for each net, view and scale. `compute`
computes the parts that are not on storage yet, in this process or by Ray workers. A part is PART images of one net in one
view at one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.loading.open import loader_threads
from pipelines.loading.preprocessing import Preprocessing
from pipelines.loading.whole_images import LargeImage, WholeImages
from pipelines.paths import join
from pipelines.progress import Progress
from pipelines.stores.sample_store import SampleStore
from vgg_dist.config import EvalConfig
from vgg_dist.evaluation.open import open_images, open_net, open_nets, test_scales
from vgg_dist.evaluation.posteriors import ImageSet, Manifest, PosteriorFiles
from vgg_dist.evaluation.views import Viewer
from vgg_dist.models.precision import apply_precision, autocast_dtype, resolve_precision
from vgg_dist.paper import AnyView
from vgg_dist.ray_cluster.address import cluster_named
from vgg_dist.weights.net import TrainedNet


@dataclass(frozen=True)
class Task:
    """One part of one net's posteriors."""

    net: int
    files: PosteriorFiles
    part: int


@dataclass(frozen=True)
class Evaluation:
    """The nets, the images, and for each net the files of its posteriors, by view and Q."""

    folder: str
    nets: list[TrainedNet]
    store: SampleStore
    images: ImageSet
    files: list[dict[tuple[AnyView, int], PosteriorFiles]]

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) indices into the nets' classes; -1 where the class is not known."""
        return np.array(self.images.labels, np.int64)

    def tasks(self) -> list[Task]:
        """The parts still to be computed. ValueError, one line, where the folder holds another evaluation."""
        self.images.keep(self.folder)
        return [
            Task(number, files, part)
            for number, of_net in enumerate(self.files)
            for files in of_net.values()
            for part in files.missing()
        ]

    def reader(self, net: int) -> Callable[[AnyView, int], NDArray[np.float32]]:
        """A function of view and Q that reads the posteriors of a net, (n, num_classes)."""
        return lambda view, scale: self.files[net][view, scale].read()


ViewFilter = Callable[[TrainedNet, AnyView, int], bool]
"""Whether to compute the posteriors of a net in a view at a scale Q."""


def plan_evaluation(config: EvalConfig, only: ViewFilter | None = None) -> Evaluation:
    """Opens nets and images, and lists the posteriors to have: all for which `only`, if given, is true. Writes nothing.

    ValueError, one line, where nets, images and flags do not fit together.
    """
    nets = open_nets(config)
    store, class_names = open_images(config, nets)
    images = ImageSet.of(store, class_names)
    folder = join(config.storage_path, config.name)
    files: list[dict[tuple[AnyView, int], PosteriorFiles]] = []
    for net in nets:
        # --precision as given: what "auto" becomes depends on the hardware of each worker.
        settings = {
            "precision": config.precision,
            "image_size": net.image_size,
            "mean": list(net.mean),
            "std": list(net.std),
        }
        files.append(
            {
                (view, scale): PosteriorFiles(
                    folder,
                    Manifest(net.name, net.digest, view, scale, images.digest, len(store), net.num_classes, settings),
                )
                for scale in test_scales(config, net)
                for view in config.views
                if only is None or only(net, view, scale)
            }
        )
    return Evaluation(folder, nets, store, images, files)


class Evaluator:
    """Computes parts, in this process or as a Ray actor. Keeps the net of the last part loaded."""

    def __init__(self, config: EvalConfig, store: SampleStore) -> None:
        self.config = config
        self.store = store
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.net: tuple[int, Viewer, WholeImages] | None = None

    def compute(self, task: Task) -> int:
        """Computes and writes a part; returns its number of images. OSError for an image that cannot be decoded."""
        if self.net is None or self.net[0] != task.net:
            self.net = None  # frees its memory before the next net is loaded
            net = open_net(self.config, self.config.nets[task.net])
            if net.digest != task.files.manifest.net_digest:
                raise ValueError(f"{net.name}: its weights changed during the evaluation; start the command again")
            self.net = task.net, *self.prepare(net)
        _, viewer, whole = self.net
        manifest, indices = task.files.manifest, task.files.indices(task.part)
        task.files.write(task.part, view_images(viewer, whole, manifest.view, manifest.scale, indices))
        return len(indices)

    def prepare(self, net: TrainedNet) -> tuple[Viewer, WholeImages]:
        """The net on the device, and a reader of the images with its preprocessing."""
        size, micro_batch = net.image_size, self.config.micro_batch
        precision = resolve_precision(self.config.precision, self.device)
        apply_precision(precision)
        dtype = autocast_dtype(precision, self.device)
        preprocessing = Preprocessing(size, net.mean, net.std, max_pixels=self.config.max_pixels)
        threads = loader_threads(self.config.loader_threads)
        return (
            Viewer(net.model, size, micro_batch, self.device, dtype),
            WholeImages(self.store, preprocessing, threads, self.device, micro_batch * size**2),
        )


def view_images(
    viewer: Viewer, whole: WholeImages, view: str, scale: int, indices: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Posteriors (n, num_classes) of the images at `indices`, at smallest side `scale` (Q)."""
    rows, parts = [], []
    for batch in whole.batches(indices, scale):
        rows.append(batch.rows)
        if isinstance(batch, LargeImage):
            with batch.open() as image:
                parts.append(viewer.posteriors_of_large(view, image).cpu())
        else:
            parts.append(viewer.posteriors(view, batch.images).cpu())
    posteriors = np.empty((len(indices), parts[0].shape[1]), np.float32)
    posteriors[np.concatenate(rows)] = torch.cat(parts).numpy()
    return posteriors


def compute(evaluation: Evaluation, config: EvalConfig) -> None:
    """Computes the missing parts. ValueError or OSError, one line, for what stops it; the parts written so far are kept."""
    tasks = evaluation.tasks()
    total = sum(len(of_net) for of_net in evaluation.files) * len(evaluation.store)
    missing = sum(len(task.files.indices(task.part)) for task in tasks)
    with Progress(total=total, initial=total - missing, desc="evaluating", unit="image", smoothing=0.05) as progress:
        for count in _computed(tasks, evaluation, config):
            progress.update(count)


def _computed(tasks: list[Task], evaluation: Evaluation, config: EvalConfig) -> Iterator[int]:
    if not tasks:
        return iter(())
    if cluster_named() or (config.num_workers or torch.cuda.device_count()) > 1:
        return _on_cluster(tasks, evaluation.store, config)
    return _here(tasks, evaluation.store, config)


def _here(tasks: list[Task], store: SampleStore, config: EvalConfig) -> Iterator[int]:
    evaluator, done = Evaluator(config, store), 0
    indices = np.concatenate([task.files.indices(task.part) for task in tasks])
    with store.fetch_ahead(indices, np.arange(len(indices))) as ahead:
        for task in tasks:
            ahead.reached(done)
            count = evaluator.compute(task)
            done += count
            yield count


def _on_cluster(tasks: list[Task], store: SampleStore, config: EvalConfig) -> Iterator[int]:
    import ray
    from ray.util import ActorPool

    from vgg_dist.ray_cluster.lost_ray import describe_loss, watched_cluster
    from vgg_dist.ray_cluster.nodes import worker_resources
    from vgg_dist.ray_cluster.start import start_ray

    start_ray()
    resources = worker_resources(config.num_workers)[: len(tasks)]
    actor = ray.remote(Evaluator)
    workers = [
        actor.options(
            num_cpus=each["CPU"],
            num_gpus=each.get("GPU", 0),
            max_restarts=3,
            max_task_retries=3,
            scheduling_strategy="SPREAD",
        ).remote(config, store)
        for each in resources
    ]
    try:
        with watched_cluster("vgg_dist.evaluate"):
            yield from ActorPool(workers).map_unordered(lambda worker, task: worker.compute.remote(task), tasks)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError | OSError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise ValueError(describe_loss(error, "a worker", f"--name {config.name}")) from None
