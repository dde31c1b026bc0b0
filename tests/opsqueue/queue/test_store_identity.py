"""The identity of a store: its marker, and the id that Redis remembers."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from opsqueue.exceptions import ObjectNotFoundError, ObjectUnusableError, StoreUnavailableError
from opsqueue.handlers.app import Opsqueue
from opsqueue.handlers.execute import Failed, GivenBack, execute
from opsqueue.queue.queue import Queue
from opsqueue.queue.store_identity import expect_known_store, identify_store
from opsqueue.store.base import STORE_ID_KEY, read_store_id
from opsqueue.store.local import LocalStore
from opsqueue.store.memory import MemoryStore
from tests.opsqueue.steps import insert, take

app = Opsqueue()


@app.operation_handler("identity")
def twice(operation: int) -> int:
    return 2 * operation


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def known(fake_client: redis.Redis, root: Path) -> LocalStore:
    """A store with an object, which Redis knows."""
    store = LocalStore(str(root))
    identify_store(fake_client, store)
    store.create("41/0-in", b"input")
    return store


def unmount(root: Path) -> None:
    root.rename(root.with_name("unmounted"))
    root.mkdir()


def test_a_new_store_is_given_a_marker_that_all_programs_share(
    fake_client: redis.Redis, root: Path
) -> None:
    """The first one makes it, and it stays."""
    stores = [LocalStore(str(root)) for _ in range(2)]

    for store in stores:
        identify_store(fake_client, store)

    assert {store.store_id for store in stores} == {read_store_id(stores[0], stores[0].url)}
    assert len(stores[0].store_id) == 32


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_known_store_without_its_marker_is_refused(
    fake_client: redis.Redis, known: LocalStore, root: Path, *, is_gone: bool
) -> None:
    """A program that starts while the disk is not mounted makes nothing there."""
    unmount(root)
    if is_gone:
        root.rmdir()

    with pytest.raises(StoreUnavailableError, match=f"must hold {known.store_id}; is the disk"):
        identify_store(fake_client, LocalStore(str(root)))

    assert not root.exists() if is_gone else list(root.iterdir()) == []


def test_another_store_at_a_known_place_is_refused(
    fake_client: redis.Redis, known: LocalStore, root: Path
) -> None:
    """Such as another disk, mounted there."""
    unmount(root)
    LocalStore(str(root)).create(STORE_ID_KEY, b"0" * 32)

    with pytest.raises(StoreUnavailableError, match=r"another store than before \(id 0000"):
        identify_store(fake_client, LocalStore(str(root)))
    assert known.store_id != "0" * 32


def test_a_moved_store_keeps_its_id(
    fake_client: redis.Redis, known: LocalStore, root: Path
) -> None:
    """The marker goes along; another machine may mount it elsewhere, too."""
    moved = LocalStore(str(root.rename(root.with_name("moved"))))

    identify_store(fake_client, moved)

    assert known.store_id == moved.store_id


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.get("41/0-in"),
        lambda store: store.get_range("41/0-in", 0, 1),
        lambda store: store.exists("41/0-in"),
        lambda store: store.create("41/0-out", b"output"),
        lambda store: store.create("top", b""),
        lambda store: store.delete_prefix("41"),
        lambda store: store.delete_objects(["41/0-in"]),
        lambda store: list(store.list_prefix("41")),
        lambda store: list(store.list_objects("41")),
        lambda store: list(store.list_folders("41")),
        lambda store: store.check(),
    ],
)
def test_nothing_is_made_or_missing_where_a_disk_was(
    known: LocalStore, root: Path, use: Callable[[LocalStore], object]
) -> None:
    """Whatever is asked: an empty folder at its place is a store that is away, until it is back."""
    root.rename(root.with_name("unmounted"))

    with pytest.raises(StoreUnavailableError, match="has lost its marker"):
        use(known)

    assert not root.exists()
    root.with_name("unmounted").rename(root)
    use(known)


def test_a_single_missing_object_is_missing(known: LocalStore) -> None:
    """The store itself is there."""
    with pytest.raises(ObjectNotFoundError):
        known.get("41/1-in")


def test_chunks_go_back_while_the_disk_is_away(
    fake_client: redis.Redis, queue_name: str, known: LocalStore, root: Path
) -> None:
    """Without an attempt: their inputs are not missing."""
    queue = Queue(fake_client, queue_name)
    insert(queue)
    (reservation,) = take(queue, 1)
    unmount(root)

    report = execute(reservation, app.handler_of("identity"), known)

    assert isinstance(report, GivenBack)
    assert "lost its marker" in report.reason


def test_memory_has_no_marker(fake_client: redis.Redis, queue_name: str) -> None:
    """Each process has its own contents of one name."""
    store = MemoryStore(queue_name)

    identify_store(fake_client, store)

    assert (store.store_id, list(store.list_prefix(""))) == ("", [])


def test_a_single_unusable_object_uses_an_attempt(
    fake_client: redis.Redis, queue_name: str, known: LocalStore, root: Path
) -> None:
    """Waiting would not help: the store answers for all others."""
    queue = Queue(fake_client, queue_name)
    insert(queue)
    (reservation,) = take(queue, 1)
    folder = root / reservation.source.prefix
    folder.mkdir(parents=True)
    (folder / "0-in").symlink_to("/etc/hostname")

    report = execute(reservation, app.handler_of("identity"), known)

    assert isinstance(report, Failed)
    assert report.failure.type == "opsqueue.exceptions.ObjectUnusableError"


@pytest.mark.parametrize("is_away", [True, False])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EPERM])
def test_one_bad_file_is_told_apart_from_a_store_that_is_away(
    known: LocalStore, monkeypatch: pytest.MonkeyPatch, code: int, *, is_away: bool
) -> None:
    """By its marker: what can't be read like that one is the store itself.

    Root may read anything, so the system's answer is made up.
    """
    opened = os.open

    def refuse(path: str, *rest: Any, **options: Any) -> int:
        if path == "0-in" or (is_away and path == STORE_ID_KEY):
            raise OSError(code, os.strerror(code))
        return opened(path, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)

    with pytest.raises(StoreUnavailableError) as caught:
        known.get("41/0-in")

    assert (type(caught.value) is ObjectUnusableError) is not is_away


def test_commands_that_only_look_mark_no_store_and_refuse_one_that_is_away(
    fake_client: redis.Redis, known: LocalStore, root: Path, tmp_path: Path
) -> None:
    """An unmounted disk has "no orphans", and nothing to restore: that would be believed."""
    other = LocalStore(str(tmp_path / "other"))

    expect_known_store(fake_client, other)
    expect_known_store(fake_client, LocalStore(str(root)))
    unmount(root)

    with pytest.raises(StoreUnavailableError, match=known.store_id):
        expect_known_store(fake_client, LocalStore(str(root)))
    assert not (tmp_path / "other").exists()
