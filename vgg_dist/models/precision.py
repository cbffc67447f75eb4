"""Numeric precision (fp32, tf32 or bf16), kernels and memory format of a training, and the peak rate they allow."""

from __future__ import annotations

import math
import os
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, cast

import torch

Precision = Literal["fp32", "tf32", "bf16"]


def resolve_precision(asked: str, device: torch.device) -> Precision:
    """The precision for --precision: `auto` is bf16 if the hardware multiplies bf16 matrices; on a CPU tf32 is fp32."""
    if asked == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_bf16_matrix_unit() else "fp32"
    if asked == "tf32" and device.type != "cuda":
        return "fp32"
    return cast(Precision, asked)


def apply_precision(precision: Precision) -> None:
    """Makes this process multiply fp32 numbers in fp32, or for `tf32` in TF32, which is torch's default for convolutions."""
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def choose_kernels(deterministic: bool) -> None:
    """Selects the kernels of cuDNN: the fastest by trial, or deterministic ones."""
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def autocast_dtype(asked: str, device: torch.device) -> torch.dtype | None:
    """The dtype of autocast; None for fp32 and tf32, which need no autocast."""
    return torch.bfloat16 if resolve_precision(asked, device) == "bf16" else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast to `dtype`; a no-op for None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def memory_format(dtype: torch.dtype | None, device: torch.device) -> torch.memory_format:
    """The tensor layout of images and weights in training: channels_last where matrix units exist.

    In fp32 on a CPU, where they do not, the contiguous format trains D at 224 pixels 1.3 times as fast.
    """
    return torch.contiguous_format if dtype is None and device.type == "cpu" else torch.channels_last


def _has_bf16_matrix_unit() -> bool:
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def matmul_peak(device: torch.device, precision: Precision) -> float:
    """The FLOP/s that a large matrix product reaches on this device: the reference for model_flops_utilization.

    Measured when called; sets the process's precision by `apply_precision`.
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
