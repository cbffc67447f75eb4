"""Chooses how to decode on this GPU: measures which setting is correct and fastest, once per machine, and caches the result.

    python -m pipelines.loading.decoder_choice --threads 16

Decoding windows is less work, but the hardware decoder does not support windows, and nvImageCodec 0.9.0 fails at them on
some GPUs and crashes the process on others (nvImageCodec issue 55). Cut-outs (`pipelines.stores.restart_table`) are JPEGs
for any decoder, but smaller ones, and only some stores have them. Each candidate therefore decodes the same synthetic
photographs in a subprocess, windows last, and only candidates whose pixels agree with the CPU decoder's are considered. If
there is none, whole images are decoded.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch

from pipelines.loading.dali_graph import Decoding
from pipelines.loading.epoch_plan import Augmentation, EpochPlan, Samples
from pipelines.loading.preprocessing import Preprocessing
from pipelines.loading.synthetic_photographs import SyntheticPhotographs
from pipelines.remote import cache_folder, write_atomically
from pipelines.stores.sample_store import SampleStore

_logger = logging.getLogger(__name__)

TIMEOUT_S = 120.0
IMAGES, BATCH, ROUNDS = 256, 128, 4
TOLERANCE = 3.0  # mean over a crop, on the 0-255 scale: decoders differ in the inverse DCT and in chroma upsampling
CANDIDATES = [
    Decoding(regions=regions, cut_outs=cut_outs, hw_load=hw_load, smooth_chroma=smooth)
    for regions, cut_outs, hw_load, smooth in [
        (False, False, 0.65, True), (False, False, 0.9, True), (False, False, 1.0, True), (False, False, 0.9, False),
        (False, False, 0.0, True),
        (False, True, 0.65, True), (False, True, 0.9, True), (False, True, 1.0, True), (False, True, 0.0, True),
        (True, False, 0.65, True), (True, False, 0.0, True),
    ]
]  # fmt: skip
_tried: dict[str, Any] = {}  # results of this process, because the cache file may not be writable


def choose_decoding(
    device: torch.device,
    num_threads: int,
    deterministic: bool = False,
    cut_outs: bool = False,
    command: list[str] | None = None,
) -> Decoding:
    """The fastest correct setting on this GPU. `command` replaces the measuring subprocess in tests.

    `cut_outs`: whether the store has images from which windows can be cut out.

    `deterministic`: only settings that give an image the same pixels in every batch. With the others, the position of an
    image in its batch decides whether the hardware decoder gets it, and decoders round differently.
    """
    key = _machine(device, num_threads)
    file = cache_folder(None) / "decoders.json"
    known = _tried | _read(file)
    if key not in known:
        if command is None:
            command = [sys.executable, "-m", "pipelines.loading.decoder_choice", "--threads", str(num_threads)]
            command += ["--gpu", str(device.index or 0)]
        _tried[key] = _try_out(command)
        known = _read(file) | _tried
        _logger.warning("decoding on this GPU: %s", describe(*_best(known[key], deterministic, cut_outs)))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(str(file), json.dumps(known, indent=1).encode())
        except OSError as error:
            _logger.warning("%s could not be written: %s", file, error)
    return _best(known[key], deterministic, cut_outs)[0]


def _best(trials: list[dict[str, Any]], deterministic: bool, cut_outs: bool) -> tuple[Decoding, float]:
    """The fastest correct setting and its images/s; whole images, at 0 images/s, if none is correct."""
    rates = {Decoding(**trial["decoding"]): float(trial["images_per_second"]) for trial in trials if trial["right"]}
    if not cut_outs:
        rates = {decoding: rate for decoding, rate in rates.items() if not decoding.cut_outs}
    if deterministic:
        rates = {decoding: rate for decoding, rate in rates.items() if decoding.is_deterministic}
    return max(rates.items(), key=lambda item: item[1], default=(Decoding(hw_load=1.0 if deterministic else 0.65), 0.0))


def describe(decoding: Decoding, rate: float) -> str:
    """One line about a setting, for the log."""
    what = "windows" if decoding.regions else "cut-outs" if decoding.cut_outs else "whole images"
    speed = f"{rate:.0f} images/s" if rate else "not measured"
    return f"{what}, {100 * decoding.hw_load:.0f} % offered to the hardware decoder, {speed}"


def _machine(device: torch.device, num_threads: int) -> str:
    """The cache key: everything that the choice depends on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    versions = [importlib.metadata.version("nvidia-dali-cuda130")]
    try:
        versions.append(importlib.metadata.version("nvidia-nvimgcodec-cu13"))
    except importlib.metadata.PackageNotFoundError:
        versions.append("unknown")
    return f"{name}, {num_threads} threads, DALI {versions[0]}, nvImageCodec {versions[1]}, {len(CANDIDATES)} settings"


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return {}


