"""What every command line does: parse, run, and end a user's mistake with one line on stderr and exit status 2."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from pipelines.secrets import masked
from pipelines.signals import stoppable
from pipelines.version import version_line

Options = TypeVar("Options")

MISTAKE = 2  # the exit status


def command_name(prog: str) -> str:
    """What a command's messages begin with: `vgg_dist.train` of `python -m vgg_dist.train`; `vgg train` as it is."""
    return prog.removeprefix("python -m ")


def at_once(command: str) -> AbstractContextManager[None]:
    """For the work of a command that has nothing to end in order: a signal ends it at once."""
    return stoppable(command, in_order=False)


def run_command(
    prog: str,
    parse: Callable[[], Options],
    work: Callable[[Options], object],
    *,
    improve: Callable[[str], str] = str,
    stopping: Callable[[str], AbstractContextManager[None]] = at_once,
    errors: tuple[type[Exception], ...] = (ValueError, OSError),
) -> int:
    """Parses a command line, does its work, and returns the exit status: what `work` returns if that is an int, else 0.

    `prog`: how the command was called, for its help and messages. `improve`: may add to tyro's message what was meant.
    `stopping`: takes the command's name, and gives the context in which a signal ends the work. `errors`: the exceptions
    that `work` raises for a user's mistake, which become one line and status 2; any other is a bug, with its traceback. A
    mistake in the command line itself ends the process. --version is answered before anything else.
    """
    if "--version" in sys.argv[1:]:
        print(version_line())
        return 0
    command = command_name(prog)
    with one_line_errors(command, improve):
        options = parse()
    try:
        with stopping(command):
            status = work(options)
    except errors as error:
        tell(command, error)
        return MISTAKE
    return status if isinstance(status, int) else 0


@contextlib.contextmanager
def one_line_errors(command: str, improve: Callable[[str], str] = str) -> Iterator[None]:
    """Around the parsing of a command line: prints tyro's boxes of several lines, and ValueErrors, as one line.

    `improve`: takes tyro's message and may add what was meant.
    """
    boxes = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxes), printing():
            yield
    except ValueError as error:
        fail(command, error)
    except SystemExit as stop:
        if not stop.code:
            raise
        fail(command, f"{improve(_message(boxes.getvalue()))} (--help explains all flags)")
    else:
        sys.stderr.write(boxes.getvalue())  # such as a warning about a flag's old name


def _message(output: str) -> str:
    """The message in a box of tyro's: a title, the message, and under a rule where to find help.

    Where stdout is not UTF-8, the box has no frame, and a rule under its title. Lines before the box are kept.
    """
    before, *box = re.split(r"^(?=╭)|^(?=.*\n -+ *$)", output, maxsplit=1, flags=re.MULTILINE)
    message: list[str] = []
    for line in "".join(box).splitlines()[1:]:
        text = line.strip("│╰╯ ")
        if not re.fullmatch("[─-]+", text):
            message.append(text)
        elif message:
            break
    return " ".join([*before.splitlines(), *message]).strip()


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Around the printing of help or a list: ends the process quietly where the reader closes the pipe, as `| head` does."""
    try:
        try:
            yield
        finally:  # --help ends the process, by SystemExit, before its text is written
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def fail(command: str, error: object) -> None:
    """Ends the process with `tell`'s line and status 2."""
    tell(command, error)
    sys.exit(MISTAKE)


def tell(command: str, error: object) -> None:
    """Prints what is wrong as one line on stderr, without the secrets of URLs."""
    print(f"{command}: {masked(' '.join(str(error).split()))}", file=sys.stderr)
