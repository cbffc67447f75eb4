"""The verdict that a training on a GPU prints once."""

from __future__ import annotations

import pytest

from vgg_dist.monitor import describe_limit


@pytest.mark.parametrize(
    ("loader", "step", "expected"),
    [
        (8000.4, 3599.6, "loader 8000 images/s, step 3600 images/s: the step limits"),
        (2100.0, 3600.0, "loader 2100 images/s, step 3600 images/s: the loader limits: more CPUs a worker, shards, or"),
    ],
)
def test_the_slower_of_loader_and_step_limits(loader: float, step: float, expected: str) -> None:
    line = describe_limit({"loader_images_per_second": loader, "step_images_per_second": step})
    assert line.startswith(expected)
    assert "\n" not in line
