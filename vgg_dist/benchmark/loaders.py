"""The loaders under comparison that need no other packages, each set up as in its own documentation.

They are `ours`; the stock DALI pipeline (NVIDIA's examples: decode, resize, crop-mirror-normalise); torchvision's DataLoader
(its reference scripts' transforms on PIL images); and decoding alone, a lower bound for ours. The loaders of other packages,
and torchvision v2, are in `vgg_dist.benchmark.peers`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipelines.loading.dali_graph import CropGraph, Decoding, GraphInputs, WindowGraph
from pipelines.loading.dali_inputs import DaliInputs, empty_batch
from pipelines.loading.decoder_choice import choose_decoding
from pipelines.loading.open import open_loader
from pipelines.loading.readers import Readers
from pipelines.loading.reference_loader import ReferenceLoader
from vgg_dist.benchmark.peers.torchvision_v2 import set_up as set_up_torchvision_v2
from vgg_dist.benchmark.transforms import PilTransform
from vgg_dist.benchmark.work import Epoch, Work


def ours(work: Work) -> Epoch:
    """`pipelines.loading.open.open_loader`."""
    settings = {"num_threads": work.threads, "max_batch": work.batch, "device": work.device}
    loader = open_loader(work.store, work.preprocessing, **settings)  # type: ignore[arg-type]
    return lambda: (batch.images for batch in loader.batches(work.micro_batches()))


def stock_dali(work: Work) -> Epoch:
    """DALI as in NVIDIA's ImageNet examples: decoders.image, resize, crop_mirror_normalize, DALIGenericIterator."""
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    pipeline, outputs = _stock_pipeline(work), ["images", "labels"]
    iterator = DALIGenericIterator(pipeline, outputs, last_batch_policy=LastBatchPolicy.PARTIAL, prepare_first_batch=False)
    started = False

    def epoch() -> Iterator[Tensor]:
        nonlocal started
        if started:
            iterator.reset()  # not at the end of the last epoch, because a reset starts the next one at once
        started = True
        for (batch,) in iterator:
            yield batch["images"]

    return epoch


def _stock_pipeline(work: Work) -> Any:
    from nvidia.dali import fn, pipeline_def, types

    on_cpu, size = work.device.type == "cpu", work.preprocessing.image_size
    # As a fraction of the range of possible corners, because DALI rounds the longer side and torchvision truncates it.
    position = (work.corner / np.maximum(work.resized - size, 1)).astype(np.float32)
    down, right = position.T.copy()

    def batches() -> Iterator[tuple[Any, ...]]:
        for part in work.parts():
            scale, mirror = work.samples.scale[part].astype(np.float32), work.samples.flip[part].astype(np.int32)
            yield work.encoded(part), scale, down[part], right[part], mirror, work.means(part), work.labels(part)

    @pipeline_def
    def chain() -> Any:
        encoded, scale, y, x, mirror, mean, labels = fn.external_source(
            source=batches,  # type: ignore[arg-type]  # DALI's type stubs lack generator functions
            num_outputs=7,
            batch=True,
            cycle="raise",
            dtype=[types.UINT8, types.FLOAT, types.FLOAT, types.FLOAT, types.INT32, types.FLOAT, types.INT64],
            ndim=[1, 0, 0, 0, 0, 1, 0],
        )
        images = fn.decoders.image(encoded, adjust_orientation=False, device="cpu" if on_cpu else "mixed")
        images = fn.resize(images, resize_shorter=scale, interp_type=types.INTERP_TRIANGULAR)
        crop = {"crop": (size, size), "crop_pos_x": x, "crop_pos_y": y, "mirror": mirror}
        std = list(work.preprocessing.std)
        return fn.crop_mirror_normalize(images, **crop, mean=mean, std=std, dtype=types.FLOAT, output_layout="CHW"), labels

    device_id = None if on_cpu else work.device.index or 0
    return chain(batch_size=work.batch, num_threads=work.threads, device_id=device_id)


class PilDataset(Dataset[tuple[Tensor, int]]):
    """The work of a DataLoader's worker process for one image: PIL's decoder and transforms on PIL images."""

    def __init__(self, work: Work) -> None:
        self.store, self.index, self.transform = work.store, work.samples.index, PilTransform(work)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        index = int(self.index[position])
        image = Image.open(io.BytesIO(self.store.read(index))).convert("RGB")
        return self.transform(position, image), int(self.store.labels[index])


def torchvision_dataloader(work: Work) -> Epoch:
    """torch's DataLoader, with as many worker processes as the other loaders have threads."""
    loader = DataLoader(
        PilDataset(work),
        work.batch,
        num_workers=work.threads,
        persistent_workers=True,
        pin_memory=work.device.type == "cuda",
        multiprocessing_context="spawn",  # this process has threads (of DALI and CUDA), which do not survive a fork
    )
    return lambda: (images.to(work.device, non_blocking=True) for images, _ in loader)


def torchvision_v2(work: Work) -> Epoch:
    """torchvision's decoder and transforms.v2 on tensors, in the same DataLoader."""
    epoch = set_up_torchvision_v2(work)
    return lambda: (images for _, images in epoch())


def decoding_alone(work: Work) -> Epoch:
    """The lower bound: DALI only decodes what our loader lets it decode on the work's device, and the loader's reads."""
    on_cpu = work.device.type == "cpu"
    cut_outs = bool(work.store.can_cut_out(work.samples.index).any())
    chosen = None if on_cpu else choose_decoding(work.device, work.threads, cut_outs=cut_outs)
    decoding = chosen or Decoding("cpu", regions=True, cut_outs=True)
    loader = ReferenceLoader(work.store, work.preprocessing, work.threads, work.device)
    inputs = DaliInputs(loader, decoding.regions, decoding.cut_outs)
    names = ("encoded", "start", "shape")[: 3 if decoding.regions else 1]
    graph = WindowGraph(work.preprocessing) if on_cpu else CropGraph(work.preprocessing, decoding)

    def batches() -> Iterator[tuple[Any, ...]]:
        with Readers(work.threads) as readers:
            for samples in work.micro_batches():
                given = graph.inputs(inputs.prepare([samples], readers))
                yield tuple(given[name][0] for name in names)

    inputs_of_none = graph.inputs(empty_batch())
    types = {name: inputs_of_none[name] for name in names}
    device_id = None if on_cpu else work.device.index or 0
    pipeline = decoding_pipeline(decoding, types, batches, work.batch, work.threads, device_id)

    def epoch() -> Iterator[Tensor]:
        for _ in work.parts():
            pipeline.run()
        pipeline.reset()
        yield from ()

    return epoch


def decoding_pipeline(
    decoding: Decoding,
    types: GraphInputs,
    batches: Callable[[], Iterator[tuple[Any, ...]]],
    batch: int,
    threads: int,
    device_id: int | None,
) -> Any:
    """A DALI pipeline that only decodes. `reset()` starts it again after the last batch.

    `types`: the decoder's inputs, for a batch without images. `batches`: a generator function that yields their values.
    """
    from nvidia.dali import fn, pipeline_def

    source: Any = batches  # DALI's type stubs lack generator functions

    @pipeline_def
    def decode() -> Any:
        return decoding.decode(
            *fn.external_source(
                source=source,
                num_outputs=len(types),
                batch=True,
                cycle="raise",
                dtype=[kind for _, kind, _ in types.values()],
                ndim=[dimensions for _, _, dimensions in types.values()],
            )
        )

    pipeline = decode(batch_size=batch, num_threads=threads, device_id=device_id)
    pipeline.build()
    return pipeline
