"""`benchmark step`: images/s of training steps by network and precision, and their share of the machine's matmul peak.

`training.trainer.Trainer` runs as in a training, with metrics every --steps steps, on one batch that stays on the device. If
torchvision has the same net, a plain loop (see plain_loop.py) is measured after each round of the trainer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from pipelines.loading.epoch_plan import Samples
from pipelines.loading.loader import Batch, Loader
from pipelines.loading.preprocessing import Preprocessing
from pipelines.progress import Progress
from pipelines.stores.synthetic import SyntheticSpec, SyntheticStore
from vgg_dist.benchmark.options import StepBenchmark
from vgg_dist.benchmark.plain_loop import PlainLoop, has_torchvision_net
from vgg_dist.benchmark.report import describe_machine, machine_line, paired_ratio, spread, table, write_json
from vgg_dist.config import Arch
from vgg_dist.models.precision import Precision, autocast_dtype, matmul_peak
from vgg_dist.models.specs import MODELS
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.state import build_state
from vgg_dist.training.trainer import Report, Trainer

NUM_CLASSES = 1000


class ResidentLoader(Loader):
    """Returns the same batch, already on the device, for each of `num_images / len(images)` steps."""

    def __init__(self, images: Tensor, labels: Tensor, num_images: int) -> None:
        # Only the length of the store is used.
        store = SyntheticStore(SyntheticSpec(train=num_images), "train")
        super().__init__(store, Preprocessing(images.shape[-1], (0.0,), (1.0,)), 1, images.device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.resident_labels = labels

    def batches(self, micro_batches: Iterable[Samples]) -> Iterator[Batch]:
        """The batch, cut to the size of each micro-batch."""
        for samples in micro_batches:
            yield Batch(self.images[: len(samples)], self.resident_labels[: len(samples)])


class Stopwatch:
    """The trainer's report callback: times the round that ends with it, then runs and times the plain loop.

    `ours`, `plain`: images/s of each timed round. The first round is a warm-up.
    """

    def __init__(self, options: StepBenchmark, device: torch.device, plain: PlainLoop | None) -> None:
        self.options = options
        self.device = device
        self.plain_loop = plain
        self.ours: list[float] = []
        self.plain: list[float] = []
        self.progress = Progress(total=options.rounds + 1, unit="round", leave=False)
        self.start = self._now()

    def __call__(self, metrics: dict[str, float], save: bool) -> None:
        """Called by the trainer after every round, and at the end with the metrics of the validation."""
        if "train/loss" not in metrics:
            self.progress.close()
            return
        self.ours.append(self._rate())
        if self.plain_loop is not None:
            self.start = self._now()
            self.plain_loop.run(self.options.steps)
            self.plain.append(self._rate())
        if self.progress.n == 0:
            self.ours, self.plain = [], []
        self.progress.update()
        self.start = self._now()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _rate(self) -> float:
        return self.options.steps * self.options.batch / (self._now() - self.start)


def run_step(options: StepBenchmark) -> None:
    """Measures, prints and saves. Raises ValueError, one line, for a missing device."""
    device = _device(options)
    figures = []
    for precision in _precisions(options, device):
        peak = matmul_peak(device, precision)
        for arch in options.archs:
            print(f"{arch}, {precision}", flush=True)
            figures.append(measure(options, arch, precision, device, peak))
    print(report(options, device, figures))
    if options.trace is not None:
        print(trace(options, options.archs[-1], _precisions(options, device)[-1], device, options.trace))
    if options.json is not None:
        write_json(options.json, options, {"device": device.type, "steps": figures})


def _device(options: StepBenchmark) -> torch.device:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: there is no CUDA device; allowed: cpu")
    return torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _precisions(options: StepBenchmark, device: torch.device) -> list[Precision]:
    if autocast_dtype("auto", device) is None and "fp32" in options.precisions and "bf16" in options.precisions:
        print("bf16 skipped: this hardware has no bf16 matrix units (--precisions bf16 alone measures it anyway)")
        return ["fp32"]
    if device.type != "cuda" and "tf32" in options.precisions:
        raise ValueError("--precisions tf32: only on a CUDA device; allowed here: fp32, bf16")
    return list(options.precisions)


def noise(options: StepBenchmark, arch: Arch, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch on the device: images of noise and random labels."""
    shape = options.batch, MODELS[arch].in_channels, options.image_size, options.image_size
    return 64 * torch.randn(shape, device=device), torch.randint(NUM_CLASSES, (options.batch,), device=device)


