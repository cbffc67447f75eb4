"""The DALI loader: decode only the window of each image that its crop is made of, then resize once.

On the CPU DALI decodes the windows, and threads resize them with torch's uint8 antialiasing kernel (the arithmetic of PIL,
vectorised; four times faster than DALI's resize on a CPU) and normalise them. On a GPU everything after the Huffman decoding
happens there: nvJPEG (DALI's "mixed" decoder), DALI's resize with the crop's exact edges, normalisation in torch.

Nothing else imports DALI, besides the benchmark. Measured by `python -m vgg_dist.benchmark loader`.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import nvidia.dali.fn as fn
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, pipeline_def, types
from PIL import Image

from pipelines.batch import Batch, Loader, Preprocessing, prefetch
from pipelines.plan import Samples
from pipelines.samples import SampleStore
from pipelines.window import DecodeWindow, decode_window

T = TypeVar("T")

CHUNK = 4  # images of a batch that a thread is given at a time
READ_AHEAD = 2  # batches whose files are being read
IN_FLIGHT = 2  # batches that DALI has been given and has not returned


@dataclass
class Prepared:
    """A micro-batch ready for DALI. `rows` (m,) int: which of its n samples can be read; the other fields are for those."""

    samples: Samples
    rows: NDArray[np.int64]
    encoded: list[NDArray[np.uint8]]
    resized: NDArray[np.int64]
    corner: NDArray[np.int64]
    window: DecodeWindow


class DaliLoader(Loader):
    """See the module's docstring. One DALI pipeline lives as long as the loader, whatever the number of epochs."""

    def __init__(
        self,
        store: SampleStore,
        preprocessing: Preprocessing,
        num_threads: int,
        device: torch.device,
        max_batch: int,
    ) -> None:
        super().__init__(store, preprocessing, num_threads, device)
        self.max_batch = max_batch
        self._pipeline: Pipeline | None = None
        self._prepared: Iterator[Prepared] = iter(())  # what `_source` gives DALI next,
        self._again: deque[Prepared] = deque()  # after these, which a broken pipeline had been given already
        self._in_flight: deque[Prepared] = deque()  # what it was given and has not returned
        self._buffers: list[NDArray[np.float32]] = []

    def batches(self, micro_batches: Iterable[Samples]) -> Iterator[Batch]:
        """One batch for each element of `micro_batches`, in order, prepared ahead in the background."""
        return prefetch(self._batches(iter(micro_batches)))

    def _batches(self, plan: Iterator[Samples]) -> Iterator[Batch]:
        with ThreadPoolExecutor(self.num_threads) as workers, ThreadPoolExecutor(1) as reader:
            self._begin(plan, workers, reader)
            pipeline = self._scheduled()
            while True:
                try:
                    decoded = pipeline.share_outputs()[0]
                except StopIteration:
                    break
                except RuntimeError as error:
                    # A corrupt image breaks the whole pipeline. What it was given is known, so a new one goes on where it
                    # stood, without the image.
                    self._pipeline = None
                    first = next(k for k, prepared in enumerate(self._in_flight) if len(prepared.rows))
                    self._in_flight[first] = self._without_corrupt(self._in_flight[first], error)
                    self._again, self._in_flight = self._in_flight, deque()
                    pipeline = self._scheduled()
                    continue
                yield from self._undecodable()
                batch = self._assemble(self._in_flight.popleft(), decoded, workers)
                pipeline.release_outputs()
                pipeline.schedule_run()
                yield batch
            yield from self._undecodable()
            pipeline.reset()

    def _begin(self, plan: Iterator[Samples], workers: ThreadPoolExecutor, reader: ThreadPoolExecutor) -> None:
        """Sets up what `_source` gives DALI: these samples, the files of the next few batches being read meanwhile."""
        if self._pipeline is not None and self._in_flight:
            self._pipeline = None  # the last walk was given up half-way: its batches are still in there
        self._again, self._in_flight = deque(), deque()

        def read_ahead() -> Iterator[Prepared]:
            reading: deque[Future[Prepared]] = deque()
            for samples in plan:
                reading.append(reader.submit(self._prepare, samples, workers))
                if len(reading) > READ_AHEAD:
                    yield reading.popleft().result()
            while reading:
                yield reading.popleft().result()

        self._prepared = read_ahead()

    def _scheduled(self) -> Pipeline:
        """The pipeline, with its first batches under way."""
        if self._pipeline is None:
            self._pipeline = _build(self.preprocessing, self._source, self.max_batch, self.num_threads, self.device)
        self._pipeline.schedule_run()
        return self._pipeline

    def _source(self) -> tuple[Any, ...]:
        """DALI's next inputs, in the order of `_inputs`; StopIteration at the end of the plan."""
        while True:
            prepared = self._again.popleft() if self._again else next(self._prepared)
            self._in_flight.append(prepared)
            if len(prepared.rows):  # DALI takes no empty batch
                return tuple(values for values, _, _ in _inputs(prepared, self.preprocessing, self.device).values())

    def _undecodable(self) -> Iterator[Batch]:
        """The batches next in order of which not one image can be decoded."""
        while self._in_flight and not len(self._in_flight[0].rows):
            samples, size = self._in_flight.popleft().samples, self.preprocessing.image_size
            images = torch.zeros((len(samples), size, size, self.preprocessing.channels), device=self.device)
            yield Batch(images.permute(0, 3, 1, 2), self.labels(samples, np.zeros(len(samples), np.bool_)))

    def _prepare(self, samples: Samples, workers: ThreadPoolExecutor) -> Prepared:
        def read(index: int) -> tuple[bytes, tuple[int, int]] | None:
            if index < 0 or index in self.bad_images:
                return None
            try:
                return self.read(index)
            except OSError as error:
                self.skip(index, error)
                return None

        images = _in_chunks(workers, read, samples.index.tolist())
        rows = np.array([row for row, image in enumerate(images) if image is not None], np.int64)
        return self._windowed(samples, rows, [image for image in images if image is not None])

    def _windowed(self, samples: Samples, rows: NDArray[np.int64], images: list[tuple[bytes, tuple[int, int]]]) -> Prepared:
        source = np.array([shape for _, shape in images], np.int64).reshape(-1, 2)
        resized, corner = self.preprocessing.geometry(source, _rows(samples, rows))
        window = decode_window(source, resized, corner, self.preprocessing.image_size)
        if self.preprocessing.pad:  # small images: decoded whole, the border comes after the resize
            zero = np.zeros_like(source)
            edges = zero.astype(np.float32), source.astype(np.float32)
            window = DecodeWindow(zero, source, *edges, source / resized, zero, zero)
        return Prepared(samples, rows, [np.frombuffer(e, np.uint8) for e, _ in images], resized, corner, window)

    def _assemble(self, prepared: Prepared, decoded: Any, workers: ThreadPoolExecutor) -> Batch:
        n, size, channels = len(prepared.samples), self.preprocessing.image_size, self.preprocessing.channels
        good = np.zeros(n, np.bool_)
        good[prepared.rows] = True
        labels = self.labels(prepared.samples, good)
        if self.device.type != "cpu":
            images = torch.zeros((n, size, size, channels), device=self.device)
            images[torch.from_numpy(good).to(self.device)] = self._from_gpu(prepared, decoded)
            return Batch(images.permute(0, 3, 1, 2), labels)
        out = self._buffer()[:n]
        out[~good] = 0.0

        def crop(k: int) -> None:
            row = prepared.rows[k]
            pixels = self._crop(prepared, k, np.asarray(decoded[k]), bool(prepared.samples.flip[row]))
            self.preprocessing.normalize_into(pixels, prepared.samples.shift[row], out[row])

        _in_chunks(workers, crop, range(len(prepared.rows)))
        return Batch(torch.from_numpy(out).permute(0, 3, 1, 2), labels)

    def _buffer(self) -> NDArray[np.float32]:
        """Memory for a batch (max_batch, size, size, channels): an earlier batch's, once nobody holds that one any more.

        The page faults of fresh memory cost more than all the arithmetic on it.
        """
        for buffer in self._buffers:
            if sys.getrefcount(buffer) == 3:  # the list, the loop's name, the argument: no batch
                return buffer
        size = self.preprocessing.image_size
        self._buffers.append(np.empty((self.max_batch, size, size, self.preprocessing.channels), np.float32))
        return self._buffers[-1]

    def _crop(self, prepared: Prepared, k: int, pixels: NDArray[np.uint8], flip: bool) -> NDArray[np.uint8]:
        """Image k's crop (size, size, 3) from its decoded window."""
        size = self.preprocessing.image_size
        if not self.preprocessing.pad:
            return resize_window(pixels, prepared.window, k, size, flip)
        (height, width), pad = prepared.resized[k].tolist(), self.preprocessing.pad
        whole = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        bordered = np.pad(np.asarray(whole), ((pad, pad), (pad, pad), (0, 0)))
        top, left = (prepared.corner[k] + pad).tolist()
        crop = bordered[top : top + size, left : left + size]
        return np.ascontiguousarray(crop[:, ::-1] if flip else crop)

    def _from_gpu(self, prepared: Prepared, decoded: Any) -> torch.Tensor:
        from nvidia.dali.plugin.pytorch import feed_ndarray

        size = self.preprocessing.image_size
        pixels = torch.empty((len(prepared.rows), size, size, 3), dtype=torch.uint8, device=self.device)
        feed_ndarray(decoded, pixels, cuda_stream=torch.cuda.current_stream(self.device))
        return self.preprocessing.normalize(pixels, torch.from_numpy(prepared.samples.shift[prepared.rows]).to(self.device))

    def _without_corrupt(self, prepared: Prepared, error: RuntimeError) -> Prepared:
        """The micro-batch without the images that DALI cannot decode, each of which is noted."""
        keep, images = [], []
        for row, encoded in zip(prepared.rows.tolist(), prepared.encoded, strict=True):
            reason = _decoding_error(encoded)
            if reason is None:
                keep.append(row)
                images.append(self.read(int(prepared.samples.index[row])))
            else:
                self.skip(int(prepared.samples.index[row]), reason)
        if len(keep) == len(prepared.rows):
            raise error  # not an image's fault: out of memory, no decoder for this GPU, ...
        return self._windowed(prepared.samples, np.array(keep, np.int64), images)


