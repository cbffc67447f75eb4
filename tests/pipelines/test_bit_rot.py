"""A flipped bit in any file that a run or `prepare` writes is told in one line that names the file, or changes nothing.

The shards are read through a node's cache, which checks each record when a shard is copied.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import random
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import fs
from scipy.io import savemat
from support.trees import make_tree, picture

from pipelines.layouts.devkit import read_devkit
from pipelines.preparation.shard_writer import write_shards
from pipelines.stores.open import open_splits, open_store
from pipelines.stores.shard_index import ShardIndex
from pipelines.stores.shards import open_shards
from vgg_dist.config import TrainConfig
from vgg_dist.errors import TrainingError
from vgg_dist.evaluation.posteriors import ImageSet, Manifest, PosteriorFiles
from vgg_dist.run_folder.checkpoints import unused_name, whole_checkpoints
from vgg_dist.run_folder.choice import local_checkpoint
from vgg_dist.run_folder.digests import DIGESTS, DamagedCheckpoint, check_files
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.run_folder.names import CONFIG, MODEL, RECORDS, STATE
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.state import TrainState, build_state
from vgg_dist.weights.checkpoint import read_records, read_weights
from vgg_dist.worker.exchange import Exchange
from vgg_dist.worker.setup import Node, prepare

CLASSES = open_splits("synthetic")[0].class_names
CONFIGURED = TrainConfig(
    arch="lenet5", epochs=2, name="run", num_workers=1, micro_batch=4, loader_threads=1, precision="fp32"
).resolved()
RECORD = {"step": 1, "time": 3.5, "metrics": {"train/loss": 2.25}}
FLIPS = 200


def state_at(step: int) -> TrainState:
    """The state of a net after one step on made-up gradients, with the step number set to `step`."""
    state = build_state(CONFIGURED, len(CLASSES), torch.device("cpu"))
    for parameter in state.model.parameters():
        parameter.grad = torch.full_like(parameter, float(step))
    state.optimizer.step()
    state.step = step
    return state


def write_checkpoint(folder: Path, step: int = 3) -> None:
    folder.mkdir(parents=True)
    state_at(step).snapshot().write(folder, CONFIGURED, CLASSES, [RECORD])


def read_checkpoint(folder: Path) -> str:
    state = build_state(CONFIGURED, len(CLASSES), torch.device("cpu"))
    state.restore(folder, CONFIGURED, CLASSES)
    tensors = [
        *state.model.state_dict().values(),
        *(state.optimizer.state[p]["momentum_buffer"] for p in state.model.parameters()),
    ]
    return repr([state.step, read_records(folder), [hashlib.sha256(tensor.numpy()).digest() for tensor in tensors]])


MANIFEST = Manifest("net", "0123456789abcdef", "dense", 256, "images", 300, 10, {"precision": "fp32"})
IMAGES = ImageSet(["a", "b"], [0, 1], ["cat", "dog"], "0" * 64)


def write_posteriors(folder: Path) -> None:
    IMAGES.keep(str(folder))
    files = PosteriorFiles(str(folder), MANIFEST)
    values = np.random.default_rng(0).dirichlet(np.ones(10), 300).astype(np.float32)
    for part in files.missing():
        files.write(part, values[files.indices(part)])


def read_posteriors(folder: Path) -> str:
    IMAGES.keep(str(folder))
    files = PosteriorFiles(str(folder), MANIFEST)
    assert files.missing() == []
    return repr(files.read().tobytes())


def write_shard_set(folder: Path) -> None:
    files = {f"tree/{c}/{i}.jpg": picture(i, quality=100) for c in ("cat", "dog") for i in range(6)}
    tree = make_tree(
        folder / "source",
        {name.replace("tree/", f"tree/{split}/"): content for split in ("train", "val") for name, content in files.items()},
    )
    write_shards(open_store(str(tree / "tree"), "train"), "train", folder / "shards", shard_bytes=10**6, seed=1)


def read_shard_set(folder: Path) -> str:
    with tempfile.TemporaryDirectory() as cache:
        store = open_shards(f"local://{folder / 'shards'}", ["train"], cache=cache)
        assert store is not None
        store.prefetch()
        samples = [
            (store.name(i), store.size(i), store.length(i), int(store.labels[i]), store.read(i)) for i in range(len(store))
        ]
        return repr((store.class_names, samples))


def write_devkit(folder: Path) -> None:
    synsets = np.array([(1, "n01", 0), (2, "n02", 0)], [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets}, do_compression=True)
    files = {"kit/data/meta.mat": meta.getvalue(), "kit/data/ILSVRC2012_validation_ground_truth.txt": b"1\n2\n1\n"}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    folder.mkdir(parents=True)
    (folder / "kit.tar.gz").write_bytes(gzip.compress(content.getvalue()))


def read_kit(folder: Path) -> str:
    return repr(read_devkit(folder / "kit.tar.gz"))


SETS: dict[str, tuple[Callable[[Path], None], Callable[[Path], str]]] = {
    "checkpoint": (write_checkpoint, read_checkpoint),
    "posteriors": (write_posteriors, read_posteriors),
    "shards": (write_shard_set, read_shard_set),
    "devkit": (write_devkit, read_kit),
}


def records(folder: Path) -> dict[str, list[tuple[int, int]]]:
    """The byte ranges of the images in each tar of shards."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for tar in (folder / "shards").glob("*.tar"):
        with tarfile.open(tar) as members:
            spans[tar.name] = [(m.offset_data, m.offset_data + m.size) for m in members if m.name.endswith(".jpg")]
    return spans


