"""Writes one split of any store as tar shards.

For `train`, the folder then contains:

- `train-00000.tar`, ...: plain ustar with two adjacent members per sample, the image `<class>/<stem>.jpg` and its label as
  text, `<class>/<stem>.cls`, which the webdataset package can read. Samples are shuffled once, for readers that read a shard
  in order. JPEGs get restart markers (`pipelines.preparation.restart_markers`).
- `train-00000.idx`, ...: DALI's index of each tar, version 1.2, for `fn.readers.webdataset`.
- `train.index.npz`: the index of the whole split, which `pipelines.stores.shards` reads. It is written last; without it the
  split does not exist.

The store and the seed determine where each sample goes before anything is written, so an interrupted run resumes at the
first incomplete tar. Until the run is complete, `train.writing` holds a digest of the plan.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.preparation.restart_markers import with_restart_markers
from pipelines.preparation.shard_plan import BLOCK, ShardPlan, plan_shards
from pipelines.progress import Progress
from pipelines.remote import size_of, write_atomically
from pipelines.stores.image_header import image_size
from pipelines.stores.restart_table import cut_out_header
from pipelines.stores.sample_store import Names, SampleStore
from pipelines.stores.shard_index import ShardIndex

T = TypeVar("T")

THREADS = max(8, os.cpu_count() or 1)
_END_OF_TAR = bytes(2 * BLOCK)


class Record(NamedTuple):
    """What the index says about one image in a tar; the names are those of `ShardIndex`."""

    offset: int
    length: int
    height: int
    width: int
    checksum: int
    header_start: int
    header_end: int

    @classmethod
    def of(cls, image: bytes, offset: int) -> Record:
        """Describes an image that is at `offset`."""
        try:
            height, width = image_size(image)
        except OSError:
            height, width = 0, 0
        return cls(offset, len(image), height, width, zlib.crc32(image), *(cut_out_header(image) or (0, 0)))


def write_shards(
    store: SampleStore,
    split: str,
    out: Path,
    *,
    shard_bytes: int,
    seed: int,
    jpegtran: str | None = None,
    threads: int = THREADS,
) -> ShardIndex:
    """Writes `store` as the shards of `split` into the folder `out`.

    `shard_bytes`: the size of a tar, exceeded by at most one sample, before restart markers are added. `jpegtran`: the
    program that adds them; None: images stay as they are. Resumes an interrupted call with the same arguments; a no-op if
    that call was complete. Returns the index. Raises ValueError if `out` has other shards of the split, OSError if a sample
    cannot be read or the disk is full.
    """
    with ThreadPoolExecutor(threads) as pool, Progress(total=len(store), desc=f"{split} shards", unit="image") as progress:
        plan = plan_shards(store, split, pool, shard_bytes=shard_bytes, seed=seed, restart_markers=jpegtran is not None)
        if (complete := _begin(out, split, plan)) is not None:
            progress.update(len(store))
            return complete

        def image(row: int) -> bytes:
            encoded = store.read(int(plan.order[row]))
            if len(encoded) != plan.length[row]:
                was = f"has {len(encoded)} bytes now and had {plan.length[row]}: the file was changed"
                raise OSError(f"{plan.names[row]}: {was}")
            return encoded if jpegtran is None else with_restart_markers(encoded, jpegtran) or encoded

        records: list[NDArray[np.int64]] = []
        shard_names = [f"{split}-{number:05d}.tar" for number in range(int(plan.shard.max(initial=-1)) + 1)]
        for number, name in enumerate(shard_names):
            rows = np.flatnonzero(plan.shard == number).tolist()
            written = _complete_tar(out / name, rows, plan)
            if written is not None:
                shard = list(_with_progress(pool.map(partial(_reread, out / name), written), progress))
            else:
                images = _with_progress(pool.map(image, rows), progress)
                shard = _write_tar(out / name, plan, store.labels[plan.order[rows]], rows, images)
            records.append(np.array(shard, np.int64))  # a million tuples would take half a gigabyte
    index = _index(store, plan, shard_names, [size_of(str(out / name)) for name in shard_names], records)
    write_atomically(str(out / f"{split}.index.npz"), index.to_bytes())
    (out / f"{split}.writing").unlink()
    return index


def _with_progress(items: Iterable[T], progress: Progress) -> Iterator[T]:
    for item in items:
        yield item
        progress.update()


def _index(
    store: SampleStore, plan: ShardPlan, shard_names: list[str], shard_bytes: list[int], records: list[NDArray[np.int64]]
) -> ShardIndex:
    columns = np.concatenate([np.zeros((0, len(Record._fields)), np.int64), *records]).T
    types = {"offset": np.int64, "length": np.int64, "height": np.int32, "width": np.int32}
    return ShardIndex(
        class_names=store.class_names,
        shard_names=shard_names,
        shard_bytes=np.array(shard_bytes, np.int64),
        shard=plan.shard,
        label=store.labels[plan.order].astype(np.int64),
        names=Names.of(plan.names),
        made_from=plan.digest,
        **{name: column.astype(types.get(name, np.uint32)) for name, column in zip(Record._fields, columns, strict=True)},
    )


def _begin(out: Path, split: str, plan: ShardPlan) -> ShardIndex | None:
    """Marks the split as being written. The index if exactly this plan is complete already; ValueError if another one is."""
    index, writing = out / f"{split}.index.npz", out / f"{split}.writing"
    if index.exists():
        complete = ShardIndex.from_bytes(index.read_bytes(), str(index))
        if complete.made_from == plan.digest:
            return complete
        raise ValueError(f"--out {out}: has other shards of {split} already ({index.name})")
    if writing.exists() and writing.read_text() != plan.digest:
        raise ValueError(
            f"--out {out}: has shards of an unfinished run with other images or settings: "
            f"repeat that command, or remove {split}-*.tar and {writing.name}"
        )
    if not writing.exists() and any(out.glob(f"{split}-*.tar")):
        raise ValueError(f"--out {out}: has {split}-*.tar already, without their index")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(str(writing), plan.digest.encode())
    return None


def _complete_tar(path: Path, rows: list[int], plan: ShardPlan) -> list[tuple[int, int]] | None:
    """Offset and length of each image in a tar that an interrupted run wrote; None if there is no complete one."""
    try:
        _, *lines = path.with_suffix(".idx").read_bytes().decode("utf-8", "surrogateescape").splitlines()
        fields = [line.split(" ") for line in lines]
        if [line[3] for line in fields] != [plan.names[row] for row in rows]:
            return None
        end = int(fields[-1][5]) + BLOCK + len(_END_OF_TAR)
        return [(int(line[1]), int(line[2])) for line in fields] if size_of(str(path)) == end else None
    except (OSError, ValueError, IndexError):
        return None


def _reread(path: Path, span: tuple[int, int]) -> Record:
    offset, length = span
    with open(path, "rb", buffering=0) as tar:
        return Record.of(os.pread(tar.fileno(), length, offset), offset)


def _write_tar(
    path: Path, plan: ShardPlan, labels: NDArray[np.int64], rows: list[int], images: Iterable[bytes]
) -> list[Record]:
    """Writes one tar, and before it its DALI index."""
    records, lines, part = [], [f"v1.2 {len(rows)}\n"], path.with_name(f"{path.name}.part")
    with open(part, "wb") as tar:
        for row, label, image in zip(rows, labels.tolist(), images, strict=True):
            name, text = plan.names[row], b"%d" % label
            stem, extension = os.path.splitext(name)
            records.append(Record.of(image, tar.tell() + BLOCK))
            tar.write(_member(name, image))
            label_offset = tar.tell() + BLOCK
            tar.write(_member(f"{stem}.cls", text))
            offset = records[-1].offset
            lines.append(f"{extension[1:]} {offset} {len(image)} {name} cls {label_offset} {len(text)} {stem}.cls\n")
        tar.write(_END_OF_TAR)
    write_atomically(str(path.with_suffix(".idx")), "".join(lines).encode("utf-8", "surrogateescape"))
    os.replace(part, path)
    return records


def _member(name: str, data: bytes) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK)