def _in_chunks(workers: ThreadPoolExecutor, work: Callable[[int], T], items: Sequence[int]) -> list[T]:
    """`work` of each item, in order; CHUNK items a task, as handing over a task takes longer than reading a cached file."""
    chunks = (items[k : k + CHUNK] for k in range(0, len(items), CHUNK))
    return [result for results in workers.map(lambda chunk: [work(item) for item in chunk], chunks) for result in results]


def resize_window(pixels: NDArray[np.uint8], window: DecodeWindow, k: int, size: int, flip: bool) -> NDArray[np.uint8]:
    """The k-th window's crop (size, size, 3), mirrored or not, from its decoded pixels (h, w, 3)."""
    (down, right), (top, left) = window.void[k].tolist(), window.lead[k].tolist()
    height, width, _ = pixels.shape
    if down + height == top + size or right + width == left + size:
        # torch's kernel takes equal input and output sizes for "nothing to do", whatever the ratio.
        box = (window.roi_start[k, 1], window.roi_start[k, 0], window.roi_end[k, 1], window.roi_end[k, 0])
        exact = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box=box))
        return np.ascontiguousarray(exact[:, ::-1]) if flip else exact
    canvas = pixels
    if down or right:
        canvas = np.empty((down + height, right + width, 3), np.uint8)
        canvas[down:, right:] = pixels
    # With the strides of a channels-last batch the kernel works in place; `canvas[None]` and `unsqueeze` give others.
    planes = torch.from_numpy(canvas.reshape(1, *canvas.shape)).permute(0, 3, 1, 2)
    zoom = (1.0 / window.ratio[k]).tolist()
    resized = torch.ops.aten._upsample_bilinear2d_aa(planes, [top + size, left + size], False, *zoom)
    crop = resized[:, :, top:, left:]
    return (crop.flip(3) if flip else crop)[0].permute(1, 2, 0).numpy()


