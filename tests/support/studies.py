"""Results of studies, made up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vgg_dist.reporting.studies import Results, StudiedNet, Training
from vgg_dist.reporting.studies.results import Kind

IMAGES = 2000


def studied_net(
    name: str,
    errors: Sequence[float],
    kind: Kind = "vgg",
    twin: str | None = None,
    rate: float | None = 100.0,
    parameters: int = 30_000_000,
    tops: Sequence[int] = (1, 5),
) -> StudiedNet:
    """A net with these top-1 errors, percent, one for each seed; the images that it gets wrong are the first ones."""
    trainings = tuple(
        Training(
            f"{name}-seed{seed}", seed, {k: np.arange(IMAGES) < round(error * IMAGES / 100 / k) for k in tops}, 2.0, rate
        )
        for seed, error in enumerate(errors)
    )
    kind = "batch norm" if "-bn" in name else kind
    return StudiedNet(name, kind, twin, 64, "73", parameters, 50 * parameters, trainings)


def results(nets: Sequence[StudiedNet], missing: Sequence[tuple[str, str]] = (), num_classes: int = 10) -> Results:
    return Results(
        tuple(nets), tuple(missing), IMAGES, num_classes, "dense", (("--data", "/data/" + "x" * 100), ("--epochs", "2"))
    )
