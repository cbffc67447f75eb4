"""Files and folders of runs are whole or not there: killed, refused, on a full disk, locally and on an object store."""

from __future__ import annotations

import pickle
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow import fs
from support.mlflow_server import wait_for
from support.paths import SUPPORT

from vgg_dist.storage import list_folder, local_files, local_folder, open_storage, write_folder

MARK = "config.json"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes fails, as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def writer(content: bytes):
    def write(folder: Path) -> None:
        (folder / "big").write_bytes(content)
        (folder / MARK).write_text("{}")

    return write


@pytest.mark.parametrize("kind", ["local", "object store"])
def test_a_folder_is_written_replaced_and_read_back(tmp_path: Path, kind: str) -> None:
    # A SubTreeFileSystem has no local paths, so it is treated as an object store.
    filesystem = fs.LocalFileSystem() if kind == "local" else fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    path = f"{tmp_path}/run/c1" if kind == "local" else "run/c1"
    write_folder(filesystem, path, writer(b"first"), MARK)
    write_folder(filesystem, path, writer(b"second"), MARK)
    assert list_folder(f"{tmp_path}/run/c1") == ["big", MARK]
    assert list_folder(f"{tmp_path}/run") == ["c1"]
    with local_folder(f"{tmp_path}/run/c1") as folder:
        assert (folder / "big").read_bytes() == b"second"


def test_a_full_disk_leaves_the_earlier_folder_and_no_half_of_a_new_one(tmp_path: Path) -> None:
    write_folder(fs.LocalFileSystem(), f"{tmp_path}/c1", writer(b"whole"), MARK)
    for name in ("c1", "c2"):
        with largest_file(1000), pytest.raises(OSError, match="MB are free there"):
            write_folder(fs.LocalFileSystem(), f"{tmp_path}/{name}", writer(b"x" * 2000), MARK)
    assert list_folder(str(tmp_path)) == ["c1"]
    assert (tmp_path / "c1" / "big").read_bytes() == b"whole"


KILLED = """
import os, sys
from pyarrow import fs
from vgg_dist.storage import write_folder
def write(folder):
    (folder / "big").write_bytes(b"half")
    os._exit(3)
write_folder(fs.LocalFileSystem(), sys.argv[1], write, "config.json")
"""


def test_what_a_killed_writer_left_goes_with_the_next_folder(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path / "c1"], check=False).returncode == 3
    assert list_folder(str(tmp_path)) == [".unfinished"]
    write_folder(fs.LocalFileSystem(), f"{tmp_path}/c2", writer(b"whole"), MARK)
    assert list_folder(str(tmp_path)) == ["c2"]
    assert list_folder(f"{tmp_path}/c2") == ["big", MARK]


@pytest.mark.slow
def test_an_object_store_that_refuses_for_seconds_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    down, log = tmp_path / "down", tmp_path / "log"
    server = SUPPORT / "s3_server.py"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, server, "127.0.0.1", str(port), down], stdout=output, stderr=output)
    try:
        wait_for(lambda: b"Running on" in log.read_bytes() or process.poll() is not None)
        filesystem, path = open_storage("s3://bucket/run?region=us-east-1&allow_bucket_creation=true")
        filesystem.create_dir("bucket")
        down.touch()
        threading.Timer(8, down.unlink).start()
        # As Ray passes it on to its workers.
        write_folder(pickle.loads(pickle.dumps(filesystem)), path, writer(b"patient"), MARK)
        assert not down.exists()
        assert log.read_text().count("refused") >= 4
        assert list_folder("s3://bucket/run?region=us-east-1") == ["big", MARK]
    finally:
        process.kill()
        process.wait()


def test_each_reader_of_a_remote_folder_has_a_copy_of_its_own(tmp_path: Path) -> None:
    """One that comes later must not write files anew that another is reading."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.pt").write_bytes(bytes(1000))
    remote = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())  # any that is not the local one
    with local_files(remote, "run") as first:
        before = (first / "state.pt").stat()
        with local_files(remote, "run") as second:
            assert first != second
            assert (second / "state.pt").read_bytes() == bytes(1000)
        after = (first / "state.pt").stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert not first.exists()
    assert not second.exists()
