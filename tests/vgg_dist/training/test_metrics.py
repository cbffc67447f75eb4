"""The sums of loss and errors against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipelines.loading.loader import IGNORED_LABEL, Batch
from vgg_dist.metric_names import without_trivial_top5
from vgg_dist.training.metrics import MetricSums
from vgg_dist.training.objective import CrossEntropy


@pytest.mark.parametrize("classes", [3, 5, 1000])
def test_errors_and_loss_against_numpy(classes: int) -> None:
    rng = np.random.default_rng(classes)
    objective, all_logits, all_labels = CrossEntropy(), [], []
    sums = MetricSums(objective, torch.device("cpu"))
    for size in (7, 1, 64):
        logits, labels = rng.normal(size=(size, classes)).astype(np.float32), rng.integers(0, classes, size)
        labels[rng.random(size) < 0.2] = IGNORED_LABEL
        outputs, batch = torch.from_numpy(logits), Batch(torch.empty(size, 0), torch.from_numpy(labels))
        sums.add(outputs, batch, objective.loss_sum(outputs, batch))
        all_logits.append(logits[labels >= 0])
        all_labels.append(labels[labels >= 0])
    logits, labels = np.concatenate(all_logits), np.concatenate(all_labels)
    ranks = (logits > np.take_along_axis(logits, labels[:, None], 1)).sum(1)
    losses = np.log(np.exp(logits.astype(np.float64)).sum(1)) - logits[np.arange(len(labels)), labels]
    result = sums.means()
    assert sums.sums[-1].item() == len(labels)
    assert result["top1_error"] == pytest.approx(100 * (ranks >= 1).mean())
    assert result["top5_error"] == pytest.approx(100 * (ranks >= 5).mean())
    assert result["loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_the_top5_error_is_kept_from_six_classes_on() -> None:
    metrics = {"val/loss": 1.0, "val/top1_error": 50.0, "val/top5_error": 0.0, "epoch/train_top5_error": 0.0, "lr": 0.1}
    assert without_trivial_top5(metrics, 6) == metrics
    assert (
        without_trivial_top5(metrics, 5)
        == without_trivial_top5(metrics, 2)
        == {"val/loss": 1.0, "val/top1_error": 50.0, "lr": 0.1}
    )


def test_no_images_is_not_a_number() -> None:
    assert all(math.isnan(value) for value in MetricSums(CrossEntropy(), torch.device("cpu")).means().values())
