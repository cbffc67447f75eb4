"""What the commands have in common: a user's mistake is one line on stderr and exit status 2."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator

from pipelines.secrets import masked


@contextlib.contextmanager
def one_line_errors(command: str, improved: Callable[[str], str] = str) -> Iterator[None]:
    """For the parsing of a command line: tyro's drawn boxes become one line, ValueErrors too.

    `improved`: takes tyro's message and may add what was meant.
    """
    boxes = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxes):
            yield
    except ValueError as error:
        fail(command, error)
    except BrokenPipeError:  # `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except SystemExit as stop:
        if not stop.code:
            raise
        # The box's title, the message, and under a rule where to find help.
        message = re.split(r"^│ ─+", boxes.getvalue(), maxsplit=1, flags=re.MULTILINE)[0].splitlines()[1:]
        text = " ".join(line.strip("│╭╮╰╯─ ") for line in message).strip()
        fail(command, f"{improved(text)} (--help explains all flags)")


def fail(command: str, error: object) -> None:
    """Ends the process with one line, without the secrets of URLs, and status 2."""
    print(f"{command}: {masked(' '.join(str(error).split()))}", file=sys.stderr)
    sys.exit(2)
