"""What numbers are computed in (fp32, tf32 or bf16), and by which kernels: for torch, autocast and the measured peak."""

from __future__ import annotations

import math
import os
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, cast

import torch

Precision = Literal["fp32", "tf32", "bf16"]


def resolve_precision(asked: str, device: torch.device) -> Precision:
    """`auto` is bf16 where the hardware multiplies bf16 matrices, else fp32; on a CPU tf32 is fp32."""
    if asked == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_bf16_matrix_unit() else "fp32"
    if asked == "tf32" and device.type != "cuda":
        return "fp32"
    return cast(Precision, asked)


def apply_precision(precision: Precision) -> None:
    """Makes fp32 products of this process true fp32, or TF32: by default torch's convolutions on a GPU are in TF32."""
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def choose_kernels(deterministic: bool) -> None:
    """cuDNN's kernels: the fastest by trial, or those that give the same bits every time."""
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def autocast_dtype(asked: str, device: torch.device) -> torch.dtype | None:
    """What autocast computes matrix products in; None for fp32 and tf32, which need no autocast."""
    return torch.bfloat16 if resolve_precision(asked, device) == "bf16" else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast to `dtype`; a no-op for None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def memory_format(dtype: torch.dtype | None, device: torch.device) -> torch.memory_format:
    """How images and weights lie in memory in training: channels last for matrix units.

    Without those (fp32 on a CPU) the usual format trains D at 224 pixels 1.3 times as fast.
    """
    return torch.contiguous_format if dtype is None and device.type == "cpu" else torch.channels_last


def _has_bf16_matrix_unit() -> bool:
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def matmul_peak(device: torch.device, precision: Precision) -> float:
    """FLOP/s that a large matrix product reaches on this device now, at the precision: what utilisation is measured against.

    Applies the precision to the process, as a training does.
    """
    apply_precision(precision)
    size = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