def outcome(read: Callable[[Path], str], folder: Path) -> tuple[str, str]:
    """The result of reading, or the message of an error that commands print as one line, without a traceback."""
    try:
        return read(folder), ""
    except (ValueError, OSError) as error:
        return "", str(error)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SETS)
def test_no_flipped_bit_gives_another_value_or_a_traceback(kind: str, tmp_path: Path) -> None:
    write, read = SETS[kind]
    folder = tmp_path / kind
    write(folder)
    whole, images = read(folder), records(folder)
    # The files of a checkpoint have from a few bytes to megabytes; each gets the same number of flipped bits.
    # Those of DALI's index, which this code writes but does not read, have no effect.
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".idx")
    files = sorted(path for path in paths if "source" not in path.parts)
    generator, found, in_records, found_in_records = random.Random(kind), 0, 0, 0
    for number in range(FLIPS // len(SETS)):
        file = files[number % len(files)]
        before = file.read_bytes()
        at = generator.randrange(len(before))
        flipped = bytearray(before)
        bit = generator.randrange(8)
        flipped[at] ^= 1 << bit
        file.write_bytes(flipped)
        value, told = outcome(read, folder)
        file.write_bytes(before)
        where = f"bit {bit} of byte {at} of {file}"
        assert told or value == whole, f"{where}: another value, and nobody is told"
        assert "\n" not in told, where
        # A flipped number or name in a manifest or in digests.json is reported as a difference from the files beside it.
        named = str(file.parent) if file.suffix == ".json" else str(file)
        assert named in told or not told, f"{where}: {told}"
        found += bool(told)
        in_record = any(start <= at < end for start, end in images.get(file.name, []))
        in_records, found_in_records = in_records + in_record, found_in_records + (in_record and bool(told))
    # The headers and the padding of a tar's members are not read, so flips there have no effect.
    assert found > FLIPS // len(SETS) * (0.4 if kind == "shards" else 0.8)
    assert found_in_records == in_records
    assert (in_records > 5) == (kind == "shards")
    assert read(folder) == whole


def test_what_was_written_without_digests_is_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint")
    whole = read_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / DIGESTS).unlink()
    assert read_checkpoint(tmp_path / "checkpoint") == whole
    write_posteriors(tmp_path / "posteriors")
    whole = read_posteriors(tmp_path / "posteriors")
    for part in (tmp_path / "posteriors").rglob("part-*.npy"):
        np.save(part, np.load(part))
    assert read_posteriors(tmp_path / "posteriors") == whole
    write_shard_set(tmp_path)
    whole, index = read_shard_set(tmp_path), tmp_path / "shards" / "train.index.npz"
    with np.load(index) as arrays:
        np.savez_compressed(index, **{key: arrays[key] for key in arrays.files if key != "digest"})
    assert read_shard_set(tmp_path) == whole
    index.write_bytes(ShardIndex.from_bytes(index.read_bytes(), "index").to_bytes())
    with np.load(index) as arrays:
        assert "digest" in arrays


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with checkpoints of steps 1, 2 and 3."""
    for step in (1, 2, 3):
        write_checkpoint(tmp_path / "run" / f"checkpoint-{step:09d}", step)
    return tmp_path / "run"


def flip(file: Path, at: int = -9) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_the_digests_are_those_of_all_files(run: Path) -> None:
    digests = json.loads((run / "checkpoint-000000001" / DIGESTS).read_text())
    assert set(digests) == {MODEL, STATE, CONFIG, RECORDS}


def test_of_a_run_whose_last_checkpoint_is_damaged_the_one_before_it_is_taken(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = read_weights(run / "checkpoint-000000002")
    flip(run / "checkpoint-000000003" / MODEL)
    with caplog.at_level(logging.WARNING), local_checkpoint(str(run), "--init-from") as chosen:
        assert all(torch.equal(value, expected[key]) for key, value in read_weights(chosen.folder).items())
    (line,) = caplog.messages
    assert "\n" not in line
    assert f"checkpoint {run}/checkpoint-000000003/{MODEL} is damaged" in line
    assert line.endswith(f"{run}/checkpoint-000000002 is used instead")
    for place in (run / "checkpoint-000000003", run):
        for step in (1, 2):
            if place == run:
                flip(run / f"checkpoint-{step:09d}" / MODEL)
        with local_checkpoint(str(place), "--init-from") as chosen, pytest.raises(DamagedCheckpoint, match=MODEL):
            read_weights(chosen.folder)


def resumed(run: Path, names: list[str]) -> Any:
    @contextmanager
    def at(name: str):
        yield run / name

    first, *others = names
    config = CONFIGURED
    earlier = {name: partial(at, name) for name in others}
    return prepare(config, Worker(), Node(), Exchange(), partial(at, first), earlier)


@pytest.mark.slow
def test_a_training_resumes_from_the_last_checkpoint_that_is_whole(run: Path) -> None:
    names = whole_checkpoints(fs.LocalFileSystem(), str(run))[::-1]
    assert names == ["checkpoint-000000003", "checkpoint-000000002", "checkpoint-000000001"]
    prepared = resumed(run, names)
    assert (prepared.state.step, prepared.passed_over) == (3, [])
    for step, file in ((3, STATE), (2, RECORDS)):
        flip(run / f"checkpoint-{step:09d}" / file)
        prepared = resumed(run, names)
        assert prepared.state.step == step - 1
        assert len(prepared.passed_over) == 4 - step
        line = prepared.passed_over[-1]
        assert f"checkpoint-{step:09d}/{file} is damaged" in line
        assert line.endswith(f"checkpoint-{step - 1:09d} is used instead")
    flip(run / "checkpoint-000000001" / CONFIG)
    with pytest.raises(TrainingError, match=r"checkpoint-000000001/config\.json is damaged"):
        resumed(run, names)


def test_a_new_checkpoint_does_not_take_the_name_of_a_damaged_one(run: Path) -> None:
    folder, name = RunFolder(str(run)), "checkpoint-000000003"
    assert unused_name(folder, "checkpoint-000000004") == "checkpoint-000000004"
    assert unused_name(folder, name) == name  # left by a worker that died before it reported the checkpoint
    flip(run / name / STATE)
    assert unused_name(folder, name) == f"{name}-again"
    with pytest.raises(DamagedCheckpoint, match=STATE):
        check_files(run / name)
