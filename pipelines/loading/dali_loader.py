"""The DALI loader: feeds DALI with a plan's images and the geometry of their crops, and takes batches out of it.

What DALI is given is in `pipelines.loading.dali_inputs`; what it does with that, on a CPU and on a GPU, in
`pipelines.loading.dali_graph`. Reading, decoding and training overlap. An image that cannot be decoded breaks a DALI
pipeline: a new one continues from the same batch, without the image. Measured by `python -m vgg_dist.benchmark loader`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import nvidia.dali.fn as fn
import torch
from nvidia.dali import Pipeline, pipeline_def

from pipelines.loading.dali_graph import Crops, Decoding, DeviceCrops, HostCrops, Prepared
from pipelines.loading.dali_inputs import DaliInputs, no_images
from pipelines.loading.epoch_plan import Samples
from pipelines.loading.loader import Batch, Loader, Preprocessing, prefetch
from pipelines.loading.readers import Readers
from pipelines.stores.sample_store import SampleStore

READ_AHEAD = 2  # batches whose files are being read at a time
IN_FLIGHT = 2  # batches that DALI has been given and has not returned
DEVICE_BATCH = 256  # images that a GPU decodes at a time, at least: the hardware decoder wants many


class DaliLoader(Loader):
    """See the module's docstring. One DALI pipeline lives as long as the loader, whatever the number of epochs.

    `max_batch`: images of a micro-batch at most. `decoding`: how a GPU decodes; with its device "cpu" the GPU's graph runs
    on a CPU. None: the CPU's own way. `dtype`: of the images, on a GPU.
    """

    def __init__(
        self,
        store: SampleStore,
        preprocessing: Preprocessing,
        num_threads: int,
        device: torch.device,
        max_batch: int,
        decoding: Decoding | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(store, preprocessing, num_threads, device)
        self.decoding = decoding
        self.max_batch = max_batch if decoding is None else max(max_batch, DEVICE_BATCH)
        self.crops: Crops = (
            HostCrops(preprocessing, max_batch)
            if decoding is None
            else DeviceCrops(preprocessing, self.side, decoding, dtype)
        )
        self._pipeline: Pipeline | None = None
        self._mid_walk = False  # the pipeline holds batches of a walk that has not come to its end
        self._prepared: Iterator[Prepared] = iter(())  # what `_source` gives DALI next,
        self._again: deque[Prepared] = deque()  # after these, which a broken pipeline had been given already
        self._in_flight: deque[Prepared] = deque()  # what it was given and has not returned
        self._inputs = DaliInputs(self, decoding)

    def batches(self, micro_batches: Iterable[Samples]) -> Iterator[Batch]:
        """One batch for each element of `micro_batches`, in order, prepared ahead in the background."""
        for batch in prefetch(self._batches(iter(micro_batches)), self.device):
            self.side.hand_over(batch.images, batch.labels)
            yield batch

    def _batches(self, plan: Iterator[Samples]) -> Iterator[Batch]:
        with ExitStack() as stack:
            readers = stack.enter_context(Readers(self.num_threads))
            workers = stack.enter_context(ThreadPoolExecutor(self.num_threads))
            self._begin(plan, readers, stack.enter_context(ThreadPoolExecutor(READ_AHEAD)))
            pipeline = self._scheduled()
            while True:
                try:
                    decoded = pipeline.share_outputs()[0]
                except StopIteration:
                    break
                except RuntimeError as error:
                    if "out of memory" in str(error):
                        raise
                    # A corrupt image breaks the whole pipeline. What it was given is known, so a new one goes on where it
                    # stood, without the image.
                    self._pipeline = None
                    first = next(k for k, prepared in enumerate(self._in_flight) if len(prepared.rows))
                    self._in_flight[first] = self._inputs.without_corrupt(self._in_flight[first], error, readers)
                    self._again, self._in_flight = self._in_flight, deque()
                    pipeline = self._scheduled()
                    continue
                yield from self._undecodable()
                batches = self._assemble(self._in_flight.popleft(), decoded, workers)
                del decoded
                pipeline.release_outputs()
                pipeline.schedule_run()
                yield from batches
            yield from self._undecodable()
            pipeline.reset()
            self._mid_walk = False

    def _begin(self, plan: Iterator[Samples], readers: Readers, ahead: ThreadPoolExecutor) -> None:
        """Sets up what `_source` gives DALI: these samples, the files of the next few batches being read meanwhile."""
        if self._mid_walk:
            self._pipeline = None  # the last walk was given up half-way: its batches are still in there
        self._mid_walk = True
        self._again, self._in_flight = deque(), deque()

        def read_ahead() -> Iterator[Prepared]:
            reading: deque[Future[Prepared]] = deque()
            for group in _groups(plan, 0 if self.decoding is None else self.max_batch):
                reading.append(ahead.submit(self._inputs.prepare, group, readers))
                if len(reading) > READ_AHEAD:
                    yield reading.popleft().result()
            while reading:
                yield reading.popleft().result()

        self._prepared = read_ahead()

    def _scheduled(self) -> Pipeline:
        """The pipeline, with its first batches under way."""
        if self._pipeline is None:
            self._pipeline = self._build()
        self._pipeline.schedule_run()
        return self._pipeline

    def _build(self) -> Pipeline:
        layout = self.crops.inputs(no_images())

        @pipeline_def
        def crops() -> Any:
            nodes = fn.external_source(
                source=self._source,
                num_outputs=len(layout),
                batch=True,
                dtype=[dtype for _, dtype, _ in layout.values()],
                ndim=[ndim for _, _, ndim in layout.values()],
            )
            return self.crops.graph(dict(zip(layout, nodes, strict=True)))

        pipeline = crops(
            batch_size=self.max_batch,
            num_threads=self.num_threads,
            device_id=None if self.decoding is None or self.decoding.device == "cpu" else self.device.index or 0,
            prefetch_queue_depth=IN_FLIGHT,
        )
        pipeline.build()
        return pipeline

    def _source(self) -> tuple[Any, ...]:
        """DALI's next inputs; StopIteration at the end of the plan."""
        while True:
            prepared = self._again.popleft() if self._again else next(self._prepared)
            self._in_flight.append(prepared)
            if len(prepared.rows):  # DALI takes no empty batch
                return tuple(values for values, _, _ in self.crops.inputs(prepared).values())

    def _undecodable(self) -> Iterator[Batch]:
        """The batches next in order of which not one image can be decoded."""
        while self._in_flight and not len(self._in_flight[0].rows):
            prepared = self._in_flight.popleft()
            with self.side.stream():
                labels = self.labels(prepared.samples, np.zeros(len(prepared.samples), np.bool_))
                images = self.crops.blank(len(prepared.samples))
            self.side.synchronize()
            yield from _cut(images, labels, prepared.counts)

    def _assemble(self, prepared: Prepared, decoded: Any, workers: ThreadPoolExecutor) -> Iterator[Batch]:
        good = np.zeros(len(prepared.samples), np.bool_)
        good[prepared.rows] = True
        with self.side.stream():
            labels = self.labels(prepared.samples, good)
        return _cut(self.crops.finish(prepared, decoded, workers), labels, prepared.counts)


def _groups(plan: Iterator[Samples], size: int) -> Iterator[list[Samples]]:
    """Micro-batches in a row, of `size` images together at most, but at least one."""
    group: list[Samples] = []
    for samples in plan:
        if group and sum(map(len, group)) + len(samples) > size:
            yield group
            group = []
        group.append(samples)
    if group:
        yield group


def _cut(images: torch.Tensor, labels: torch.Tensor, counts: list[int]) -> Iterator[Batch]:
    """The micro-batches of a batch."""
    return (Batch(*parts) for parts in zip(images.split(counts), labels.split(counts), strict=True))
