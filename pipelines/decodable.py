"""Which encoded images can be decoded at all: the same answer whatever decodes them afterwards.

DALI's CPU decoder is the judge: it refuses a JPEG whose data ends too early. A GPU's hardware decoder may report such a file
as decoded and leave the rest of it grey, so the GPU loader asks here first about every JPEG that does not end with an
end-of-image marker.
"""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
import nvidia.dali.fn as fn
from numpy.typing import NDArray
from nvidia.dali import Pipeline, pipeline_def, types
from PIL import Image

from pipelines.failures import first_cause

START_OF_IMAGE, END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"  # ITU-T T.81, B.1.1.3


def is_suspect(encoded: bytes) -> bool:
    """Whether this is a JPEG without an end-of-image marker at its end: cut short, or followed by other data.

    Zero bytes behind the marker are padding, as some cameras write it.
    """
    if not encoded.startswith(START_OF_IMAGE) or encoded.endswith(END_OF_IMAGE):
        return False
    return not encoded.rstrip(b"\0").endswith(END_OF_IMAGE)


def decoding_error(encoded: bytes | NDArray[np.uint8]) -> str | None:
    """Why DALI's CPU decoder refuses an image, in the decoder's own words; None if it decodes it. Safe in any thread."""
    data = np.frombuffer(encoded, np.uint8)
    if not len(data):
        return "zero bytes"
    with _lock:
        global _judge
        if _judge is None:
            _judge = _build_judge()
        _judge.feed_input("encoded", [data])
        try:
            _judge.run()
        except RuntimeError as error:
            _judge = None  # an error breaks a pipeline for good
            return _in_words(data) or first_cause(str(error))
    return None


def _in_words(data: NDArray[np.uint8]) -> str | None:
    """What Pillow says against an image: DALI only says that it failed. None if Pillow decodes it."""
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            image.load()
    except Image.UnidentifiedImageError:
        return f"not an image, begins with {bytes(data[:8])!r}"
    except Exception as error:  # Pillow's plugins raise all kinds on damaged data
        return " ".join(str(error).split()) or type(error).__name__
    return None


def as_bitmap(encoded: bytes) -> bytes:
    """The same pixels as an uncompressed BMP, which no GPU decoder has to understand."""
    with Image.open(io.BytesIO(encoded)) as image:
        file = io.BytesIO()
        image.convert("RGB").save(file, "BMP")
    return file.getvalue()


_lock = threading.Lock()
_judge: Pipeline | None = None


def _build_judge() -> Pipeline:
    @pipeline_def(batch_size=1, num_threads=1, device_id=None, exec_async=False, exec_pipelined=False)
    def decode() -> Any:
        return fn.decoders.image(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1), adjust_orientation=False)

    pipeline = decode()
    pipeline.build()
    return pipeline
