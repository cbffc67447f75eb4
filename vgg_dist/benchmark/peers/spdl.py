"""SPDL: a pipeline of threads in one process; FFmpeg decodes, rescales, crops and flips, torch normalises batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import spdl.io.utils  # type: ignore[import-not-found]
import torch
from spdl.pipeline import PipelineBuilder  # type: ignore[import-not-found]
from torch import Tensor

from vgg_dist.benchmark.work import PlacedEpoch, Work


def set_up(work: Work, folder: Path) -> PlacedEpoch:
    """Builds a new pipeline for each epoch, because each runs only once. Raises ImportError if FFmpeg is missing."""
    try:
        spdl.io.utils.get_ffmpeg_versions()
    except RuntimeError:
        raise ImportError("FFmpeg's shared libraries, version 4 to 9, are not installed") from None
    size, std = work.preprocessing.image_size, torch.tensor(work.preprocessing.std, device=work.device)

    def decode(position: int) -> tuple[int, Any]:
        (height, width), (top, left) = work.resized[position].tolist(), work.corner[position].tolist()
        filters = f"scale={width}:{height}:flags=bilinear,format=rgb24,crop={size}:{size}:{left}:{top}"
        if work.samples.flip[position]:
            filters += ",hflip"
        packets = spdl.io.demux_image(work.read(position))
        return position, spdl.io.decode_packets(packets, filter_desc=filters)

    def collate(decoded: list[tuple[int, Any]]) -> tuple[Tensor, Tensor]:
        positions = np.array([position for position, _ in decoded])
        pixels = spdl.io.to_torch(spdl.io.convert_frames([frames for _, frames in decoded]))
        pixels = pixels.to(work.device).permute(0, 3, 1, 2).float()
        means = torch.from_numpy(work.means(positions)).to(work.device)
        return torch.from_numpy(positions), pixels.sub_(means[:, :, None, None]).div_(std[:, None, None])

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        pipeline = (
            PipelineBuilder()
            .add_source(range(len(work.samples)))
            .pipe(decode, concurrency=work.threads, output_order="input")
            .aggregate(work.batch)
            .pipe(collate)
            .add_sink(3)
            .build(num_threads=work.threads, max_failures=0)
        )
        with pipeline.auto_stop():
            yield from pipeline.get_iterator()

    return epoch
