"""How a command ends by SIGINT (Ctrl-C), SIGTERM (schedulers, Kubernetes) or SIGHUP (a closed terminal).

With one line, with status 128 + signal, and in time. Where nothing is begun that has to be ended in order, a signal ends the
process at once. Within `raising` it raises `Stopped`; within `holding` it is noted, for the command to look at (`caught`).
After the first signal the process has STOP_S seconds; a second signal ends it at once.

A thread sees to this, which hears of a signal while the main thread is in C code for long, as in the import of torch. What
was ignored at the start (SIGHUP under nohup) stays ignored. A process that is no command (a worker, a test) is left alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

TAKEN = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
VARIABLE = "VGG_DIST_STOP_S"
STOP_S = 25.0  # less than the 30 s that Kubernetes and Slurm give
LAST_S = 3.0  # for the last act of a process that ends before its time
ONCE_S = 1.0  # signals that come closer are one: `timeout` sends its process and its group one each


class Stopped(SystemExit):
    """A command that a signal ends. Its code is the exit status."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class _Process:
    """What this process does about signals."""

    forks_noted = False

    def __init__(self) -> None:
        self.command = ""
        self.ending = ""
        self.mode = "exit"
        self.caught: int | None = None
        self.caught_at = 0.0
        self.raised = False
        self.told = False
        self.last_acts: list[Callable[[], None]] = []
        self.earlier: dict[signal.Signals, object] = {}

    def install(self, command: str) -> None:
        self.command = command
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for signum in TAKEN:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self.earlier[signum] = signal.signal(signum, self.handle)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        if not self.forks_noted:
            os.register_at_fork(after_in_child=self.uninstall)
            self.forks_noted = True
        threading.Thread(target=self.watch, args=(reader,), name="signals", daemon=True).start()

    def retake(self) -> None:
        """After a library that has taken the signals for itself, in Python or in C."""
        for signum in self.earlier:
            signal.signal(signum, self.handle)

    def uninstall(self) -> None:
        """In a forked child, and at the end of a command that is not the whole process."""
        if not self.earlier:
            return
        with contextlib.suppress(OSError):
            os.close(signal.set_wakeup_fd(-1))
        for signum, handler in self.earlier.items():
            signal.signal(signum, handler or signal.SIG_DFL)  # type: ignore[arg-type]
        self.__init__()  # type: ignore[misc]

    def handle(self, signum: int, frame: object) -> None:
        """In the main thread, once it is in Python."""
        if self.mode == "raise" and not self.raised:
            self.note(signum)
            self.raise_now()

    def raise_now(self) -> None:
        assert self.caught is not None
        self.raised = True
        raise Stopped(self.caught)

    def note(self, signum: int) -> None:
        if self.caught is None:
            self.caught_at, self.caught = time.monotonic(), signum

    def watch(self, reader: int) -> None:
        """In the thread: ends the process at once, or when its time is over."""
        while True:
            left = None if self.caught is None else max(0.0, self.caught_at + limit_s() - time.monotonic())
            if not select.select([reader], [], [], left)[0]:
                self.end_now()
            received = os.read(reader, 1)
            if not received:  # uninstalled
                os.close(reader)
                return
            if received[0] not in TAKEN:  # another library's
                continue
            again = self.caught is not None and time.monotonic() - self.caught_at > ONCE_S
            self.note(received[0])
            if again or self.mode == "exit":
                self.end_now()

    def end_now(self) -> None:
        acts = [threading.Thread(target=act, daemon=True) for act in self.last_acts]
        for act in acts:
            act.start()
        until = time.monotonic() + LAST_S
        for act in acts:
            act.join(max(0.0, until - time.monotonic()))
        assert self.caught is not None
        self.tell(self.ending)
        os._exit(128 + self.caught)

    def tell(self, how: str) -> None:
        if self.told or self.caught is None:
            return
        self.told = True
        line = f"{self.command}: stopped by {signal.Signals(self.caught).name}{how}\n"
        if os.isatty(2):  # which shows ^C, or a progress bar
            line = "\n" + line
        with contextlib.suppress(OSError):  # a terminal that is closed
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            os.write(2, line.encode())


_process = _Process()


def begin_command(package: str) -> None:
    """For a package's `__init__`: takes the signals if `python -m` is about to run one of its commands."""
    arguments = sys.orig_argv
    if sys.argv[:1] != ["-m"] or "-m" not in arguments or _process.earlier:  # argv begins so until the command is found
        return
    module = arguments[arguments.index("-m") + 1]
    if module.partition(".")[0] == package:
        _process.install(module)


@contextlib.contextmanager
def stoppable(command: str, ending: str = "", in_order: bool = True) -> Iterator[None]:
    """For a command's work: a signal ends it, in order or at once, with a line that ends as `end_with` says."""
    own = not _process.earlier and threading.current_thread() is threading.main_thread()
    if own:
        _process.install(command)
    _process.command = command
    end_with(ending)
    try:
        with _mode("raise") if in_order else contextlib.nullcontext():
            yield
    except Stopped as stopped:
        tell_and_exit(stopped, _process.ending)
    finally:
        if own:
            _process.uninstall()


def end_with(ending: str) -> None:
    """What follows "stopped by SIGTERM" in the line of a process that is ended at once, or whose time is over."""
    _process.ending = ending


@contextlib.contextmanager
def at_last(act: Callable[[], None]) -> Iterator[None]:
    """For the while, what such a process does before: in a thread, for LAST_S seconds at most."""
    _process.last_acts.append(act)
    try:
        yield
    finally:
        _process.last_acts.remove(act)


def retake() -> None:
    """After a library that has taken the signals for itself, in Python or in C."""
    if threading.current_thread() is threading.main_thread():
        _process.retake()


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """In it a signal, or one that was noted before, raises Stopped, once."""
    with _mode("raise"):
        if _process.caught is not None and not _process.raised:
            _process.raise_now()
        yield


@contextlib.contextmanager
def holding() -> Iterator[None]:
    """In it a signal is only noted."""
    with _mode("hold"):
        yield


@contextlib.contextmanager
def _mode(mode: str) -> Iterator[None]:
    before, _process.mode = _process.mode, mode
    try:
        yield
    finally:
        _process.mode = before if _process.caught is None else "hold"  # what is left is the way out


def caught() -> int | None:
    """The signal that came, if any."""
    return _process.caught


def name_of(signum: int) -> str:
    """As people know it."""
    return signal.Signals(signum).name


def left_s() -> float:
    """For how many seconds this process may go on."""
    return limit_s() - (time.monotonic() - _process.caught_at if _process.caught is not None else 0.0)


def limit_s() -> float:
    """For how many seconds a process may go on after a signal: VGG_DIST_STOP_S, or what does for most."""
    try:
        return max(0.0, float(os.environ[VARIABLE]))
    except (KeyError, ValueError):
        return STOP_S


def say(line: str) -> None:
    """Prints a line, if there is still a terminal."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


def tell_and_exit(stopped: Stopped, how: str) -> None:
    """Ends the process with "COMMAND: stopped by SIGNAL" and `how`, leaving out what Python does at its end.

    With threads that wait in C++ that may abort with a page of stack trace.
    """
    _process.caught = stopped.signum
    _process.tell(how)
    os._exit(128 + stopped.signum)
