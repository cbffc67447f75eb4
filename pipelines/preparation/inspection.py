"""Decoding all images of a store in threads, for `python -m pipelines.prepare check`."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipelines.progress import Progress
from pipelines.stores.image_header import Finding, inspect
from pipelines.stores.quarantine import UNREADABLE
from pipelines.stores.sample_store import SampleStore


def inspect_all(store: SampleStore, split: str, threads: int, max_pixels: int) -> list[tuple[str, Finding]]:
    """(name, finding) for whatever is remarkable, in the order of the samples. Shows a progress bar."""

    def inspect_some(indices: np.ndarray) -> list[tuple[str, Finding]]:
        found = []
        for index in indices.tolist():
            name = store.name(index)
            try:
                found += [(name, finding) for finding in inspect(store.read(index), name, max_pixels)]
            except OSError as error:
                found.append((name, Finding(UNREADABLE, str(error).removeprefix(f"{name}: "))))
            progress.update()
        return found

    # In chunks: a million futures would take more memory than all else here.
    chunks = np.array_split(np.arange(len(store)), len(store) // 64 + 1)
    with (
        Progress(total=len(store), desc=f"checking {split}", unit="image") as progress,
        warnings.catch_warnings(),
        ThreadPoolExecutor(threads) as pool,
    ):
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
        return [item for found in pool.map(inspect_some, chunks) for item in found]
