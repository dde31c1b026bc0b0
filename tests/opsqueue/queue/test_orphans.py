"""Orphans are found, and only orphans."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import redis

from opsqueue.contents.chunks import began_at, fresh_prefix
from opsqueue.exceptions import InvalidArgumentError
from opsqueue.http.manifest import store_manifest
from opsqueue.queue.orphans import delete_orphans, find_orphans
from opsqueue.queue.queue import Queue
from opsqueue.store import StoredObject
from opsqueue.store.memory import MemoryStore
from tests.opsqueue.steps import insert, new_submission

DAY = timedelta(days=1)


@pytest.fixture
def store(queue_name: str) -> MemoryStore:
    return MemoryStore(queue_name)


@pytest.fixture
def queue(fake_client: redis.Redis, queue_name: str) -> Queue:
    return Queue(fake_client, queue_name)


def old_prefix(queue: Queue, age: timedelta = 2 * DAY) -> str:
    """As `fresh_prefix` gave it then."""
    ms = time.time_ns() // 1_000_000 - int(age.total_seconds() * 1000)
    return f"{queue.name}/{ms:012x}{secrets.token_hex(10)}"


def found(store: MemoryStore, queue: Queue, older_than: datetime | None = None) -> list[str]:
    # Objects of a memory store are all of now: tests of a prefix's age look from tomorrow.
    older_than = older_than or datetime.now(UTC) + timedelta(seconds=1)
    return [orphan.prefix for orphan in find_orphans(store, queue, older_than=older_than)]


def test_an_old_upload_that_no_submission_has_is_an_orphan(
    store: MemoryStore, queue: Queue
) -> None:
    """Told with its age, its objects and its size."""
    prefix = old_prefix(queue)
    store.create(f"{prefix}/0-in", b"four")
    store.create(f"{prefix}/1-in", b"seven..")

    (orphan,) = find_orphans(store, queue, older_than=datetime.now(UTC) + timedelta(seconds=1))

    assert (orphan.prefix, orphan.objects, orphan.size_bytes) == (prefix, 2, 11)
    assert began_at(prefix) == orphan.began_at


def test_what_a_submission_has_is_no_orphan(store: MemoryStore, queue: Queue) -> None:
    """Also an ended one's."""
    running, ended = old_prefix(queue), old_prefix(queue)
    for prefix in (running, ended):
        store.create(f"{prefix}/0-in", b"x")
    insert(queue, 1, prefix=running)
    queue.cancel_submission(insert(queue, 1, prefix=ended))

    assert found(store, queue) == []


def test_a_young_upload_is_no_orphan(store: MemoryStore, queue: Queue) -> None:
    """Its insert comes when it is done."""
    store.create(f"{fresh_prefix(queue.name)}/0-in", b"x")

    assert found(store, queue, datetime.now(UTC) - DAY) == []


def test_an_upload_that_goes_on_is_no_orphan_however_long_ago_it_began(
    store: MemoryStore, queue: Queue
) -> None:
    """Its last object is young."""
    store.create(f"{old_prefix(queue)}/0-in", b"x")

    assert found(store, queue, datetime.now(UTC) - DAY) == []


def test_prefixes_of_other_forms_and_other_queues_are_left_alone(
    store: MemoryStore, queue: Queue
) -> None:
    """Their age is unknown, or they belong to another queue."""
    for prefix in (f"{queue.name}/2026-11-23", f"{queue.name}/{'f' * 32}", "other/" + "0" * 32):
        store.create(f"{prefix}/0-in", b"x")
    store.create(f"{queue.name}/loose", b"x")

    assert found(store, queue) == []


def test_orphans_beyond_a_page_are_found(store: MemoryStore, queue: Queue) -> None:
    """They are looked up 100 at a time."""
    prefixes = {old_prefix(queue) for _ in range(205)}
    for prefix in prefixes:
        store.create(f"{prefix}/0-in", b"x")

    assert prefixes == set(found(store, queue))


