"""The process of a peer: sets the peer up, then runs epochs on command.

`process.PeerProcess` starts it and has the other end of the connection. Each command is answered by one or more messages,
which are only numbers, text and bytes, because the two processes may have different versions of NumPy and torch.

    "time"    ("seconds", s)
    "pixels"  ("batch", n), positions as bytes, images as bytes for each batch; ("end",)

("ready", versions) is sent before the first command. ("failed", reason) can replace any message, and is the last one.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from vgg_dist.benchmark.work import PlacedEpoch, Work, epoch_seconds

PACKAGES = ("torch", "torchvision", "numpy", "pillow")


def serve(name: str, distributions: Iterable[str], descriptor: int, folder: str) -> None:
    """Runs `peers/<name>.py` on the work in `folder`/work.npz until the connection is closed."""
    connection = Connection(descriptor)
    try:
        work = Work.load(Path(folder, "work.npz"))
        torch.set_num_threads(work.threads)
        module = importlib.import_module(f"vgg_dist.benchmark.peers.{name}")
        prepared = Path(folder, "prepared")
        prepared.mkdir()
        epoch = module.set_up(work, prepared)
        connection.send(("ready", {each: importlib.metadata.version(each) for each in (*distributions, *PACKAGES)}))
        while True:
            if connection.recv() == "time":
                connection.send(("seconds", epoch_seconds(work, epoch)))
            else:
                send_pixels(connection, epoch)
    except EOFError:
        return
    except Exception as error:
        connection.send(("failed", f"{type(error).__name__}: {' '.join(str(error).split())}"))
        raise  # writes the traceback to the log


def send_pixels(connection: Connection, epoch: PlacedEpoch) -> None:
    """Sends all batches of one epoch."""
    for positions, images in epoch():
        connection.send(("batch", len(images)))
        connection.send_bytes(np.ascontiguousarray(torch.as_tensor(positions).numpy(), dtype=np.int64).tobytes())
        connection.send_bytes(images.cpu().contiguous().numpy().tobytes())
    connection.send(("end",))