def trainer(
    options: StepBenchmark, arch: Arch, precision: Precision, batch: tuple[Tensor, Tensor], report: Report
) -> Trainer:
    """A trainer on this batch, with one untimed round and the timed rounds in `options`."""
    config = options.train_config(arch, precision).resolved().with_micro_batch(options.batch)
    device = batch[0].device
    # Ten batches more than are used, so that the epoch does not end. The validation, untimed, has ten images.
    train = ResidentLoader(*batch, options.batch * ((config.max_steps or 0) + 10))
    state = build_state(config, NUM_CLASSES, device)
    return Trainer(config, state, train, ResidentLoader(*batch, 10), Worker(device=device), report)


def measure(options: StepBenchmark, arch: Arch, precision: Precision, device: torch.device, peak: float) -> dict[str, Any]:
    """Measures one network at one precision; `peak` in FLOP/s. The plain loop's `images_per_second` may be empty."""
    batch = noise(options, arch, device)
    plain = None
    if has_torchvision_net(arch, options.image_size):
        plain = PlainLoop(arch, options.batch_norm, autocast_dtype(precision, device), *batch)
    watch = Stopwatch(options, device, plain)
    training = trainer(options, arch, precision, batch, watch)
    flops = training.throughput.flops_per_image
    training.run()
    figure: dict[str, Any] = {
        "arch": arch,
        "precision": precision,
        "flops_per_image": flops,
        "matmul_peak_flops": peak,
        "images_per_second": watch.ours,
        "share_of_peak": median(watch.ours) * flops / peak,
        "plain_loop": {"images_per_second": watch.plain},
    }
    if watch.plain:
        figure["plain_loop"]["share_of_peak"] = median(watch.plain) * flops / peak
        figure["times_plain_loop"] = paired_ratio(watch.ours, watch.plain)
    return figure


def trace(options: StepBenchmark, arch: Arch, precision: Precision, device: torch.device, file: Path) -> str:
    """Writes a Chrome trace of one round, and returns a table of the slowest operators."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    profiler = profile(activities=activities)
    rounds = iter(range(options.rounds + 1))

    def record(metrics: dict[str, float], save: bool) -> None:
        """Records the second round; the first one is a warm-up."""
        number = next(rounds, None)
        if number == 0:
            profiler.start()
        elif number == 1:
            profiler.stop()

    trainer(options, arch, precision, noise(options, arch, device), record).run()
    profiler.export_chrome_trace(str(file))
    return profiler.key_averages().table(sort_by="self_device_time_total" if on_gpu else "self_cpu_time_total", row_limit=25)


def report(options: StepBenchmark, device: torch.device, figures: list[dict[str, Any]]) -> str:
    """The table of results, and the settings and machine."""
    rows = []
    for figure in figures:
        theirs = figure["plain_loop"]
        plain = ["", "", ""]
        if theirs["images_per_second"]:
            rate, share = median(theirs["images_per_second"]), theirs["share_of_peak"]
            plain = [f"{rate:.1f}", f"{100 * share:.0f} %", f"{figure['times_plain_loop']:.2f}"]
        rates, share = spread(figure["images_per_second"]), f"{100 * figure['share_of_peak']:.0f} %"
        name = f"{figure['arch']}{' + batch norm' if options.batch_norm else ''}"
        rows.append([name, figure["precision"], *rates, share, *plain, f"{figure['matmul_peak_flops'] / 1e12:.3g}"])
    plain_headings = ["plain loop", "of peak", "times plain"]
    headings = ["arch", "precision", "images/s", "min", "max", "of peak", *plain_headings, "peak TFLOP/s"]
    return (
        f"{table(headings, rows)}\n"
        f"Median of {options.rounds} alternating rounds of {options.steps} steps; batches of {options.batch} synthetic "
        f"images of {options.image_size} px, resident on {device.type}{'; ours compiled' if options.compile else ''}.\n"
        "Peak: speed of a large matrix product at that precision. Plain loop: torchvision's VGG, trained as in "
        f"its reference script.\n{machine_line(describe_machine())}"
    )
