"""Fixtures shared by all tests: where the real images are, and which hardware is here."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.ilsvrc import write_ilsvrc
from support.jpegs import jpeg, pixels, saved
from support.paths import ROOT, SHARED
from support.trees import make_tree, picture

from pipelines.preparation.shard_writer import write_shards
from pipelines.stores.open import open_store

# Test-sized work on many threads is slower, and results should not depend on the machine's core count.
torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def ilsvrc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ILSVRC-2012's archives, in small."""
    folder = tmp_path_factory.mktemp("ilsvrc")
    write_ilsvrc(folder)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real test images (tars); skips where it is absent."""
    folder = Path(os.environ.get("VGG_DIST_TEST_DATA", SHARED / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} does not exist (set VGG_DIST_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def cifar_template(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 CIFAR-10 test images as train and 100 as val, as a tree `cifar` and in small `shards`."""
    root = tmp_path_factory.mktemp("cifar")
    with tarfile.open(real_data / "cifar10-test.tar") as tar:
        for member in tar:
            name = re.fullmatch(r"\./(\w+/00([0-3])\d\.jpg)", member.name)
            if name:
                split = "val" if name[2] == "3" else "train"
                make_tree(root, {f"cifar/{split}/{name[1]}": tar.extractfile(member).read()})  # type: ignore[union-attr]
    for split in ("train", "val"):
        store = open_store(str(root / "cifar"), split)
        write_shards(store, split, root / "shards", shard_bytes=40_000, seed=3)
    return root


@pytest.fixture
def cifar_shards(cifar_template: Path, tmp_path: Path) -> Path:
    """The folder `shards` of a copy of `cifar_template` that a test may spoil."""
    shutil.copytree(cifar_template, tmp_path, dirs_exist_ok=True)
    return tmp_path / "shards"


@pytest.fixture(scope="session")
def kinds_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes with images of many kinds: sampling, progressive coding, grey, CMYK, PNG, small, strips, metadata."""
    picture = Image.fromarray(pixels(240, 320))
    kinds = {
        "a/420.jpg": jpeg(375, 500, "-sample", "2x2"),
        "a/444.jpg": jpeg(333, 500, "-sample", "1x1", seed=1),
        "a/422.jpg": jpeg(301, 404, "-sample", "2x1", seed=2),
        "a/440.jpg": jpeg(404, 301, "-sample", "1x2", seed=3),
        "a/progressive.jpg": jpeg(400, 600, "-progressive", seed=4),
        "a/grey.jpg": jpeg(300, 400, "-grayscale", seed=5),
        "a/rgb.jpg": jpeg(300, 400, "-rgb", seed=6),
        "b/cmyk.jpg": saved(picture.convert("CMYK"), "JPEG"),
        "b/png.png": saved(picture, "PNG"),
        "b/small.jpg": saved(picture.resize((127, 128)), "JPEG"),
        "b/strip.jpg": jpeg(90, 2000, seed=7),
        "b/large.jpg": jpeg(1500, 2000, seed=8),
        "b/tall.jpg": jpeg(700, 131, "-sample", "2x2", seed=9),
    }
    files = {f"{split}/{name}": data for split in ("train", "val") for name, data in kinds.items()}
    return make_tree(tmp_path_factory.mktemp("kinds"), files)


@pytest.fixture(scope="session")
def kinds_shards(kinds_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    for split in ("train", "val"):
        write_shards(open_store(str(kinds_tree), split), split, out, shard_bytes=200_000, seed=0, jpegtran="jpegtran")
    return out


@pytest.fixture(scope="session")
def imagenet_samples(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The 500 ImageNet photographs, unpacked, in name order."""
    folder = tmp_path_factory.mktemp("imagenet-samples")
    with tarfile.open(real_data / "imagenet-samples.tar") as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not before Python 3.11.4
        tar.extractall(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="session")
