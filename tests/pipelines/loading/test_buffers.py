"""Reused memory of batches: never shared by two live batches, and used again after a batch is gone."""

from __future__ import annotations

import gc

import pytest
import torch
from support.loaders import CPU, DALI, MEAN, Images, encode, make, photo
from torch import Tensor

from pipelines.loading.buffers import BatchBuffers
from pipelines.loading.epoch_plan import Augmentation, EpochPlan
from pipelines.loading.preprocessing import Preprocessing


def memory(tensor: Tensor) -> range:
    """The addresses of the tensor's storage."""
    storage = tensor.untyped_storage()
    return range(storage.data_ptr(), storage.data_ptr() + storage.nbytes())


def overlap(one: Tensor, other: Tensor) -> bool:
    first, second = memory(one), memory(other)
    return first.start < second.stop and second.start < first.stop


def test_tensors_held_at_once_share_no_memory() -> None:
    buffers = BatchBuffers((4, 8, 8, 3))
    held = [buffers.take(count) for count in (4, 1, 3, 4)]
    assert [tuple(tensor.shape) for tensor in held] == [(4, 8, 8, 3), (1, 8, 8, 3), (3, 8, 8, 3), (4, 8, 8, 3)]
    assert not any(overlap(one, other) for k, one in enumerate(held) for other in held[:k])


def test_memory_is_used_again_after_the_last_view_is_gone() -> None:
    buffers = BatchBuffers((4, 8, 8, 3))
    tensor = buffers.take(4)
    first, address = tensor.permute(0, 3, 1, 2)[2:], tensor.data_ptr()
    as_numpy = tensor.numpy()[1:, 0]
    del tensor
    assert buffers.take(4).data_ptr() != address
    del first
    gc.collect()
    assert buffers.take(4).data_ptr() != address  # the NumPy view still holds it
    del as_numpy
    assert address in [tensor.data_ptr() for tensor in (buffers.take(2), buffers.take(2))]


def test_a_tensor_outlives_the_buffers() -> None:
    buffers = BatchBuffers((2, 8, 8, 3))
    tensor = buffers.take(2).fill_(7.0)
    del buffers
    gc.collect()
    assert (tensor == 7.0).all()


@pytest.mark.parametrize("pad", [0, 4])
def test_batches_of_a_loader_that_are_held_keep_their_pixels(pad: int) -> None:
    store = Images([encode(photo(40, 40, seed)) for seed in range(24)])
    loader = make(DALI, store, Preprocessing(32, MEAN, (1.0, 1.0, 1.0), pad=pad), CPU)
    samples = EpochPlan(24, 0, 0, Augmentation((36, 40))).samples
    plan = [samples[k : k + 4] for k in range(0, 24, 4)]
    held, copies = [], []
    for batch in loader.batches(plan):
        held.append(batch.images)
        copies.append(batch.images.clone())
    assert all(torch.equal(images, copy) for images, copy in zip(held, copies, strict=True))
    assert not any(overlap(one, other) for k, one in enumerate(held) for other in held[:k])


def test_a_loader_whose_batches_are_dropped_needs_few_buffers() -> None:
    store = Images([encode(photo(40, 40, seed)) for seed in range(40)])
    loader = make(DALI, store, Preprocessing(32, MEAN, (1.0, 1.0, 1.0)), CPU)
    samples = EpochPlan(40, 0, 0, Augmentation((36, 40))).samples
    addresses = [batch.images.data_ptr() for batch in loader.batches([samples[k : k + 4] for k in range(0, 40, 4)])]
    assert len(addresses) == 10
    assert len(set(addresses)) <= 4
