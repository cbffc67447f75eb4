"""The probes that `doctor` runs on each node of a Ray cluster. They only report facts; `cluster.verdicts` judges them.

This module is sent to the nodes by value, so it also runs on a node without the project, or with another version of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import random
import resource
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PACKAGES = "torch", "torchvision", "ray", "nvidia-dali-cuda130", "mlflow", "numpy", "pyarrow"
ROOMS = "vgg_dist", "pipelines"
READ_S = 3.0  # duration of the reading test
READ_THREADS = 8
IPC_LOCK = 14  # number of the Linux capability to lock any amount of memory
READ_BYTES = 8_000_000  # per request, of a large file


def inspect_node(folders: list[str]) -> dict[str, Any]:
    """The node's software, GPUs, NCCL settings, RDMA devices, shared memory, and free space on the disks of `folders`."""
    versions = {name: _version(name) for name in PACKAGES} | {"Python": platform.python_version(), "vgg_dist code": _code()}
    disks = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            disks[folder] = shutil.disk_usage(_existing(Path(folder)))._asdict()
    shm = shutil.disk_usage("/dev/shm")._asdict() if os.path.isdir("/dev/shm") else None
    here = {"host": socket.gethostname(), "machine": _machine(), "rdma": {"devices": _devices(), "memlock": _memlock()}}
    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith("NCCL_")}
    return here | {"versions": versions, "gpus": _gpus(), "nccl": settings, "shm": shm, "disks": disks}


def write_marker(storage_path: str, name: str) -> str | None:
    """Writes a small file `name` to the storage. Returns the error, or None."""
    try:
        from pipelines.paths import join
        from vgg_dist.storage import replace_file

        replace_file(join(storage_path, name), name.encode())
    except Exception as error:
        return _line(error)
    return None


def read_markers(storage_path: str, names: list[str]) -> dict[str, str | None]:
    """Reads these files back. Returns for each the error, or None."""

    def wrong(name: str) -> str | None:
        try:
            from pipelines.paths import join
            from vgg_dist.storage import read_file

            return None if read_file(join(storage_path, name)) == name.encode() else "does not exist there"
        except Exception as error:
            return _line(error)

    return {name: wrong(name) for name in names}


def remove_markers(storage_path: str, names: list[str]) -> None:
    """Removes these files."""
    from pipelines.paths import join
    from vgg_dist.storage import remove_file

    for name in names:
        with contextlib.suppress(Exception):
            remove_file(join(storage_path, name))


def read_data(location: str) -> dict[str, Any]:
    """The number of images, and the reading speed: of random images, or of shards that must be copied first. Or `error`."""
    try:
        from pipelines.stores.open import open_splits

        train, val = open_splits(location)
        order = random.Random(0).sample(range(len(train)), min(len(train), 4096))
        names = hashlib.sha256("\n".join(train.name(index) for index in order[:256]).encode()).hexdigest()
        to_fetch = train.to_fetch() | val.to_fetch()
        end = time.monotonic() + READ_S

        def read(index: int) -> int:
            return len(train.read(index)) if time.monotonic() < end else 0

        started = time.monotonic()
        with ThreadPoolExecutor(READ_THREADS) as threads:
            if to_fetch:
                sizes = list(threads.map(lambda url: _read_until(end, url, to_fetch[url]), to_fetch))
            else:
                sizes = [size for size in threads.map(read, order) if size]
        seconds = time.monotonic() - started
        uses = [use for store in (train, val) if (use := store.cache_use()) is not None]
        shards, capacity = sum(use.total for use in uses), uses[0].capacity if uses else 0
    except Exception as error:
        return {"error": _line(error)}
    counts = {"train": len(train), "val": len(val), "names": names, "shards": shards, "capacity": capacity}
    counts |= {"limit": uses[0].limit if uses else ""}
    counts |= {"to_fetch": sum(to_fetch.values()), "images_per_second": len(sizes) / seconds}
    return counts | {"bytes_per_second": sum(sizes) / seconds}


def _read_until(end: float, url: str, size: int) -> int:
    """Reads a file until the time `end`. Returns the number of bytes read."""
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(url)
    read = 0
    while read < size and time.monotonic() < end:
        read += len(filesystem.cat_file(path, start=read, end=min(read + READ_BYTES, size)))
    return read


def reach_mlflow(tracking_uri: str) -> str | None:
    """Connects to MLflow. Returns the error, or None."""
    try:
        from vgg_dist.tracking import check_store

        check_store(tracking_uri)
    except Exception as error:
        return _line(error)
    return None


def clock() -> float:
    """This node's clock: seconds since 1970."""
    return time.time()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _code() -> str:
    """A digest of the project's files, because two checkouts of the same version may differ."""
    digest = hashlib.sha256()
    for room in ROOMS:
        spec = importlib.util.find_spec(room)
        if spec is None or not spec.submodule_search_locations:
            return "missing"
        folder = Path(next(iter(spec.submodule_search_locations)))
        for file in sorted(folder.rglob("*.py")):
            digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:10]


def _gpus() -> list[dict[str, Any]]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, no GPU
        return []
    found = []
    for number in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        name, driver = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlSystemGetDriverVersion()
        found.append({"name": name, "driver": driver, "total": memory.total, "used": memory.used})
    return found


def _machine() -> str | None:
    """The kernel's boot id, the same in all containers of a machine. NCCL identifies a host by it and the host name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _devices() -> int:
    """Number of RDMA devices that a process on this node can use."""
    return len(list(Path("/dev/infiniband").glob("uverbs*")))


def _memlock() -> int | None:
    """Bytes that a process on this node may lock in memory, as RDMA buffers are; None: no limit."""
    status = Path("/proc/self/status").read_text() if os.path.exists("/proc/self/status") else ""
    capabilities = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)
    soft, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY or capabilities & 1 << IPC_LOCK else soft


def _existing(folder: Path) -> Path:
    """The folder itself, or its nearest parent that exists."""
    return folder if folder.exists() or folder == folder.parent else _existing(folder.parent)


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