def small_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of JPEGs and PNGs, with names that are hard on tar readers."""
    files = {
        f"train/{c}/{i}.JPEG": picture(100 * len(c) + i + 50 * (c == "dog"))
        for c in ("cat", "dog", "hot dog")
        for i in range(20)
    }
    files |= {
        "train/cat/a.b.c.jpg": picture(1),
        "train/cat/a_b_c.jpg": picture(2),
        "train/cat/a b c.png": picture(3, "PNG"),
    }
    files |= {"train/dog/1.png": picture(4, "PNG"), f"train/dog/{'x' * 200}.jpg": picture(5)}
    files |= {"train/dog/ünï.jpg": picture(6), "train/dog/deeper/1.JPEG": picture(7)}
    files |= {f"val/{c}/{i}.jpg": picture(1000 * len(c) + i) for c in ("cat", "hot dog") for i in range(3)}
    return make_tree(tmp_path_factory.mktemp("small"), files)


@pytest.fixture(scope="session")
def small_shards(small_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    for split in ("train", "val"):
        write_shards(open_store(str(small_tree), split), split, out, shard_bytes=30_000, seed=0)
    return out


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 server with an empty bucket named `bucket`, for pyarrow and fsspec; fsspec's filesystem on it."""
    s3fs = pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(key, "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        # moto keeps its buckets from server to server.
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
        s3fs.S3FileSystem.clear_instance_cache()  # an earlier test's is of an earlier server
        filesystem = s3fs.S3FileSystem()
        filesystem.mkdir("bucket")
        yield filesystem
    finally:
        server.stop()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """`ray start --head` with token authentication, three CPUs wide; yields what a client of it has in its environment."""
    ray = str(Path(sys.executable).with_name("ray"))
    folder = Path(tmp_path_factory.mktemp("ray"))
    temporary = Path(f"/tmp/vgg{os.getpid()}")  # short: Ray's sockets lie in there
    env = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_ADDRESS": "http://127.0.0.1:8299",
        "VGG_DIST_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    start = [
        ray,
        "start",
        "--head",
        "--port",
        "6399",
        "--dashboard-port",
        "8299",
        "--dashboard-agent-listen-port",
        "52399",
        "--num-cpus",
        "3",
        "--num-gpus",
        "0",
    ]
    start += ["--temp-dir", str(temporary), "--disable-usage-stats"]
    bare = {key: value for key, value in (os.environ | env).items() if key != "RAY_ADDRESS"}
    try:
        subprocess.run(start, env=bare, check=True, capture_output=True, timeout=180)
        yield env
    finally:
        # Not `ray stop`, which would end every Ray of this machine. Workers go with their node.
        subprocess.run(["pkill", "-KILL", "-f", f"{temporary}/"], check=False)
        subprocess.run(["rm", "-rf", str(temporary)], check=False)


def driver(cluster: dict[str, str]) -> dict[str, str]:
    """The environment of a training started beside the cluster rather than as a job."""
    return cluster | {"RAY_ADDRESS": "127.0.0.1:6399"}


def kill_once(command: list[str], condition: Callable[[], object], log: Path, env: dict[str, str]) -> None:
    """Starts a command, and SIGKILLs it as soon as the condition holds."""
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, env=os.environ | env) as process,
    ):
        deadline = time.monotonic() + 900
        while not condition():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.kill()


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit status and what it wrote."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Calls a command, such as "vgg_dist.train", in this process: a process of its own takes seconds to start."""

    def call(module: str, *flags: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", [module, *map(str, flags)])
        capfd.readouterr()
        status = 0
        try:
            importlib.import_module(module).main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        written = capfd.readouterr()
        return Outcome(status, written.out, written.err)

    return call


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("ray") and not item.get_closest_marker("xdist_group"):  # one cluster for all of them
            item.add_marker(pytest.mark.xdist_group("ray"))
    # With pytest-xdist a process each for the two long groups from the start; pods need the machine when it is less busy.
    order = {"hosts": 0, "ray": 1, None: 2, "pods": 3}
    items.sort(key=lambda item: order[next((mark.args[0] for mark in item.iter_markers("xdist_group")), None)])


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
