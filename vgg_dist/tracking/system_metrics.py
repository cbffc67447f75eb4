"""How busy a machine is: CPU, memory and GPUs, under the names that MLflow's own monitor uses."""

from __future__ import annotations

import contextlib
from typing import Any

import psutil

try:
    import pynvml
except ImportError:  # no NVIDIA bindings, no GPU metrics
    pynvml = None


class SystemSampler:
    """Samples the machine it runs on; several machines of one run are told apart by `node` in the metric names."""

    def __init__(self, node: str | None = None) -> None:
        self.prefix = f"system/{node}/" if node else "system/"
        self._gpus = _open_gpus()
        psutil.cpu_percent()  # the first call has no earlier one to compare with and gives 0

    def sample(self) -> dict[str, float]:
        """CPU utilisation in % since the call before, memory, and each GPU's utilisation, memory and power now."""
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
    """What the device can tell; slices of a GPU (MIG, vGPU) leave some of it out."""
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
