"""vgg_dist.train, of whose workers the second runs out of memory in its second step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vgg_dist.launch import driver
from vgg_dist.train import main

train_worker = driver.train_worker


def train_worker_short_of_memory(settings: dict[str, Any]) -> dict[str, Any]:
    """In a worker's process, which gets this function by value."""
    import torch

    from vgg_dist.training.trainer import Trainer

    forward_backward = Trainer._forward_backward

    def limited(self: Trainer, *batch: Any) -> None:
        if self.worker.rank == 1 and self.state.step == 1:
            with Path(settings["storage_path"], "attempts").open("a") as file:
                file.write(f"worker {self.worker.rank}\n")
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        forward_backward(self, *batch)

    Trainer._forward_backward = limited  # type: ignore[method-assign]
    return train_worker(settings)


if __name__ == "__main__":
    driver.train_worker = train_worker_short_of_memory
    main()
