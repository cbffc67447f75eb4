"""What is refused before Ray is started and torch is imported: one line, and nothing is changed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Outcome
from support.begun_runs import CLASSES, begun, trained
from support.paths import ROOT
from support.trees import snapshot

from vgg_dist.config import TrainConfig, TuneConfig
from vgg_dist.run_folder.names import checkpoint_name
from vgg_dist.run_folder.settings import SEARCH, keep_settings

SCRIPT = """
import sys
from vgg_dist import {command}
sys.argv = ["vgg_dist.{command}", *sys.argv[1:]]
try:
    {command}.main()
finally:
    heavy = [name for name in ("torch", "ray.train", "ray.tune", "mlflow") if name in sys.modules]
    print("imported:", *heavy)
"""


@pytest.fixture
def listening() -> Iterator[int]:
    """A port on which something listens that says nothing."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield silent.getsockname()[1]


def checkpoint(storage: Path) -> Path:
    """One of a run named first."""
    config = begun(storage)
    folder = storage / "first" / checkpoint_name(2)
    folder.mkdir(parents=True)
    trained(config).save(folder, config, CLASSES)
    return folder


def refused(command: str, *flags: object, **environment: str) -> str:
    """The line of a command that is refused, without the command's name."""
    env = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(command=command), *map(str, flags)],
        env=env | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout.splitlines()[-1] == "imported:", done.stdout
    start = f"vgg_dist.{command}: "
    assert done.stderr.startswith(start)
    return done.stderr.removeprefix(start)


