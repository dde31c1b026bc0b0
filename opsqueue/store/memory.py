"""A store in this process's memory, for tests and experiments. A forked child has a copy.

Stores with the same name share their contents within the process, as two clients of a bucket do.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from opsqueue.exceptions import ObjectNotFoundError
from opsqueue.model.process import PerProcess
from opsqueue.store.base import (
    StoredObject,
    check_conditional_create,
    check_key,
    deletable_folder_of,
    folder_of,
    is_own_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Globals on purpose: they are the outside world, in which two stores of one name meet.
_CONTENTS: dict[str, dict[str, bytes]] = {}
_STORED_AT: dict[str, dict[str, datetime]] = {}
_LOCK = PerProcess(threading.Lock)


class MemoryStore:
    """Objects in a dict. The contents live as long as the process."""

    def __init__(self, name: str = "") -> None:
        """Open the contents with this name; a new name is empty."""
        self.url = f"memory://{name}"
        self.store_id = ""
        with _LOCK.get():
            self._objects = _CONTENTS.setdefault(name, {})
            self._stored_at = _STORED_AT.setdefault(name, {})

    def get(self, key: str) -> bytes:
        """Return an object's content; see `ObjectStore.get`."""
        try:
            return self._objects[check_key(key)]
        except KeyError:
            raise ObjectNotFoundError(key, self.url) from None

    def get_range(self, key: str, start: int, size_bytes: int) -> bytes:
        """Return a part of an object's content; see `ObjectStore.get_range`."""
        return self.get(key)[start : start + size_bytes]

    def create(self, key: str, data: bytes) -> bool:
        """Store an object unless the key is taken; see `ObjectStore.create`."""
        check_key(key)
        with _LOCK.get():
            if key in self._objects:
                return False
            self._objects[key] = bytes(data)
            self._stored_at[key] = datetime.now(UTC)
            return True

    def exists(self, key: str) -> bool:
        """Return whether an object with this key exists."""
        return check_key(key) in self._objects

    def delete_prefix(self, prefix: str) -> int:
        """Delete a submission's objects; see `ObjectStore.delete_prefix`."""
        folder = deletable_folder_of(prefix)
        keys = self.list_prefix(prefix)
        return sum(self._pop(key) for key in keys if is_own_name(key.removeprefix(folder)))

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """Yield the keys of a folder, as it was when the first key was requested."""
        folder = folder_of(prefix)
        yield from [key for key in list(self._objects) if key.startswith(folder)]

    def delete_objects(self, keys: Iterable[str]) -> None:
        """Delete objects; see `ObjectStore.delete_objects`."""
        for key in keys:
            self._pop(check_key(key))

    def list_folders(self, prefix: str) -> Iterator[str]:
        """Yield the folders of a folder, as it was when the first one was requested."""
        folder = folder_of(prefix)
        below = (key.removeprefix(folder) for key in self.list_prefix(prefix))
        yield from {folder + name.partition("/")[0] for name in below if "/" in name}

    def list_objects(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects of a folder; see `ObjectStore.list_objects`."""
        for key in self.list_prefix(prefix):
            with _LOCK.get():
                data, stored_at = self._objects.get(key), self._stored_at.get(key)
            if data is not None and stored_at is not None:
                yield StoredObject(key, len(data), stored_at)

    def check(self) -> None:
        """Run the same probe as other stores, although memory is always available."""
        check_conditional_create(self)

    def close(self) -> None:
        """Do nothing: there are no connections."""

    def _pop(self, key: str) -> bool:
        with _LOCK.get():
            self._stored_at.pop(key, None)
            return self._objects.pop(key, None) is not None
