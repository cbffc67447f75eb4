"""How a command ends on SIGINT (Ctrl-C), SIGTERM (schedulers, Kubernetes) or SIGHUP (a closed terminal).

It prints one line and exits with status 128 + signal, in time. There are three modes:

- exit, the default: nothing needs cleaning up, and a signal ends the process at once;
- `raising`: a signal raises `Stopped` in the main thread;
- `holding`: a signal is only noted, and the command polls `caught`.

After the first signal the process has STOP_S seconds; a second signal ends it at once.

A thread does this, because it receives a signal even while the main thread is in C code for long, as in the import of torch.
A signal that was ignored at the start (SIGHUP under nohup) stays ignored. Processes that are not commands (workers, tests)
are left alone.
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
LAST_S = 3.0  # for the last acts (`at_last`) of a process that is ended at once
ONCE_S = 1.0  # signals closer together count as one: `timeout` sends one to its process and one to the group


class Stopped(SystemExit):
    """Ends a command that received a signal. Its code is the exit status, 128 + signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class _Process:
    """The signal handling of this process."""

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
        """Installs the handlers again, after a library has replaced them, in Python or in C."""
        for signum in self.earlier:
            signal.signal(signum, self.handle)

    def uninstall(self) -> None:
        """In a forked child, and at the end of a command that ran inside another program, such as a test."""
        if not self.earlier:
            return
        with contextlib.suppress(OSError):
            os.close(signal.set_wakeup_fd(-1))
        for signum, handler in self.earlier.items():
            signal.signal(signum, handler or signal.SIG_DFL)  # type: ignore[arg-type]
        self.__init__()  # type: ignore[misc]

    def handle(self, signum: int, frame: object) -> None:
        """Python's handler, in the main thread, once that is out of C code."""
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
        """In the thread: ends the process, at once or when its time is over."""
        while True:
            left = None if self.caught is None else max(0.0, self.caught_at + limit_s() - time.monotonic())
            if not select.select([reader], [], [], left)[0]:
                self.end_now()
            received = os.read(reader, 1)
            if not received:  # the pipe was closed by `uninstall`
                os.close(reader)
                return
            if received[0] not in TAKEN:  # a signal of another library
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
        if os.isatty(2):  # where ^C or a progress bar may be on the current line
            line = "\n" + line
        with contextlib.suppress(OSError):  # the terminal may be closed
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            os.write(2, line.encode())


_process = _Process()


def begin_command(package: str) -> None:
    """For a package's `__init__`: installs the handlers if `python -m` is about to run one of the package's commands."""
    arguments = sys.orig_argv
    if sys.argv[:1] != ["-m"] or "-m" not in arguments or _process.earlier:  # argv[0] is "-m" until the module is found
        return
    module = arguments[arguments.index("-m") + 1]
    if module.partition(".")[0] == package:
        _process.install(module)


@contextlib.contextmanager
def stoppable(command: str, ending: str = "", in_order: bool = True) -> Iterator[None]:
    """Around a command's work: a signal raises `Stopped` (`in_order`) or ends it at once; the line ends with `ending`."""
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
    """Sets what follows "stopped by SIGTERM" in the line of a process that is ended at once, or whose time is over."""
    _process.ending = ending


@contextlib.contextmanager
def at_last(act: Callable[[], None]) -> Iterator[None]:
    """Within it, a process that is ended at once first calls `act`, in a thread, for LAST_S seconds at most."""
    _process.last_acts.append(act)
    try:
        yield
    finally:
        _process.last_acts.remove(act)


def retake() -> None:
    """Installs the handlers again, after a library has replaced them, in Python or in C."""
    if threading.current_thread() is threading.main_thread():
        _process.retake()


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Within it a signal raises Stopped, once; so does one that was noted before."""
    with _mode("raise"):
        if _process.caught is not None and not _process.raised:
            _process.raise_now()
        yield


@contextlib.contextmanager
def holding() -> Iterator[None]:
    """Within it a signal is only noted; see `caught`."""
    with _mode("hold"):
        yield


@contextlib.contextmanager
def _mode(mode: str) -> Iterator[None]:
    before, _process.mode = _process.mode, mode
    try:
        yield
    finally:
        _process.mode = before if _process.caught is None else "hold"  # after a signal, only the way out is left


def caught() -> int | None:
    """The signal that was received, or None."""
    return _process.caught


def name_of(signum: int) -> str:
    """Its name, such as SIGTERM."""
    return signal.Signals(signum).name


def left_s() -> float:
    """How many seconds this process has left; all of `limit_s` before a signal."""
    return limit_s() - (time.monotonic() - _process.caught_at if _process.caught is not None else 0.0)


def limit_s() -> float:
    """How many seconds a process has after a signal: VGG_DIST_STOP_S, or STOP_S."""
    try:
        return max(0.0, float(os.environ[VARIABLE]))
    except (KeyError, ValueError):
        return STOP_S


def say(line: str) -> None:
    """Prints a line, unless the terminal was closed."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


def tell_and_exit(stopped: Stopped, how: str) -> None:
    """Prints "COMMAND: stopped by SIGNAL" and `how`, and ends the process without Python's own shutdown.

    With threads that wait in C++, the shutdown may abort with a page of stack trace.
    """
    _process.caught = stopped.signum
    _process.tell(how)
    os._exit(128 + stopped.signum)