def _try_out(command: list[str]) -> list[dict[str, Any]]:
    """The results that the command printed before it ended or crashed."""
    # A Ray worker finds this project by its sys.path, which a subprocess does not inherit.
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=env)
        output, end = done.stdout, f"ended with {done.returncode}"
    except subprocess.TimeoutExpired as error:
        output, end = (error.stdout or b"").decode(), f"took longer than {TIMEOUT_S:.0f} s"
    trials = [json.loads(line) for line in output.splitlines() if line.startswith('{"decoding"') and line.endswith("}")]
    if len(trials) < len(CANDIDATES):
        _logger.warning("decoders: only %d of %d settings measured; the process %s", len(trials), len(CANDIDATES), end)
    return trials


def try_candidates(candidates: list[Decoding], device: torch.device, num_threads: int) -> Iterator[dict[str, Any]]:
    """For each candidate: images/s, and whether its pixels are right. One that raises is reported as not right."""
    store = SyntheticPhotographs(IMAGES)
    preprocessing = Preprocessing(224, (0.0,) * 3, (1.0,) * 3)
    samples = EpochPlan(IMAGES, 0, 0, Augmentation((256, 512), color_shift=0.0)).samples
    expected = _crops(store, preprocessing, samples[:BATCH], num_threads, torch.device("cpu"), None)
    for candidate in candidates:
        trial: dict[str, Any] = {"decoding": dataclasses.asdict(candidate), "images_per_second": 0.0}
        try:
            crops = _crops(store, preprocessing, samples[:BATCH], num_threads, device, candidate)
            trial["difference"] = float((crops - expected).abs().mean(dim=(1, 2, 3)).max())
            trial["images_per_second"] = _rate(store, preprocessing, samples, num_threads, device, candidate)
            trial["right"] = trial["difference"] < TOLERANCE
        except Exception as error:  # decoders raise many types
            trial |= {"right": False, "error": " ".join(str(error).split())[:300]}
        yield trial


def _loader(
    store: SampleStore, preprocessing: Preprocessing, num_threads: int, device: torch.device, decoding: Decoding | None
) -> Any:
    from pipelines.loading.dali_loader import DaliLoader

    return DaliLoader(store, preprocessing, num_threads, device, BATCH, decoding)


def _crops(
    store: SampleStore,
    preprocessing: Preprocessing,
    samples: Samples,
    num_threads: int,
    device: torch.device,
    decoding: Decoding | None,
) -> torch.Tensor:
    (batch,) = _loader(store, preprocessing, num_threads, device, decoding).batches([samples])
    return batch.images.cpu()


def _rate(
    store: SampleStore,
    preprocessing: Preprocessing,
    samples: Samples,
    num_threads: int,
    device: torch.device,
    decoding: Decoding,
) -> float:
    """Images/s, after two untimed batches."""
    loader = _loader(store, preprocessing, num_threads, device, decoding)
    plan = [samples[first : first + BATCH] for _ in range(ROUNDS) for first in range(0, IMAGES, BATCH)]
    start, count = 0.0, 0
    for k, batch in enumerate(loader.batches(plan)):
        count += len(batch.labels) if k >= 2 else 0
        if k == 1:
            start = time.perf_counter()
    return count / (time.perf_counter() - start)


def main(
    threads: int = os.cpu_count() or 1,
    gpu: Annotated[int, "Number of the GPU; -1 runs the GPU's graph on the CPU."] = 0,
) -> None:
    """Measures how to decode on a GPU; prints a JSON line for each setting."""
    device = torch.device("cpu") if gpu < 0 else torch.device("cuda", gpu)
    candidates = [dataclasses.replace(candidate, device="cpu") for candidate in CANDIDATES] if gpu < 0 else CANDIDATES
    for trial in try_candidates(candidates, device, threads):
        print(json.dumps(trial), flush=True)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
