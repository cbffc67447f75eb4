"""Commands in a terminal of 80 columns, and what it shows at their end."""

from __future__ import annotations

import os
import pty
import subprocess
import termios
import threading
from collections.abc import Mapping, Sequence

from support.paths import ROOT

MOVES = {"\r": (0, True), "\n": (1, False), "\x1b[1A": (-1, False)}
"""Control sequences: by how many rows the cursor moves, and whether to the first column."""
ERASE, RESET = "\x1b[2K", "\x1b[0m"
"""The line is erased; the text that follows is plain, which Ray writes at the end of each process."""


def run_in_terminal(command: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    """Exit status, and all that was written to the terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    written: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 10_000):
                written.append(data)
        except OSError:  # nobody has it open any more
            pass

    reader = threading.Thread(target=read)
    reader.start()
    environment = os.environ | {"TERM": "xterm-256color"} | env
    status = subprocess.run(command, stdout=theirs, stderr=theirs, cwd=ROOT, env=environment, timeout=900).returncode
    os.close(theirs)
    reader.join(60)
    os.close(ours)
    return status, b"".join(written).decode()


def screen(written: str) -> list[str]:
    """The lines that a terminal shows, empty ones left out. AssertionError for other control sequences, as of colours."""
    lines, row, column = [""], 0, 0
    while written:
        sequence = next((known for known in (*MOVES, ERASE, RESET) if written.startswith(known)), written[0])
        assert sequence != "\x1b", repr(written[:20])
        if sequence == ERASE:
            lines[row] = ""
        elif sequence in MOVES:
            rows, is_first = MOVES[sequence]
            row, column = row + rows, 0 if is_first else column
            lines += [""] * (row + 1 - len(lines))
        elif sequence != RESET:
            lines[row] = lines[row][:column].ljust(column) + sequence + lines[row][column + 1 :]
            column += 1
        written = written.removeprefix(sequence)
    return [line.rstrip() for line in lines if line.strip()]
