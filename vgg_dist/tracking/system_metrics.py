"""Samples CPU, memory and GPU usage, under the metric names of MLflow's own monitor."""

from __future__ import annotations

import contextlib
from typing import Any

import psutil

try:
    import pynvml
except ImportError:  # no NVIDIA bindings, no GPU metrics
    pynvml = None


class SystemSampler:
    """Samples the machine it runs on. `node`: part of the metric names, to distinguish the machines of a run."""

    def __init__(self, node: str | None = None) -> None:
        self.prefix = f"system/{node}/" if node else "system/"
        self._gpus = _open_gpus()
        psutil.cpu_percent()  # the first call returns 0, as it has no interval to measure

    def sample(self) -> dict[str, float]:
        """CPU utilisation in % since the last call, and current memory, GPU utilisation, GPU memory and power."""
        memory = psutil.virtual_memory()
        metrics = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
        }
        for index, gpu in enumerate(self._gpus):
            metrics |= {f"gpu_{index}_{name}": value for name, value in _sample_gpu(gpu).items()}
        return {self.prefix + name: round(value, 1) for name, value in metrics.items()}


def _open_gpus() -> list[Any]:
    if pynvml is None:
        return []
    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # no driver
        return []


def _sample_gpu(gpu: Any) -> dict[str, float]:
    """The metrics that a device offers; slices of a GPU (MIG, vGPU) lack some."""
    metrics: dict[str, float] = {}
    with contextlib.suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        metrics["memory_usage_megabytes"] = memory.used / 1e6
        metrics["memory_usage_percentage"] = 100 * memory.used / memory.total
    with contextlib.suppress(pynvml.NVMLError):
        metrics["utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
    with contextlib.suppress(pynvml.NVMLError):
        metrics["power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
    return metrics
