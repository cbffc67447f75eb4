"""Manifests with one thing in them changed or left out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from support.manifests import Object, name_of

JOBS = {"cpu": ("first", "evaluate", "cluster"), "gpu": ("train", "tune", "evaluate", "reproduce", "cluster")}


Change = Callable[[Any, Any], None]


def drop(parent: Any, key: Any) -> None:
    """Takes the field away."""
    del parent[key]


JOB, HEAD, WORKER = "RayJob/e-256", "spec.rayClusterSpec.headGroupSpec", "spec.rayClusterSpec.workerGroupSpecs.0"


POD, BOX = ".template.spec", ".template.spec.containers.0"


def hurt(objects: list[Object], target: str, path: str, change: Change) -> list[Object]:
    """A copy with one change. A step of the path is a field, or of a list the index or the item's name."""
    objects = list(objects)
    index = next(i for i, item in enumerate(objects) if name_of(item) == target)
    parent = objects[index] = copy.deepcopy(objects[index])
    *steps, last = path.replace("kueue.x-k8s.io", "kueue").split(".")
    for step in [*steps, None]:
        key: Any = last if step is None else step
        if isinstance(parent, list):
            key = int(key) if key.isdigit() else next(i for i, item in enumerate(parent) if item["name"] == key)
        if step is None:
            change(parent, key)
        else:
            parent = parent[key]
    return objects