def test_deleted_orphans_are_gone(store: MemoryStore, queue: Queue) -> None:
    """And their prefixes free."""
    prefix = old_prefix(queue)
    store.create(f"{prefix}/0-in", b"x")

    deleted = list(delete_orphans(store, queue, found(store, queue)))

    assert [prefix] == deleted
    assert list(store.list_prefix("")) == []
    assert queue.forget_submissions().prefixes == ()


def test_an_upload_that_is_submitted_meanwhile_keeps_its_objects(
    store: MemoryStore, queue: Queue
) -> None:
    """The insert comes between the listing and the deletion."""
    prefix = old_prefix(queue)
    store.create(f"{prefix}/0-in", b"x")
    orphans = found(store, queue)
    insert(queue, 1, prefix=prefix)

    deleted = list(delete_orphans(store, queue, orphans))

    assert ([prefix], []) == (orphans, deleted)
    assert store.exists(f"{prefix}/0-in")


def test_what_is_not_ours_in_an_orphans_folder_stays(store: MemoryStore, queue: Queue) -> None:
    """Then nothing of an orphan is left, and it is not found again."""
    prefix = old_prefix(queue)
    kept = [f"{prefix}/notes.txt", f"{prefix}/deep/0-in"]
    for key in [*kept, f"{prefix}/0-in"]:
        store.create(key, b"x")

    (orphan,) = find_orphans(store, queue, older_than=datetime.now(UTC) + timedelta(seconds=1))
    deleted = list(delete_orphans(store, queue, [orphan.prefix]))

    assert (orphan.objects, deleted) == (1, [prefix])
    assert sorted(kept) == sorted(store.list_prefix(""))
    assert found(store, queue) == []


def test_prefixes_of_another_queue_are_no_orphans_to_be_deleted(
    store: MemoryStore, queue: Queue
) -> None:
    """That queue's submission may have them."""
    other = f"other/{'0' * 32}"
    store.create(f"{other}/0-in", b"x")

    for prefix in (other, "other", f"{other}/1"):
        with pytest.raises(InvalidArgumentError, match=f"not one of queue {queue.name}"):
            list(delete_orphans(store, queue, [prefix]))

    assert store.exists(f"{other}/0-in")
    assert queue.forget_submissions().prefixes == ()


class FoldingStore(MemoryStore):
    """Store objects like a case-insensitive folder, which keeps the first name."""

    def list_folders(self, prefix: str) -> Iterator[str]:
        folders = sorted(super().list_folders(""))
        if not prefix:
            yield from folders
            return
        for folder in folders:
            if folder.lower() == prefix.lower():
                for below in super().list_folders(folder):
                    yield prefix + below.removeprefix(folder)

    def list_objects(self, prefix: str) -> Iterator[StoredObject]:
        for found in super().list_objects(""):
            if found.key.lower().startswith(f"{prefix.lower()}/"):
                yield replace(found, key=prefix + found.key[len(prefix) :])

    def get(self, key: str) -> bytes:
        own = next((found for found in self.list_prefix("") if found.lower() == key.lower()), key)
        return super().get(own)


@pytest.mark.parametrize("is_inserted", [True, False])
def test_a_queue_of_almost_the_same_name_keeps_its_submissions(
    fake_client: redis.Redis, queue_name: str, *, is_inserted: bool
) -> None:
    """On such a folder the submissions of `Jobs` are listed for `jobs`, which knows none of them.

    Also uploads under way, which have no manifest yet.
    """
    store = FoldingStore(queue_name)
    large = Queue(fake_client, f"Jobs-{queue_name}")
    small = Queue(fake_client, f"jobs-{queue_name}")
    prefix = old_prefix(large)
    store.create(f"{prefix}/0-in", b"input")
    if is_inserted:
        store_manifest(store, large.name, new_submission(large, 1, prefix=prefix), "")
        store.create(f"{small.name}/other", b"makes the folder's name no witness")

    assert found(store, small) == []
    assert found(store, large) == [prefix]
