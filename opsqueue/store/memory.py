"""A store in this process's memory: for tests and for trying things out.

Stores of the same name share their contents within the process, as two clients of one bucket do.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from opsqueue.exceptions import ObjectNotFoundError
from opsqueue.store.base import (
    check_conditional_create,
    check_key,
    deletable_folder_of,
    folder_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# Globals on purpose: they are the outside world in which two stores of one name meet.
_CONTENTS: dict[str, dict[str, bytes]] = {}
_LOCK = threading.Lock()


class MemoryStore:
    """Objects in a dict. Contents live as long as the process."""

    def __init__(self, name: str = "") -> None:
        """Open the contents of this name, empty if it is new."""
        self.url = f"memory://{name}"
        with _LOCK:
            self._objects = _CONTENTS.setdefault(name, {})

    def get(self, key: str) -> bytes:
        """Return an object's content; see `ObjectStore.get`."""
        try:
            return self._objects[check_key(key)]
        except KeyError:
            raise ObjectNotFoundError(key, self.url) from None

    def create(self, key: str, data: bytes) -> bool:
        """Store an object unless the key is taken; see `ObjectStore.create`."""
        check_key(key)
        with _LOCK:
            if key in self._objects:
                return False
            self._objects[key] = bytes(data)
            return True

    def exists(self, key: str) -> bool:
        """Tell whether there is an object of this key."""
        return check_key(key) in self._objects

    def delete_prefix(self, prefix: str) -> int:
        """Delete a folder; see `ObjectStore.delete_prefix`."""
        deletable_folder_of(prefix)
        return sum(self._objects.pop(key, None) is not None for key in self.list_prefix(prefix))

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """Yield the keys of a folder, as it was when the first is asked for."""
        folder = folder_of(prefix)
        yield from [key for key in list(self._objects) if key.startswith(folder)]

    def check(self) -> None:
        """Memory is always there; the probe keeps the store honest."""
        check_conditional_create(self)

    def close(self) -> None:
        """Nothing to give back."""
