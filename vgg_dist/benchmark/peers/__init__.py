"""The loaders of other packages that `benchmark loader --peers` compares, each a process of its own.

A peer's module has `set_up(work, folder) -> PlacedEpoch`; what the peer needs on disk (shards, chunks) it writes to
`folder`, before anything is timed. `process.PeerProcess` runs it, in this environment where the peer's packages are
installed here, else in one that `environments` makes.
"""

from __future__ import annotations

from dataclasses import dataclass

from vgg_dist.benchmark.options import PeerName


class PeerError(Exception):
    """A peer that cannot be measured, and why, in one line."""


@dataclass(frozen=True)
class Peer:
    """`title` in the table, `package` to import, `requirements` as pip takes them, and how its work differs from ours."""

    title: str
    package: str
    requirements: tuple[str, ...]
    note: str


PEERS: dict[PeerName, Peer] = {
    "spdl": Peer(
        "SPDL",
        "spdl",
        ("spdl>=0.8,<0.9",),
        "FFmpeg decodes, rescales (swscale, bilinear), crops and flips, in threads of one process",
    ),
    "webdataset": Peer(
        "WebDataset",
        "webdataset",
        ("webdataset>=1.0,<2",),
        "reads tar shards, one a batch in the epoch's order; PIL as in torchvision DataLoader",
    ),
    "litdata": Peer(
        "LitData",
        "litdata",
        ("litdata>=0.2.76,<0.3",),
        "reads chunks; transforms as in torchvision v2; the same images in another order, turned as their EXIF data has it",
    ),
    "ffcv": Peer(
        "FFCV",
        "ffcv",
        ("ffcv>=1.0,<2",),
        "reads a .beton of images re-encoded at full size as JPEGs of quality 90; decodes with libjpeg-turbo's fast DCT; "
        "resizes only what becomes the crop, cut at whole pixels of the image (OpenCV, INTER_AREA)",
    ),
}
