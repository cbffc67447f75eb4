"""The library's own functions: which networks there are, and the error of a trained net on a set of images.

    import vgg_dist
    net = vgg_dist.load_net("runs/first")
    print(vgg_dist.evaluate_net(net).top1_error)

`python -m vgg_dist.evaluate` does more: several nets, views and scales, the paper's tables, many workers. The functions here
run in the calling process and write nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from vgg_dist.config import EvalConfig
from vgg_dist.models.specs import MODELS

if TYPE_CHECKING:  # torch and NumPy take seconds to import, and list_models does not need them
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from pipelines.stores.sample_store import SampleStore
    from vgg_dist.models.precision import Precision
    from vgg_dist.weights.net import TrainedNet

View = Literal["center", "dense", "crops"]


def list_models() -> list[str]:
    """The names that `build_model` takes: the paper's configurations A to E, its control net, and the earlier nets."""
    return list(MODELS)


@dataclass(frozen=True)
class EvaluationResult:
    """The errors of a net on n images, and what they were computed from."""

    top1_error: float
    """Share of the images whose class is not the most probable one, in percent."""
    top5_error: float | None
    """Share of the images whose class is not among the five most probable, in percent. None for nets of five classes or
    fewer, where it would always be 0."""
    posteriors: NDArray[np.float32]
    """(n, num_classes), each row a probability distribution over the net's classes."""
    labels: NDArray[np.int64]
    """(n,), indices into the net's classes."""


def evaluate_net(
    net: TrainedNet,
    data: str | SampleStore | None = None,
    *,
    view: View = "center",
    scale: int | None = None,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto",
    num_threads: int | None = None,
) -> EvaluationResult:
    """Top-1 and top-5 error of a net on labelled images (paper, section 3.2), computed in this process.

    `net`: what `load_net` returns; its model is moved to `device`, by default the first GPU or else the CPU.
    `data`: a location as for `--data`, of which the validation images are taken (default: the data that the net was trained
    on), or an open store whose labels are indices into the net's classes. `view`: the central crop, the whole image through
    the fully-convolutional net and its mirror image (dense), or 5 x 5 crops and their mirror images. `scale`: the smallest
    side Q of the rescaled images in pixels; default: the net's training scale S (of a range, its middle), or 256/224 of its
    input size where that is not known. `batch_size`: crops, or as many pixels of whole images, at once. `precision`: as
    `--precision`; auto is bf16 where the hardware multiplies bf16 matrices, else fp32. `num_threads`: image decoders; by
    default the CPUs of this process.

    ValueError for data, a view, a scale or a batch size that cannot be used, and for images without labels; OSError, with
    the image's name, for one that cannot be decoded.
    """
    import numpy as np
    import torch

    from pipelines.loading.open import loader_threads
    from pipelines.loading.preprocessing import Preprocessing
    from pipelines.loading.whole_images import WholeImages
    from vgg_dist.evaluation.compute import view_images
    from vgg_dist.evaluation.open import default_scale
    from vgg_dist.evaluation.views import Viewer
    from vgg_dist.models.precision import autocast_dtype, resolve_precision
    from vgg_dist.reporting.paper_tables.errors import top_k_errors

    size = net.image_size
    scale = default_scale(net) if scale is None else scale
    if view not in get_args(View):
        raise ValueError(f"view {view!r} is unknown; allowed: {', '.join(get_args(View))}")
    if scale < size:
        raise ValueError(f"scale {scale} is too small; allowed: {size}, the input size of {net.name}, or more")
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is too small; allowed: 1 or more")
    store = _open_labelled(net, data)
    where = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    viewer = Viewer(net.model, size, batch_size, where, autocast_dtype(precision, where))
    images = WholeImages(
        store, Preprocessing(size, net.mean, net.std), loader_threads(num_threads), where, batch_size * size**2
    )
    with _applied(resolve_precision(precision, where)):
        posteriors = view_images(viewer, images, view, scale, np.arange(len(store)))
    top1, top5 = top_k_errors(posteriors, store.labels)
    return EvaluationResult(top1, top5 if net.num_classes > 5 else None, posteriors, store.labels)


@contextmanager
def _applied(precision: Precision) -> Iterator[None]:
    """Torch's TF32 switches as this precision has them; afterwards as the calling program had them."""
    from torch.backends import cuda, cudnn

    from vgg_dist.models.precision import apply_precision

    before = cudnn.allow_tf32, cuda.matmul.allow_tf32
    apply_precision(precision)
    try:
        yield
    finally:
        cudnn.allow_tf32, cuda.matmul.allow_tf32 = before


def _open_labelled(net: TrainedNet, data: str | SampleStore | None) -> SampleStore:
    """The images, labels being indices into the net's classes. ValueError where they are not."""
    if data is None or isinstance(data, str):
        from vgg_dist.evaluation.open import open_images

        store, _ = open_images(EvalConfig(nets=(net.name,), data=data), [net])
    else:
        store = data
    if len(store) == 0:
        raise ValueError("data: there are no images")
    low, high = int(store.labels.min()), int(store.labels.max())
    if low < 0 or high >= net.num_classes:
        raise ValueError(f"data: labels from {low} to {high}; {net.name} has classes 0 to {net.num_classes - 1}")
    return store
