"""What the processes of one Ray job tell each other: the command, its trainings' controllers and workers, on whatever node.

Kept by Ray's head in its key-value store; that costs no process, and one look a second of each worker is nothing to it.
"""

from __future__ import annotations

import ray
from ray.experimental import internal_kv


class JobMessages:
    """`stopping.Messages` of the Ray job that this process belongs to. For a process that is connected to Ray."""

    def __init__(self) -> None:
        self.namespace = f"vgg_dist/{ray.get_runtime_context().get_job_id()}"

    def put(self, key: str, value: str) -> None:
        """Leaves a message, in place of one of the same key."""
        internal_kv._internal_kv_put(key, value, namespace=self.namespace)

    def get(self, key: str) -> str | None:
        """The message of a key."""
        value = internal_kv._internal_kv_get(key, namespace=self.namespace)
        return None if value is None else value.decode()

    def remove(self, key: str) -> None:
        """Takes a message away, if it is there."""
        internal_kv._internal_kv_del(key, namespace=self.namespace)

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin so."""
        return [key.decode() for key in internal_kv._internal_kv_list(prefix, namespace=self.namespace)]