def _rows(samples: Samples, rows: NDArray[np.int64]) -> Samples:
    return Samples(*(getattr(samples, field)[rows] for field in ("index", "scale", "position", "flip", "shift")))


def _inputs(prepared: Prepared, preprocessing: Preprocessing, device: torch.device) -> dict[str, tuple[Any, Any, int]]:
    """What DALI is given of a batch: name -> (values, DALI type, dimensions of a sample)."""
    window = prepared.window
    inputs: dict[str, tuple[Any, Any, int]] = {
        "encoded": (prepared.encoded, types.UINT8, 1),
        "start": (window.start.astype(np.int32), types.INT32, 1),
        "shape": (window.shape.astype(np.int32), types.INT32, 1),
    }
    if device.type == "cpu":
        return inputs
    # A region whose start lies beyond its end comes out mirrored.
    flip = prepared.samples.flip[prepared.rows, None] & np.array([False, True])
    inputs["roi_start"] = (np.where(flip, window.roi_end, window.roi_start), types.FLOAT, 1)
    inputs["roi_end"] = (np.where(flip, window.roi_start, window.roi_end), types.FLOAT, 1)
    if preprocessing.pad:
        mirrored = prepared.resized - preprocessing.image_size - prepared.corner
        inputs["corner"] = (np.where(flip, mirrored, prepared.corner).astype(np.int32), types.INT32, 1)
        inputs["resized"] = (prepared.resized.astype(np.float32), types.FLOAT, 1)
    return inputs


