"""Real processes and real signals: one line, the status, what is kept; from the first imports to the last checkpoint."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from conftest import driver
from support.paths import ROOT

SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class Command:
    """A process of its own session, as in a terminal, and what it has written so far."""

    def __init__(
        self, arguments: Sequence[str], log: Path, env: dict[str, str] | None = None, before: Sequence[str] = ()
    ) -> None:
        self.log = log
        self.file = log.open("w")
        self.process = subprocess.Popen(
            [*before, sys.executable, *arguments],
            stdout=self.file,
            stderr=self.file,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (env or {}),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def await_line(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + 900
        while not (found := re.search(pattern, self.output)):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)
        return found

    def send(self, signum: int, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.process.pid, signum)

    def wait(self) -> int:
        return self.process.wait(timeout=900)

    def ended(self, signum: int) -> str:
        """Waits for its end, which has to be in order; returns the last line."""
        status = self.wait()
        assert status == 128 + signum, self.output
        for word in ("Traceback", "*** SIG", "PC: @"):
            assert word not in self.output, self.output
        last = self.output.splitlines()[-1]
        assert f": stopped by {signal.Signals(signum).name}" in last
        assert self.output.count("stopped by") == 1
        return last


Start = Callable[..., Command]


@pytest.fixture(autouse=True)
def no_signal_is_ignored() -> Iterator[None]:
    """Commands inherit what tests ignore: SIGHUP under nohup, SIGINT in the background of a script."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    for signum, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    commands: list[Command] = []

    def start(*arguments: str, env: dict[str, str] | None = None, before: Sequence[str] = ()) -> Command:
        commands.append(Command(arguments, tmp_path / f"log{len(commands)}", env, before))
        return commands[-1]

    yield start
    for command in commands:
        command.process.kill()
        command.process.wait()
        command.file.close()


# In the first imports.

MODULES = "vgg_dist.train", "vgg_dist.tune", "vgg_dist.benchmark", "pipelines.prepare", "cluster"


@pytest.fixture
def stuck(tmp_path: Path) -> dict[str, str]:
    """An environment in which commands do not get beyond the import of tyro, their first."""
    (tmp_path / "tyro.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(100)")
    return {"PYTHONPATH": f"{tmp_path}:{ROOT}"}


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_a_signal_in_the_first_imports_is_one_line(signum: int, start: Start, stuck: dict[str, str]) -> None:
    commands = [start("-m", module, env=stuck) for module in MODULES]
    for module, command in zip(MODULES, commands, strict=True):
        command.await_line("importing")
        command.send(signum)
        command.ended(signum)
        assert command.output == f"importing\n{module}: stopped by {signal.Signals(signum).name}\n"


def test_what_nohup_ignores_stays_ignored(start: Start, stuck: dict[str, str]) -> None:
    command = start("-m", "vgg_dist.train", env=stuck, before=["nohup"])
    command.await_line("importing")
    command.send(signal.SIGHUP)
    command.send(signal.SIGTERM)
    command.ended(signal.SIGTERM)


# While there is something to end in order.

WORK = """
import os, sys, time
from pipelines import signals

def last_act():
    print("last act", flush=True)

def work():
    print("at work", flush=True)
    if sys.argv[1] == "returns":
        while not signals.caught():
            time.sleep(0.01)
        time.sleep(0.3)
        return
    time.sleep(100)

with signals.stoppable("work", "; no more time", in_order=False):
    try:
        with signals.holding(), signals.at_last(last_act):
            if sys.argv[1] == "raises":
                with signals.raising():
                    work()
            while True:
                work()
                with signals.raising():
                    pass
    except signals.Stopped:
        print("ends in order", flush=True)
        signals.end_with("; in order")
        raise
"""


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_what_is_begun_ends_in_order_in_time_or_at_once(signum: int, start: Start) -> None:
    name = signal.Signals(signum).name
    in_order = f"at work\nends in order\nwork: stopped by {name}; in order\n"
    over = f"at work\nlast act\nwork: stopped by {name}; no more time\n"
    commands = {
        "returns": (start("-c", WORK, "returns"), in_order),
        "twice": (start("-c", WORK, "returns"), in_order),  # as `timeout` does
        "raises": (start("-c", WORK, "raises"), in_order),
        "late": (start("-c", WORK, "stays", env={"VGG_DIST_STOP_S": "0.5"}), over),
        "again": (start("-c", WORK, "stays"), over),
    }
    for case, (command, _) in commands.items():
        command.await_line("at work")
        command.send(signum)
        if case == "twice":
            command.send(signum)
    time.sleep(1.1)
    commands["again"][0].send(signum)
    for command, output in commands.values():
        command.ended(signum)
        assert command.output == output