@pytest.mark.parametrize("command", ["train", "tune", "reproduce", "evaluate"])
def test_every_command_refuses_what_it_can_before_it_starts_anything(
    command: str, tmp_path: Path, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mistake that is mended shows the next. The last one in a process of its own, for what has been imported then."""
    storage, file = tmp_path / "runs", tmp_path / "file"
    file.write_text("not a folder")
    net = checkpoint(tmp_path)
    before = snapshot(tmp_path)
    nets = [net] if command == "evaluate" else []
    refuses = ["--num-workers", 99], ["--tracking-uri", "http://127.0.0.1:9"]
    for place, mistakes, words in (
        (file / "runs", refuses, f"--storage-path {file}/runs: cannot be written: "),
        (storage, refuses, "--num-workers 99: the cluster has room for "),
        (storage, refuses[1:], "--tracking-uri http://127.0.0.1:9: [Errno 111] Connection refused"),
    ):
        done = call(f"vgg_dist.{command}", *nets, "--storage-path", place, *(flag for pair in mistakes for flag in pair))
        assert (done.status, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith(f"vgg_dist.{command}: {words}")
    line = refused(command, *nets, "--storage-path", storage, "--tracking-uri", "http://127.0.0.1:9")
    assert line.endswith("Connection refused\n")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    done = call(f"vgg_dist.{command}", *nets, "--storage-path", storage)
    assert done.stderr == f"vgg_dist.{command}: RAY_ADDRESS 127.0.0.1:9: nothing answers (Connection refused)\n"
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tracking-uri", "ftp://host"], "--tracking-uri ftp://host: must be http://HOST:PORT, https://HOST or sqlite"),
        (["--tracking-uri", "http://host:port"], "--tracking-uri http://host:port: must be http://HOST:PORT"),
        (["--tracking-uri", "http://host:0"], "--tracking-uri http://host:0: must be http://HOST:PORT"),
        (["--tracking-uri", "http://nowhere.invalid"], "--tracking-uri http://nowhere.invalid: [Errno -"),
        (["--tracking-uri", "sqlite:///{}/file"], "--tracking-uri sqlite:///{}/file: file is not a database"),
        (["--tracking-uri", "sqlite:///{}/file/db"], "--tracking-uri sqlite:///{}/file/db: [Errno 20]"),
        (["--init-from", "{}/nowhere"], "--init-from {}/nowhere: does not exist; expected a run's folder or a checkpoint"),
        (["--init-from", "{}/file"], "--init-from {}/file: "),
        (["--data", "{}/nowhere"], "nowhere"),
    ],
)  # fmt: skip
def test_a_mistaken_training_is_one_line(flags: list[str], words: str, tmp_path: Path, call: Callable[..., Outcome]) -> None:
    (tmp_path / "file").write_text("no database, no checkpoint")
    before = snapshot(tmp_path)
    done = call("vgg_dist.train", "--storage-path", tmp_path / "runs", *(flag.format(tmp_path) for flag in flags))
    assert (done.status, done.stderr.count("\n")) == (2, 1)
    assert words.format(tmp_path) in done.stderr
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("flag", ["--data", "--labels", "--devkit", "--class-names"])
def test_an_evaluation_without_a_file_that_it_needs_is_one_line(
    flag: str, tmp_path: Path, call: Callable[..., Outcome]
) -> None:
    net = checkpoint(tmp_path)
    done = call("vgg_dist.evaluate", net, flag, tmp_path / "nowhere", "--storage-path", tmp_path / "runs")
    assert (done.status, done.stderr) == (2, f"vgg_dist.evaluate: {flag} {tmp_path}/nowhere: does not exist\n")


def test_a_name_that_is_taken_is_refused_before_anything_is_imported(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    keep_settings(str(tmp_path / "s"), TuneConfig(name="s", storage_path=str(tmp_path)).resolved(), SEARCH)
    before = snapshot(tmp_path)
    assert "--arch lenet5, not A" in refused("train", "--storage-path", tmp_path, "--name", "first", "--arch", "A")
    line = refused("tune", "--storage-path", tmp_path, "--name", "s", "--epochs", 3)
    assert line.startswith("--name s: is a search with epochs 74, not 3; ")
    assert snapshot(tmp_path) == before


FORMS = {
    "ray://127.0.0.1:10001": "is for Ray Client, through which Ray Train cannot run; give HOST:PORT of the cluster's head",
    "http://127.0.0.1:8265": "is the job server; use `ray job submit` with it, or give HOST:PORT",
    "127.0.0.1": "is not an address; give HOST:PORT of the cluster's head, such as 10.0.0.1:6379, auto, or local",
    "head:": "is not an address", ":6379": "is not an address", "127.0.0.1:99999": "is not an address",
    "127.0.0.1:0": "is not an address",
    "redis://head:6379": "is not an address", "a b:6379": "is not an address",
    "nowhere.invalid:6379": "nothing answers (",
    "127.0.0.1:9": "nothing answers (Connection refused)",
    "[::1]:9": "nothing answers (",
    f"{'x' * 80}:6379": "nothing answers (",
    "auto": "no cluster was started on this machine by `ray start`; ",
}  # fmt: skip


@pytest.mark.parametrize("address", FORMS)
def test_an_address_at_which_no_cluster_can_be_is_one_line(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vgg_dist.ray_cluster.address import cluster_named, find_cluster

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster_named()
    with pytest.raises(ValueError, match=r"^RAY_ADDRESS ") as caught:
        find_cluster()
    assert str(caught.value).startswith(f"RAY_ADDRESS {address}: {FORMS[address]}")
    assert str(caught.value).isprintable()


def test_what_is_no_cluster_though_it_listens_is_told_from_one(
    listening: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    from vgg_dist.ray_cluster import address as cluster_address

    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    monkeypatch.setattr(cluster_address, "ANSWER_S", 1.0)
    with HTTPServer(("127.0.0.1", 0), Quiet) as web:
        Thread(target=web.serve_forever).start()
        why = cluster_address.no_answer(f"127.0.0.1:{web.server_port}")
        web.shutdown()
    assert why
    assert why.startswith("what answers there is not the head of a Ray cluster")
    why = cluster_address.no_answer(f"127.0.0.1:{listening}")
    assert why
    assert why.startswith("it takes connections, but answers no request of Ray's for 1 s")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # and there is none: that is told of a real cluster, by Ray
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nowhere"))
    assert cluster_address.no_answer(f"127.0.0.1:{listening}") == why
    monkeypatch.setenv("RAY_USE_TLS", "1")
    assert "its certificates cannot be used (" in str(cluster_address.no_answer(f"127.0.0.1:{listening}"))
    # What `ray start` leaves when it is killed.
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:9\n")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    for named, shown in (("auto", "auto, 127.0.0.1:9"), ("", "127.0.0.1:9"), (" ", "127.0.0.1:9")):
        monkeypatch.setenv("RAY_ADDRESS", named)
        with pytest.raises(ValueError, match="nothing answers") as caught:
            cluster_address.find_cluster()
        assert str(caught.value).startswith(f"RAY_ADDRESS {shown}: nothing answers (Connection refused); that is where")
        assert cluster_address.cluster_named() == (named == "auto")
    monkeypatch.setenv("RAY_ADDRESS", "local")  # Ray is started here, whatever was left
    assert cluster_address.find_cluster() is None
    assert not cluster_address.cluster_named()


def test_no_more_workers_than_ray_will_find_here(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray._private.utils import get_num_cpus

    from vgg_dist.ray_cluster import nodes

    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.delenv("VGG_DIST_GPUS", raising=False)
    assert not ray.is_initialized()
    here = nodes._this_machine()
    assert here["CPU"] == get_num_cpus()
    room = int(min(here["CPU"], here["GPU"] or here["CPU"]))
    nodes.check_cluster(room)
    nodes.check_cluster(None)
    with pytest.raises(ValueError, match=f"^--num-workers {room + 1}: the cluster has room for {room} workers "):
        nodes.check_cluster(room + 1)


def test_the_usual_settings_pass(tmp_path: Path) -> None:
    from vgg_dist.preflight import check_training

    assert check_training(TrainConfig(name="new", storage_path=str(tmp_path / "runs")).resolved()) is None
    assert not list(tmp_path.iterdir())
