"""The crops on the page of augmentations are those that the training uses."""

from __future__ import annotations

import numpy as np

from pipelines.stores.open import open_store
from vgg_dist.config import ScaleRange, TrainConfig
from vgg_dist.training.data import EpochPlans
from vgg_dist.visualization.augmentations import _of_epoch

DATA = "synthetic:train=60,val=10,size=48"


def test_what_an_epoch_draws_is_what_the_training_uses() -> None:
    flags = TrainConfig(data=DATA, image_size=32, train_scale=ScaleRange(36, 60), seed=5, epochs=4, num_workers=1)
    config = flags.resolved().with_micro_batch(8)
    store = open_store(DATA, "train")
    indices = np.array([3, 17, 59])
    plans = EpochPlans(config, store)
    for epoch in range(3):
        shown = _of_epoch(config, store, epoch, indices)
        assert shown.index.tolist() == indices.tolist()
        used = plans.plan(epoch).samples
        for number, index in enumerate(indices.tolist()):
            row = used.index.tolist().index(index)
            assert shown.scale[number] == used.scale[row]
            assert shown.position[number].tolist() == used.position[row].tolist()
            assert shown.flip[number] == used.flip[row]
            assert shown.shift[number].tolist() == used.shift[row].tolist()
