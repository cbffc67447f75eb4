"""The layouts that are compared: each is a set of fields of TrainConfig. Does not import torch."""

from __future__ import annotations

from typing import Any, Literal

from vgg_dist.config import Arch, TrainConfig

LayoutName = Literal["ddp", "ddp-bf16", "powersgd", "fc", "fc-bf16", "fc-powersgd"]

TITLES: dict[str, str] = {
    "ddp": "DDP, fp32",
    "ddp-bf16": "DDP, bf16",
    "powersgd": "DDP, PowerSGD",
    "fc": "FC-sharded, fp32",
    "fc-bf16": "FC-sharded, bf16",
    "fc-powersgd": "FC-sharded, PowerSGD",
}

DDP_BUCKET_MB = 25  # MiB, DDP's default
RANK = 4  # PowerSGD's, where a layout uses it


def title(layout: str, bucket_mb: int) -> str:
    """What tables call a layout."""
    return TITLES.get(layout, layout) + ("" if bucket_mb == DDP_BUCKET_MB else f", {bucket_mb} MiB")


def layout_fields(name: str, group: int) -> dict[str, Any]:
    """The fields of TrainConfig that make a layout. `group`: workers that share the FC layers, where it shards them."""
    fields: dict[str, Any] = {}
    if name.startswith("fc"):
        fields["fc_parallel"] = str(group)
    if name.endswith("bf16"):
        fields["bf16_gradients"] = True
    if name.endswith("powersgd"):
        fields["powersgd_rank"] = RANK
    return fields


def train_config(arch: Arch, image_size: int, global_batch: int, layout: dict[str, Any]) -> TrainConfig:
    """The training whose steps are measured, in fp32. It ends when enough steps are measured, never by itself."""
    return TrainConfig(
        arch=arch,
        image_size=image_size,
        epochs=1,
        log_every="1000000",
        checkpoint_every="1000000",
        global_batch=global_batch,
        lr=1e-6,  # small, so that the loss stays finite on images of noise
        precision="fp32",
        **layout,
    )
