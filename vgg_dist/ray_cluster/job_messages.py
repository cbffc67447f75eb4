"""Messages between the processes of one Ray job: the command, its trainings' controllers and workers, on any node.

Ray's head keeps them in its key-value store. That needs no further process, and each worker may look once a second.
"""

from __future__ import annotations

import ray
from ray.experimental import internal_kv


class JobMessages:
    """The messages of the Ray job that this process belongs to (`stopping.Messages`). Needs a connection to Ray."""

    def __init__(self) -> None:
        self.namespace = f"vgg_dist/{ray.get_runtime_context().get_job_id()}"

    def put(self, key: str, value: str) -> None:
        """Stores a message, replacing one with the same key."""
        internal_kv._internal_kv_put(key, value, namespace=self.namespace)

    def get(self, key: str) -> str | None:
        """The message with this key, or None."""
        value = internal_kv._internal_kv_get(key, namespace=self.namespace)
        return None if value is None else value.decode()

    def remove(self, key: str) -> None:
        """Deletes the message with this key, if there is one."""
        internal_kv._internal_kv_del(key, namespace=self.namespace)

    def keys(self, prefix: str) -> list[str]:
        """All keys with this prefix."""
        return [key.decode() for key in internal_kv._internal_kv_list(prefix, namespace=self.namespace)]
