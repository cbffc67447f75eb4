"""The one-line reason of a failure, extracted from errors of DALI, CUDA and NCCL and from tracebacks."""

from __future__ import annotations

import io
import traceback

import numpy as np
import pytest
from PIL import Image

from pipelines.failures import first_cause, what_failed

dali = pytest.importorskip("nvidia.dali")


def jpeg(side: int = 64) -> np.ndarray:
    file = io.BytesIO()
    Image.effect_noise((side, side), 50).convert("RGB").save(file, "JPEG")
    return np.frombuffer(file.getvalue(), np.uint8)


def dali_error(encoded: list[np.ndarray], start: int = 0) -> BaseException:
    """The error that DALI raises when it decodes 32 rows of these files from `start`."""
    from nvidia.dali import fn, types

    @dali.pipeline_def(batch_size=2, num_threads=1, device_id=None)
    def windows():
        source = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
        return fn.decoders.image_slice(source, start=[start, 0], shape=[32, 32], axis_names="HW")

    pipeline = windows()
    pipeline.build()
    try:
        pipeline.feed_input("encoded", encoded)
        pipeline.run()
    except RuntimeError as error:
        return error
    pytest.fail("DALI raised nothing")


@pytest.mark.parametrize(
    ("encoded", "start", "words"),
    [
        ([jpeg(), np.frombuffer(b"not an image at all", np.uint8)], 0, "image_slice: nvImageCodec failure"),
        ([jpeg(), jpeg()[:700].copy()], 0, "image_slice: Failed to decode sample #1"),
        ([jpeg(), jpeg()], 100, "image_slice: The cropping window [100..132, 0..32] is not valid for image dimensions"),
        ([jpeg()] * 3, 0, "unexpected batch size. Expected batch_size <= 2, actual: 3"),
    ],
)
def test_of_dalis_errors_the_operators_own_words(encoded: list[np.ndarray], start: int, words: str) -> None:
    line = what_failed(dali_error(encoded, start))
    assert words in line
    assert line.startswith("RuntimeError: ")
    for frame in ("\n", "Critical error", "no longer valid", "traceback", "C++ context"):
        assert frame not in line


def test_of_a_traceback_its_last_exception() -> None:
    error = OSError(28, "No space left on device")
    error.__context__ = KeyError("first")  # both tracebacks are in the text
    assert what_failed(error) == "[Errno 28] No space left on device"
    try:
        raise error
    except OSError:
        text = "worker died\n" + traceback.format_exc()
    assert text.count("KeyError") == 1
    assert first_cause(text) == "OSError: [Errno 28] No space left on device"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("--lr 0: must be more than 0"), "--lr 0: must be more than 0"),
        (KeyError("train"), "KeyError: 'train'"),
        (RuntimeError(), "RuntimeError"),
        (
            RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors may come later.\nCompile so"),
            "RuntimeError: CUDA error: device-side assert triggered",
        ),
        (RuntimeError("backend='inductor' raised:\nCppError: no compiler\n\nSet X"), "RuntimeError: backend='inductor' "
         "raised: CppError: no compiler"),
        (
            RuntimeError("NCCL error in: a.cpp:1, unhandled cuda error\nncclError: failed.\nLast error:\nout of memory"),
            "RuntimeError: NCCL error in: a.cpp:1, unhandled cuda error: out of memory",
        ),
    ],
)  # fmt: skip
def test_of_anything_else_the_first_line(error: Exception, line: str) -> None:
    assert what_failed(error) == line


def test_workers_that_failed_for_the_same_reason_share_a_line() -> None:
    from ray.exceptions import RayTaskError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    from vgg_dist.launch.failures import describe_failures

    gone = WorkerHealthCheckFailedError("A worker health check failed.", RuntimeError("The actor died.\n\tclass_name: W"))
    called = RayTaskError("f", "Traceback (most recent call last):\n  File\nOSError: stale", OSError("stale"))
    lines = describe_failures({0: OSError("stale"), 1: gone, 2: called})
    assert lines == ["workers 0, 2 failed: stale", "worker 1 failed: RuntimeError: The actor died."]
