"""Stores that were used before a fork."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from opsqueue.store.memory import _LOCK, MemoryStore
from tests.forks import Child, in_child

if TYPE_CHECKING:
    from opsqueue.store import ObjectStore

ROUNDS = 2
CHILDREN = 2


def wrong(store: ObjectStore, contents: dict[str, bytes]) -> list[str]:
    """Read all objects, four at a time; return the keys whose content was wrong."""
    with ThreadPoolExecutor(4) as threads:
        found = dict(zip(contents, threads.map(store.get, contents), strict=True))
    return [key for key, data in contents.items() if found[key] != data]


def test_a_child_uses_connections_of_its_own(store: ObjectStore) -> None:
    """Parent and children read at once; all that each gets is what it asked for."""
    contents = {f"q/{index}-in": b"%d" % index * 200 for index in range(8)}
    for key, data in contents.items():
        store.create(key, data)

    for _ in range(ROUNDS):
        assert wrong(store, contents) == []  # opens connections
        children = [Child(partial(wrong, store, contents)) for _ in range(CHILDREN)]
        assert wrong(store, contents) == []
        assert [child.result() for child in children] == [[]] * CHILDREN


def test_what_a_child_closes_stays_open_in_its_parent(store: ObjectStore) -> None:
    """Also where the child has used it."""
    store.create("q/0-in", b"data")

    def use_and_close() -> bytes:
        data = store.get("q/0-in")
        store.close()
        return data

    assert in_child(use_and_close) == b"data"
    in_child(store.close)
    assert store.get("q/0-in") == b"data"


def test_a_fork_in_the_middle_of_other_threads_calls_leaves_no_lock_behind(
    store: ObjectStore,
) -> None:
    """Threads of the parent read all the time."""
    contents = {f"q/{index}-in": b"%d" % index for index in range(8)}
    for key, data in contents.items():
        store.create(key, data)
    is_over = threading.Event()

    def read_on() -> list[str]:
        found: list[str] = []
        while not is_over.is_set():
            found += wrong(store, contents)
        return found

    with ThreadPoolExecutor(2) as threads:
        readers = [threads.submit(read_on) for _ in range(2)]
        try:
            found = [in_child(partial(wrong, store, contents)) for _ in range(ROUNDS)]
        finally:
            is_over.set()
        assert [*found, *(reader.result() for reader in readers)] == [[]] * (ROUNDS + 2)


def test_a_memory_store_is_not_locked_for_ever_in_a_child() -> None:
    """A thread of the parent was storing something when the process forked."""
    store = MemoryStore("forked")

    with _LOCK.get():
        assert in_child(lambda: store.create("q/1", b"x"), within_s=10)

    assert not store.exists("q/1")  # a child has a copy
