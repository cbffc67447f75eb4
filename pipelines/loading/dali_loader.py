"""The DALI loader: feeds a DALI pipeline with the images of a plan, and takes batches out of it.

`dali_inputs` prepares what DALI is given, `dali_graph` is what DALI computes, `dali_outputs` makes normalised images of it.
Reading, decoding and training overlap. An image that cannot be decoded breaks a DALI pipeline; a new pipeline then resumes
at the same batch, without that image. `python -m vgg_dist.benchmark loader` measures the loader.
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

from pipelines.loading.dali_graph import CropGraph, Decoding, Graph, WindowGraph
from pipelines.loading.dali_inputs import DaliInputs, PreparedBatch, empty_batch
from pipelines.loading.dali_outputs import CropOutputs, Outputs, WindowOutputs
from pipelines.loading.epoch_plan import Samples
from pipelines.loading.loader import Batch, Loader
from pipelines.loading.prefetch import prefetch
from pipelines.loading.preprocessing import Preprocessing
from pipelines.loading.readers import Readers
from pipelines.stores.sample_store import SampleStore

READ_AHEAD = 2  # batches whose files are read at the same time
IN_FLIGHT = 2  # batches that DALI has received and not yet returned
MIN_DEVICE_BATCH = 256  # images that a GPU decodes together: the hardware decoder is slow with few


class DaliLoader(Loader):
    """See the module's docstring. The DALI pipeline lives as long as the loader, over all epochs.

    `max_batch`: the largest micro-batch, in images. `decoding`: how a GPU decodes; if its device is "cpu", the GPU's graph
    runs on a CPU. None: the CPU's graph. `dtype`: of the images, on a GPU.
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
        self.max_batch = max_batch if decoding is None else max(max_batch, MIN_DEVICE_BATCH)
        self.graph: Graph
        self.outputs: Outputs
        if decoding is None:
            self.graph, self.outputs = WindowGraph(preprocessing), WindowOutputs(preprocessing, max_batch)
        else:
            self.graph, self.outputs = CropGraph(preprocessing, decoding), CropOutputs(preprocessing, self.stream, dtype)
        self._inputs = DaliInputs(self, decoding is None or decoding.regions, decoding is None or decoding.cut_outs)
        self._pipeline: Pipeline | None = None
        self._holds_batches = False  # of a plan that was not read to its end
        self._prepared: Iterator[PreparedBatch] = iter(())  # what `_source` gives DALI,
        self._resubmitted: deque[PreparedBatch] = deque()  # after these, which a broken pipeline did not return
        self._in_flight: deque[PreparedBatch] = deque()  # what DALI has received and not yet returned

    def batches(self, micro_batches: Iterable[Samples]) -> Iterator[Batch]:
        """One batch for each element of `micro_batches`, in order, prepared ahead in the background."""
        for batch in prefetch(self._batches(iter(micro_batches)), self.device):
            self.stream.hand_over(batch.images, batch.labels)
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
                    pipeline = self._recovered(error, readers)
                    continue
                yield from self._undecodable()
                batches = self._assemble(self._in_flight.popleft(), decoded, workers)
                del decoded
                pipeline.release_outputs()
                pipeline.schedule_run()
                yield from batches
            yield from self._undecodable()
            pipeline.reset()
            self._holds_batches = False

    def _begin(self, plan: Iterator[Samples], readers: Readers, ahead: ThreadPoolExecutor) -> None:
        """Makes `_source` give DALI these samples, while the files of the next batches are read in the background."""
        if self._holds_batches:
            self._pipeline = None  # the last plan was abandoned half-way, and its batches are still in the pipeline
        self._holds_batches = True
        self._resubmitted, self._in_flight = deque(), deque()

        def read_ahead() -> Iterator[PreparedBatch]:
            reading: deque[Future[PreparedBatch]] = deque()
            most = 0  # at first: DALI should start early, and while it decodes there is time to read ahead
            for group in _groups(plan, 0 if self.decoding is None else self.max_batch):
                reading.append(ahead.submit(self._inputs.prepare, group, readers))
                if len(reading) > most:
                    yield reading.popleft().result()
                    most = min(most + 1, READ_AHEAD)
            while reading:
                yield reading.popleft().result()

        self._prepared = read_ahead()

    def _scheduled(self) -> Pipeline:
        """The pipeline, created if there is none, with its first batches scheduled."""
        if self._pipeline is None:
            self._pipeline = self._build()
        self._pipeline.schedule_run()
        return self._pipeline

    def _recovered(self, error: RuntimeError, readers: Readers) -> Pipeline:
        """Replaces a pipeline that a corrupt image broke. The batches in flight are submitted again, without the image."""
        self._pipeline = None
        first = next(k for k, prepared in enumerate(self._in_flight) if len(prepared.rows))
        self._in_flight[first] = self._inputs.without_corrupt(self._in_flight[first], error, readers)
        self._resubmitted, self._in_flight = self._in_flight, deque()
        return self._scheduled()

    def _build(self) -> Pipeline:
        inputs = self.graph.inputs(empty_batch())

        @pipeline_def
        def crops() -> Any:
            nodes = fn.external_source(
                source=self._source,
                num_outputs=len(inputs),
                batch=True,
                dtype=[dtype for _, dtype, _ in inputs.values()],
                ndim=[ndim for _, _, ndim in inputs.values()],
            )
            return self.graph.build(dict(zip(inputs, nodes, strict=True)))

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
            prepared = self._resubmitted.popleft() if self._resubmitted else next(self._prepared)
            self._in_flight.append(prepared)
            if len(prepared.rows):  # DALI accepts no empty batch
                return tuple(values for values, _, _ in self.graph.inputs(prepared).values())

    def _undecodable(self) -> Iterator[Batch]:
        """The next batches in order, as long as none of their images can be decoded."""
        while self._in_flight and not len(self._in_flight[0].rows):
            prepared = self._in_flight.popleft()
            with self.stream.use():
                labels = self.labels(prepared.samples, np.zeros(len(prepared.samples), np.bool_))
                images = self.outputs.blank(len(prepared.samples))
            self.stream.synchronize()
            yield from _cut(images, labels, prepared.counts)

    def _assemble(self, prepared: PreparedBatch, decoded: Any, workers: ThreadPoolExecutor) -> Iterator[Batch]:
        good = np.zeros(len(prepared.samples), np.bool_)
        good[prepared.rows] = True
        with self.stream.use():
            labels = self.labels(prepared.samples, good)
        return _cut(self.outputs.finish(prepared, decoded, workers), labels, prepared.counts)


def _groups(plan: Iterator[Samples], size: int) -> Iterator[list[Samples]]:
    """Consecutive micro-batches, with at most `size` images together, but at least one micro-batch."""
    group: list[Samples] = []
    for samples in plan:
        if group and sum(map(len, group)) + len(samples) > size:
            yield group
            group = []
        group.append(samples)
    if group:
        yield group


def _cut(images: torch.Tensor, labels: torch.Tensor, counts: list[int]) -> Iterator[Batch]:
    """The batch as its micro-batches."""
    return (Batch(*parts) for parts in zip(images.split(counts), labels.split(counts), strict=True))
