"""The loaders of other packages that `benchmark loader --peers` compares, each in a separate process.

A peer's module has `set_up(work, folder) -> PlacedEpoch`, which first writes what the peer needs on disk (shards, chunks) to
`folder`, untimed. `process.PeerProcess` runs it: in this Python environment if the peer's packages are installed, else in
one that `environments` creates.
"""

from __future__ import annotations

from dataclasses import dataclass

from vgg_dist.benchmark.options import PeerName


class PeerError(Exception):
    """A peer cannot be measured; the message is the reason, in one line."""


@dataclass(frozen=True)
class Peer:
    """A peer: its title in the table, the package to import, requirements for pip, and how its work differs from ours."""

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
        "reads tar shards, one per batch, in the epoch's order; PIL as in torchvision DataLoader",
    ),
    "litdata": Peer(
        "LitData",
        "litdata",
        ("litdata>=0.2.76,<0.3",),
        "reads chunks; transforms as in torchvision v2; the same images in another order, rotated by their EXIF orientation",
    ),
    "ffcv": Peer(
        "FFCV",
        "ffcv",
        ("ffcv>=1.0,<2",),
        "reads a .beton of images re-encoded at full size as JPEGs of quality 90; decodes with libjpeg-turbo's fast DCT; "
        "resizes only the part under the crop, cut at whole pixels of the image (OpenCV, INTER_AREA)",
    ),
}
