"""What dense evaluation takes from a small net, for docs/reproduction.md: python docs/padding.py RUN... [--data DATA]

For each run, at Q = S (the middle of its range), on every fifth validation image, the top-1 error in percent of

- the centre crop;
- the same crop with the mean colour all around it, in a canvas of 3 x 3 crops, scored by the dense form at the crop's own
  position: the input is the same, only the zero padding of the inner layers is gone;
- the top-left crop, which is what the first position of the dense form covers;
- the dense form on the whole image, its scores averaged over space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import tyro
from torch import Tensor

from pipelines.loading.crop_geometry import center_corner
from pipelines.loading.whole_images import SizedBatch
from vgg_dist.config import EvalConfig
from vgg_dist.evaluation.compute import Evaluator, plan_evaluation
from vgg_dist.evaluation.open import open_net
from vgg_dist.evaluation.views import Viewer
from vgg_dist.paper import single_scale

EVERY = 5
HEADINGS = "run", "Q", "images", "centre crop", "centre crop in a canvas", "top-left crop", "dense"


def ways(viewer: Viewer) -> list[Callable[[Tensor], Tensor]]:
    """The four ways, each from images (n, C, Q, Q) to scores (n, num_classes)."""
    size = viewer.image_size

    def center(images: Tensor) -> Tensor:
        top, left = center_corner(np.array([images.shape[2:]]), size)[0].tolist()
        return images[:, :, top : top + size, left : left + size]

    def in_canvas(images: Tensor) -> Tensor:
        canvas = images.new_zeros(*images.shape[:2], 3 * size, 3 * size)  # images are normalised: 0 is the mean colour
        canvas[:, :, size : 2 * size, size : 2 * size] = center(images)
        return viewer.dense(canvas)[:, :, 1, 1]

    return [
        lambda images: viewer.model(center(images)),
        in_canvas,
        lambda images: viewer.model(images[:, :, :size, :size]),
        lambda images: viewer.dense(images).mean(dim=(2, 3)),
    ]


def row(config: EvalConfig, run: str) -> list[str]:
    """A run's errors."""
    config = replace(config, nets=(run,), precision="fp32")
    evaluation = plan_evaluation(config)
    net = open_net(config, run)
    viewer, whole = Evaluator(config, evaluation.store).prepare(net)
    if net.train_scale is None:
        raise ValueError(f"net {run}: its weights do not record S; give it as --train-scale")
    Q = single_scale(net.train_scale)
    indices = np.arange(0, len(evaluation.labels), EVERY)
    wrong = np.zeros(4)
    with torch.inference_mode():
        for batch in whole.batches(indices, Q):
            assert isinstance(batch, SizedBatch), "an image with millions of pixels"
            labels = torch.from_numpy(evaluation.labels[indices[batch.rows]])
            wrong += [int((way(batch.images).argmax(1).cpu() != labels).sum()) for way in ways(viewer)]
    return [net.name, str(Q), str(len(indices)), *(f"{100 * count / len(indices):.1f}" for count in wrong)]


if __name__ == "__main__":
    given = tyro.cli(EvalConfig, description="Top-1 errors with and without the padding that a net was trained with.")
    try:
        settings = given.resolved()
        print("\t".join(HEADINGS))
        for run in settings.nets:
            print("\t".join(row(settings, run)), flush=True)
    except (ValueError, OSError) as error:
        raise SystemExit(f"docs/padding.py: {error}") from None