def test_a_forked_child_ends_by_itself(start: Start) -> None:
    """Not its parent, whose handler it has inherited."""
    code = """
import os, signal, time
from pipelines import signals
with signals.stoppable("work"):
    child = os.fork()
    if not child:
        time.sleep(100)
    time.sleep(0.1)
    os.kill(child, signal.SIGTERM)
    print(os.waitpid(child, 0)[1], flush=True)
"""
    command = start("-W", "ignore", "-c", code)  # Python 3.12 warns of a fork beside threads
    assert command.wait() == 0
    assert command.output == "15\n"


# A training, a search.

FLAGS = """
    --arch lenet5 --data synthetic:train=1600,val=4000,size=40 --global-batch 8 --micro-batch 8 --precision fp32
    --log-every 1 --loader-threads 1 --epochs 20
""".split()  # noqa: SIM905


def query(storage: Path, sql: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(storage / "mlflow.db") as database:
        return database.execute(sql).fetchall()


def steps(storage: Path, name: str, metric: str) -> list[int]:
    sql = f"select step from metrics join runs using (run_uuid) where name = '{name}' and key = '{metric}' order by step"
    return [step for (step,) in query(storage, sql)]  # type: ignore[misc]


def stop_in_a_step(command: Command, signum: int, storage: Path) -> int:
    """Sends a signal to the whole process group of the run `first`; the step that it stopped at."""
    command.await_line(r"step +\d+ ")
    command.send(signum, group=True)
    last = command.ended(signum)
    stopped = int(re.search(r"at step (\d+), checkpoint written; the same command with --name first resumes it", last)[1])  # type: ignore[index]
    check_stopped(storage, stopped)
    return stopped


def stop_in_a_validation(command: Command, resumed: int, storage: Path) -> None:
    """The run `first` resumes, and is told to stop while it validates."""
    command.await_line(rf"resumes from step {resumed} \(epoch ")
    validated = int(command.await_line(r"step +(\d+)  validation")[1])
    command.send(signal.SIGTERM)
    stopped = int(re.search(r"at step (\d+), checkpoint written", command.ended(signal.SIGTERM))[1])  # type: ignore[index]
    assert stopped >= validated > 0
    check_stopped(storage, stopped)


def check_stopped(storage: Path, stopped: int) -> None:
    """MLflow has each step of the run `first` once, and that it was killed; its checkpoint is there."""
    assert steps(storage, "first", "train/loss") == list(range(1, stopped + 1))
    assert query(storage, "select name, status from runs") == [("first", "KILLED")]
    assert (storage / "first" / f"checkpoint-{stopped:09}" / "config.json").exists()


@pytest.mark.slow
def test_a_training_in_the_commands_process_told_to_stop(start: Start, tmp_path: Path) -> None:
    """Before it trains; in a step, with the whole process group; and in a validation."""
    flags = ["-m", "vgg_dist.train", *FLAGS, "--lr", "0.001", "--storage-path", str(tmp_path), "--name", "first"]
    env = {"RAY_ADDRESS": "local"}
    early = start(*flags, env=env)
    early.await_line("vgg_dist.train: starting")
    early.send(signal.SIGTERM)
    assert early.ended(signal.SIGTERM).endswith(" before it trained; the same command with --name first resumes it")
    stopped = stop_in_a_step(start(*flags, env=env), signal.SIGINT, tmp_path)
    stop_in_a_validation(start(*flags, env=env), stopped, tmp_path)


@pytest.mark.ray
@pytest.mark.slow
def test_a_training_told_to_stop_saves_what_it_has_trained(cluster: dict[str, str], start: Start, tmp_path: Path) -> None:
    """First on a Ray of its own, by a signal to the whole process group in a step; then on a cluster, in a validation."""
    flags = ["-m", "vgg_dist.train", *FLAGS, "--lr", "0.001", "--storage-path", str(tmp_path), "--name", "first"]
    flags += ["--num-workers", "2"]
    stopped = stop_in_a_step(start(*flags), signal.SIGHUP, tmp_path)
    stop_in_a_validation(start(*flags, env=driver(cluster)), stopped, tmp_path)


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_told_to_stop_stops_its_trials(cluster: dict[str, str], start: Start, tmp_path: Path) -> None:
    flags = [*FLAGS, "--search", "grid", "--search-lr", "0.001", "0.002", "0.003", "--max-concurrent-trials", "2"]
    flags += ["--storage-path", str(tmp_path), "--name", "search"]
    search = start("-m", "vgg_dist.tune", *flags, env=driver(cluster))
    search.await_line(r"trial .*: epoch 1/")
    search.send(signal.SIGINT)
    assert "the same command with --name search resumes it" in search.ended(signal.SIGINT)
    statuses = query(tmp_path, "select status from runs")
    assert len(statuses) in (2, 3)  # the search and its trials that had begun
    assert set(statuses) == {("KILLED",)}
    assert list(tmp_path.glob("search/*/checkpoint-*"))