def _build(
    preprocessing: Preprocessing,
    source: Callable[[], tuple[Any, ...]],
    max_batch: int,
    num_threads: int,
    device: torch.device,
) -> Pipeline:
    """The pipeline: windows of the images on the CPU, whole crops on a GPU."""
    size, on_cpu = preprocessing.image_size, device.type == "cpu"
    none = np.zeros(0, np.int64)
    corners = np.zeros((0, 2), np.int64)
    no_window = decode_window(corners, corners, corners, size)
    no_samples = Samples(
        none, none.astype(np.int32), corners.astype(np.float64), none.astype(np.bool_), none.astype(np.float32)
    )
    layout = _inputs(Prepared(no_samples, none, [], corners, corners, no_window), preprocessing, device)

    @pipeline_def
    def crops() -> Any:
        nodes = fn.external_source(
            source=source,
            num_outputs=len(layout),
            batch=True,
            dtype=[dtype for _, dtype, _ in layout.values()],
            ndim=[ndim for _, _, ndim in layout.values()],
        )
        inputs = dict(zip(layout, nodes, strict=True))
        decoded = fn.decoders.image_slice(
            inputs["encoded"],
            start=inputs["start"],
            shape=inputs["shape"],
            axis_names="HW",
            adjust_orientation=False,  # as PIL and torchvision decode, and as the paper's tools did
            device="cpu" if on_cpu else "mixed",
        )
        if on_cpu:
            return decoded
        resized = fn.resize(
            decoded,
            size=inputs.get("resized", [size, size]),
            roi_start=inputs["roi_start"],
            roi_end=inputs["roi_end"],
            interp_type=types.INTERP_LINEAR,
            antialias=True,
        )
        if not preprocessing.pad:
            return resized
        window = {"start": inputs["corner"], "shape": [size, size], "axis_names": "HW"}
        return fn.slice(resized, **window, out_of_bounds_policy="pad", fill_values=0)

    pipeline = crops(
        batch_size=max_batch,
        num_threads=num_threads,
        device_id=None if on_cpu else device.index or 0,
        prefetch_queue_depth=IN_FLIGHT,
    )
    pipeline.build()
    return pipeline


def _decoding_error(encoded: NDArray[np.uint8]) -> str | None:
    """What DALI says of an image that it cannot decode, in a pipeline of its own; None if it can."""

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def one() -> Any:
        return fn.decoders.image(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1), adjust_orientation=False)

    pipeline = one()
    pipeline.build()
    pipeline.feed_input("encoded", [encoded])
    try:
        pipeline.run()
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return next((line for line in lines if "rror" in line), lines[0])
    return None
