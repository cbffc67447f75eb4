"""What a command that trains shows: one live line for each run on a terminal, plain lines in a file or a pipe.

    vgg_dist.train: run first, 1 worker of 2 CPU; metrics every 10
    step     63  validation: loss 1.021  top-1 error 35.20 %  top-5 error 1.00 %
    step    110  epoch 1.74/3  loss 0.913  412 images/s  lr 0.003  0:12 left         <- rewritten in place

On Ray the lines come from the job's other processes (`ray_cluster.job_lines`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from pipelines import signals
from vgg_dist.launch.progress_lines import wrapped
from vgg_dist.ray_cluster.job_lines import Line, LineReader, Store

POLL_S = 0.5
END_S = 5.0  # how long the end of a command waits for a look that is under way


def say(text: str) -> None:
    """Prints lines of the command's own. On a terminal the first is wrapped; others may be a path or a command to copy."""
    first, *others = text.splitlines()
    if sys.stdout.isatty():
        others = wrapped(first) + others
        first = others.pop(0)
    signals.say("\n".join([first, *others]))


class Display:
    """Prints lines to standard output, and on a terminal keeps the live lines, one for each run, below them."""

    def __init__(self) -> None:
        self.live_lines: dict[str, str] = {}
        self.live: Any = None
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            self.live = _rich_live()

    def show(self, run: str, line: Line) -> None:
        """Prints a line of the run named `run`, or puts it in place of the run's live line. An empty live line ends that."""
        with contextlib.suppress(OSError):  # the terminal may be closed
            if line.is_live and self.live is not None:
                self.live_lines[run] = line.text
                self._refresh()
            elif self.live is not None:
                self.live.console.print(line.text)
            elif line.text:
                print(line.text, flush=True)

    def close(self) -> None:
        """Takes the live lines away; what was printed above them stays."""
        if self.live is not None:
            with contextlib.suppress(OSError):
                self.live.stop()
            self.live = None

    def _refresh(self) -> None:
        from rich.text import Text

        if not self.live.is_started:
            self.live.start()
        shown = "\n".join(filter(None, self.live_lines.values()))
        self.live.update(Text(shown, no_wrap=True, overflow="crop"), refresh=True)


def _rich_live() -> Any:
    from rich.console import Console
    from rich.live import Live

    class PlainConsole(Console):
        """Keeps long lines whole, such as commands to copy; and the cursor visible: a signal may end the process."""

        def print(self, *objects: Any, **settings: Any) -> None:
            super().print(*objects, **{"soft_wrap": True, "markup": False, "highlight": False} | settings)

        def show_cursor(self, show: bool = True) -> bool:
            return False

    console = PlainConsole(file=sys.stdout, force_terminal=True, color_system=None)
    # What else this process prints appears above the live lines; stderr is left alone where it goes to a file.
    return Live(console=console, auto_refresh=False, transient=True, redirect_stderr=sys.stderr.isatty())


@contextlib.contextmanager
def shown_lines(store: Store, poll_s: float = POLL_S) -> Iterator[None]:
    """Meanwhile shows the lines of all runs that are put into `store`; all that were sent are shown when it ends.

    For the command's own process. `store`: the messages of its Ray job, or of itself alone.
    """
    display, over = Display(), threading.Event()
    reader = LineReader(store, display.show)

    def read() -> None:
        while not over.wait(poll_s):
            with contextlib.suppress(Exception):  # Ray's head may be away, and come back
                reader.read()

    thread = threading.Thread(target=read, name="shown-lines", daemon=True)
    thread.start()
    try:
        with signals.at_last(display.close):
            yield
    finally:
        over.set()
        thread.join(END_S)
        if not thread.is_alive():
            with contextlib.suppress(Exception):
                reader.read()
        display.close()
