"""Names the images that cannot be decoded, over all workers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist

SHOWN = 5  # names per worker
NAME_BYTES = 1024  # of text per worker


def describe_bad(bad_images: Mapping[int, str], device: torch.device) -> str:
    """The first bad images of every worker, with name and reason, as one line. A collective call.

    The text travels as a tensor on `device`, so that it works over NCCL as well as gloo.
    """
    texts = list(bad_images.values())
    own = "; ".join(texts[:SHOWN]) + (f"; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else "")
    if not dist.is_initialized():
        return own
    content = own.encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0")
    mine = torch.tensor(list(content), dtype=torch.uint8, device=device)
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, mine)
    found = [bytes(each.tolist()).rstrip(b"\0").decode(errors="ignore") for each in gathered]
    return "; ".join(text for text in found if text)
