"""Orphans: uploads that were never inserted, found in the store and deleted.

A producer that dies during an upload leaves objects without a submission. Their prefix tells when
the upload began (`contents.fresh_prefix`), and the ages of their objects tell when it was last
active: both must be old. Other prefixes are kept, since nothing tells how old they are. The I/O is
that of the store and of the queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

from opsqueue.contents.chunks import began_at
from opsqueue.exceptions import EncodingError, ObjectNotFoundError
from opsqueue.http.manifest import read_manifest
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore
from opsqueue.store.base import is_own_name

_PAGE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """An upload that was never submitted."""

    prefix: str
    began_at: datetime
    objects: int
    size_bytes: int


def find_orphans(store: ObjectStore, queue: Queue, *, older_than: datetime) -> Iterator[Orphan]:
    """Yield a queue's orphans, looking them up a page at a time.

    On a folder that ignores the case of letters, queues `jobs` and `Jobs` have one folder. So a
    prefix is skipped if its manifest names another queue. One without a manifest is skipped if its
    folder's name differs from the queue's in any letter.

    Args:
        store: the store whose objects are listed.
        queue: the queue that knows its submissions.
        older_than: orphans began before this instant and have no later object.

    Raises:
        StoreUnavailableError, RedisUnavailableError: the store or Redis does not answer.
    """
    old = (
        prefix
        for prefix in store.list_folders(queue.name)
        if (began := began_at(prefix)) is not None and began < older_than
    )
    has_folder = queue.name in store.list_folders("")
    for page in _pages(old):
        for prefix in queue.unknown_prefixes(page):
            orphan = _look_at(store, prefix, older_than)
            if orphan is not None and _is_of(queue.name, store, prefix, has_folder=has_folder):
                yield orphan


def delete_orphans(store: ObjectStore, queue: Queue, prefixes: Iterable[str]) -> Iterator[str]:
    """Delete the objects of orphans; yield the prefixes that are done.

    Each prefix is first marked in Redis as pending deletion. Then a late insert of it is refused, a
    submission inserted in the meantime keeps its objects, and sweepers delete what a crash leaves.
    """
    for page in _pages(prefixes):
        for prefix in queue.discard_prefixes(page):
            store.delete_prefix(prefix)
            queue.forget_submissions(limit=1, deleted_prefixes=[prefix])
            yield prefix


def _is_of(queue: str, store: ObjectStore, prefix: str, *, has_folder: bool) -> bool:
    try:
        return read_manifest(store, prefix).queue == queue
    except (ObjectNotFoundError, EncodingError):  # the upload did not get that far
        return has_folder


def _look_at(store: ObjectStore, prefix: str, older_than: datetime) -> Orphan | None:
    began = began_at(prefix)
    objects = size_bytes = 0
    has_others = False
    for found in store.list_objects(prefix):
        if not is_own_name(found.key.removeprefix(f"{prefix}/")):
            has_others = True  # an object of another kind, which is kept
            continue
        if found.stored_at >= older_than:
            return None  # an upload that began long ago and is still active
        objects += 1
        size_bytes += found.size_bytes
    if has_others and not objects:
        return None
    if began is None:
        raise AssertionError(prefix)
    return Orphan(prefix=prefix, began_at=began, objects=objects, size_bytes=size_bytes)


def _pages(items: Iterable[str]) -> Iterator[Sequence[str]]:
    rest = iter(items)
    while page := list(islice(rest, _PAGE)):
        yield page
