"""The loader for a store: `open_loader` picks the fastest that runs here."""

from __future__ import annotations

import importlib.util
import os

import torch

from pipelines.loading.loader import Loader, Preprocessing
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
    """The fastest loader there is here: DALI, or torchvision where DALI has no build (macOS, Windows).

    Where `device` is a GPU, `dtype` is that of the images (on a CPU they are float32), and `deterministic` asks for the
    same pixels from start to start, to the bit.
    """
    if importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali"):
        from pipelines.loading.dali_loader import DaliLoader
        from pipelines.loading.decoder_choice import choose_decoding

        decoding = None if device.type == "cpu" else choose_decoding(device, num_threads, deterministic)
        return DaliLoader(store, preprocessing, num_threads, device, max_batch, decoding, dtype)
    from pipelines.loading.reference_loader import ReferenceLoader

    return ReferenceLoader(store, preprocessing, num_threads, device)


def loader_threads(asked: int | None) -> int:
    """Decoding threads of this process: as asked, else the CPUs it was given."""
    return asked or int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
