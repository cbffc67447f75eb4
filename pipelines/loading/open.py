"""`open_loader` opens the fastest loader that this machine supports."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import torch

from pipelines.loading.loader import Loader
from pipelines.loading.preprocessing import Preprocessing
from pipelines.stores.sample_store import SampleStore


def open_loader(
    store: SampleStore,
    preprocessing: Preprocessing,
    *,
    num_threads: int,
    max_batch: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    deterministic: bool = False,
) -> Loader:
    """A DALI loader, or the reference loader where DALI has no build (macOS, Windows).

    On a GPU, `dtype` is the dtype of the images, and `deterministic` asks for bit-equal pixels in every run. On a CPU images
    are float32 and always deterministic.
    """
    if importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali"):
        from pipelines.loading.dali_loader import DaliLoader
        from pipelines.loading.decoder_choice import choose_decoding

        decoding = None
        if device.type != "cpu":
            cut_outs = bool(store.can_cut_out(np.arange(len(store))).any())
            decoding = choose_decoding(device, num_threads, deterministic, cut_outs)
        return DaliLoader(store, preprocessing, num_threads, device, max_batch, decoding, dtype)
    from pipelines.loading.reference_loader import ReferenceLoader

    return ReferenceLoader(store, preprocessing, num_threads, device)


def loader_threads(asked: int | None) -> int:
    """Decoding threads of this process: `asked`, or else the number of CPUs assigned to the process."""
    return asked or int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
