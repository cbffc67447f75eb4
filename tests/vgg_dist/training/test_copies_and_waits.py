"""What a GPU training copies and waits for: every copy between host and device, every wait, by name.

Torch's meta device stands for the GPU: it computes nothing, but every operation is dispatched as on a GPU, and is seen. What
the loader and the training do there is what they do on a GPU; only the decoder's own output comes from the CPU.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.loaders import MEAN, Images, corrupted, encode, photo
from support.trainings import SMALL
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from pipelines.loading.dali_graph import Decoding
from pipelines.loading.dali_loader import DaliLoader
from pipelines.loading.epoch_plan import Augmentation, EpochPlan, Samples
from pipelines.loading.loader import Batch, Loader
from pipelines.loading.preprocessing import Preprocessing
from vgg_dist.config import TrainConfig
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.state import build_state
from vgg_dist.training.trainer import Trainer

GPU = torch.device("meta")
READ, COPY, UPLOAD, LITERAL = "value read: waits", "copy to the device: waits", "copy from pinned memory", "literal"


class Recorder(TorchDispatchMode):
    """Notes what passes between host and device. `answers`: what the host reads, one after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: Iterable[list[float]] = ()) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.answers = iter(answers)
        self.pinned: set[int] = set()
        tensor = torch.tensor

        def noted_tensor(*values: Any, **options: Any) -> Tensor:
            if torch.device(options.get("device") or "cpu") == GPU:
                self.seen.append(LITERAL)  # on a GPU: made on the host, copied
            return tensor(*values, **options)

        def pin(host: Tensor) -> Tensor:  # without a GPU there is no pinned memory
            self.pinned.add(host.data_ptr())
            return host

        monkeypatch.setattr(torch, "tensor", noted_tensor)
        monkeypatch.setattr(Tensor, "pin_memory", pin)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        places = {value.device for value in given}
        if func is torch.ops.aten._local_scalar_dense.default and GPU in places:
            self.seen.append(READ)
            return next(self.answers)[0]
        if func is torch.ops.aten._to_copy.default and kwargs.get("device", args[0].device) != args[0].device:
            if args[0].device == GPU:
                self.seen.append(READ)
                return torch.tensor(next(self.answers), dtype=args[0].dtype).reshape(args[0].shape)
            self.seen.append(self._upload(args[0], bool(kwargs.get("non_blocking"))))
        elif len(places) > 1 and any(value.dim() for value in given if value.device != GPU):  # a host scalar is an argument
            self.seen.append(f"{func}: {COPY}")
        return func(*args, **kwargs)

    def _upload(self, host: Tensor, non_blocking: bool) -> str:
        return UPLOAD if non_blocking and host.data_ptr() in self.pinned else COPY


def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader works in the caller's thread, where the recorder sees it."""
    monkeypatch.setattr("pipelines.loading.dali_loader.prefetch", lambda iterator, device: iterator)


def run_loader(monkeypatch: pytest.MonkeyPatch, store: Images, channels: int = 3) -> list[list[str]]:
    """What each of four batches brings with it."""
    inline(monkeypatch)
    preprocessing = Preprocessing(64, MEAN[:channels], (1.0,) * channels)
    loader = DaliLoader(store, preprocessing, 1, GPU, 5, Decoding("cpu"), torch.bfloat16)
    loader.max_batch = 5  # not several micro-batches at once
    samples = EpochPlan(20, 0, 0, Augmentation((64, 80))).samples
    each = []
    with Recorder(monkeypatch) as recorder:
        for batch in loader.batches(samples[k : k + 5] for k in range(0, 20, 5)):
            assert (batch.images.device, batch.images.dtype) == (GPU, torch.bfloat16)
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            each.append(recorder.seen)
            recorder.seen = []
    return each


@pytest.mark.parametrize("channels", [3, 1])
def test_the_loader_copies_labels_shifts_and_nothing_else(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    """And never waits; COPY is the decoder's output, which on a GPU is there already."""
    store = Images([encode(photo(90, 100, seed)) for seed in range(20)])
    first, *others = run_loader(monkeypatch, store, channels)
    assert Counter(first) == {UPLOAD: 2, COPY: 1, LITERAL: 3}  # the first: mean, std and luma
    assert [Counter(seen) for seen in others] == [{UPLOAD: 2, COPY: 1}] * 3


def test_batches_with_undecodable_images_copy_which_those_are(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = corrupted()
    for seen in run_loader(monkeypatch, store):
        counts = Counter(seen)
        assert counts[UPLOAD] in (2, 3)
        assert counts[COPY] == 1
        assert not counts[READ]


class Resident(Loader):
    """Batches that are on the device already."""

    def batches(self, micro_batches: Iterable[Samples]) -> Iterator[Batch]:
        for samples in micro_batches:
            images = torch.empty(len(samples), 3, 32, 32, device=GPU).contiguous(memory_format=torch.channels_last)
            yield Batch(images, torch.empty(len(samples), dtype=torch.int64, device=GPU))


def run_training(monkeypatch: pytest.MonkeyPatch, config: TrainConfig) -> list[tuple[int, str]]:
    """(step, what was seen), for a training without its validation."""
    store = Images([b""] * 64)
    preprocessing = Preprocessing(32, MEAN, (1.0, 1.0, 1.0))
    loader = Resident(store, preprocessing, 1, GPU)
    log = (
        [0.0] * 4,
        [1.0, 0.0, 0.0, 16.0, 16.0, 1.0, 0.1, 0.0, 0.0, 1.0, 0.0, np.inf],
    )  # the drain; sums, counters, no bad step
    validation = "vgg_dist.training.trainer.validate"
    monkeypatch.setattr(validation, lambda *_, **__: {"loss": 1.0, "top1_error": 1.0, "top5_error": 1.0})
    seen = []
    with Recorder(monkeypatch, [*log * 100]) as recorder:
        state = build_state(config, 10, GPU)
        trainer = Trainer(config, state, loader, loader, Worker(device=GPU), lambda metrics, save: None)
        step = trainer._train_step

        def noted(*arguments: Any) -> None:
            seen.extend((state.step, what) for what in recorder.seen)
            recorder.seen = []
            step(*arguments)
            seen.extend((-1, what) for what in recorder.seen)  # within a step
            recorder.seen = []

        monkeypatch.setattr(trainer, "_train_step", noted)
        trainer.run()
    return seen


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_step_copies_the_keys_of_dropout_only_and_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch, batch_norm: bool
) -> None:
    """With accumulation, dropout, momentum and metrics; what logging costs is seen between two steps."""
    settings = {"head": "fc", "global_batch": 16, "micro_batch": 8, "log_every": "2", "max_steps": 4, "epochs": 1}
    config = dataclasses.replace(SMALL, batch_norm=batch_norm, **settings)
    seen = run_training(monkeypatch, config)
    assert [what for step, what in seen if step == -1] == [UPLOAD] * 2 * 4  # once for each micro-batch
    assert [what for step, what in seen if step == 2] == [READ, LITERAL, READ]  # drain, counters, all figures at once
    assert [what for step, what in seen if step in (1, 3)] == []
