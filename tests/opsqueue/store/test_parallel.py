"""Many objects at once: order, bounded memory, errors."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from opsqueue.exceptions import InvalidArgumentError, ObjectNotFoundError, StoreUnavailableError
from opsqueue.store.memory import MemoryStore
from opsqueue.store.parallel import create_many, get_many

if TYPE_CHECKING:
    from collections.abc import Iterator

AT_ONCE = 4


class GatedStore(MemoryStore):
    """A memory store whose creates wait at a gate, and that counts those inside."""

    def __init__(self, name: str) -> None:
        """Start with the gate closed."""
        super().__init__(name)
        self.gate = threading.Event()
        self.all_inside = threading.Event()
        self.ended = 0
        self._inside = 0
        self._counter_lock = threading.Lock()

    def create(self, key: str, data: bytes) -> bool:
        """Wait for the gate, then store."""
        with self._counter_lock:
            self._inside += 1
            if self._inside == AT_ONCE:
                self.all_inside.set()
        assert self.gate.wait(10)
        with self._counter_lock:
            self.ended += 1
        return super().create(key, data)


def test_reading_ahead_is_bounded(request: pytest.FixtureRequest) -> None:
    """The keys are never consumed more than `at_once` ahead of what was yielded."""
    store = MemoryStore(request.node.name)
    create_many(store, ((str(index), b"%d" % index) for index in range(50)))
    consumed = 0

    def keys() -> Iterator[str]:
        nonlocal consumed
        for index in range(50):
            consumed += 1
            yield str(index)

    ahead = []
    for index, data in enumerate(get_many(store, keys(), at_once=AT_ONCE)):
        assert data == b"%d" % index
        ahead.append(consumed - index)

    assert max(ahead) == AT_ONCE


def test_nothing_is_read_before_it_is_asked_for() -> None:
    """Making the iterator consumes no key."""
    keys = iter(["a", "b"])

    get_many(MemoryStore("none"), keys)

    assert list(keys) == ["a", "b"]


def test_a_missing_object_is_raised_at_its_position(request: pytest.FixtureRequest) -> None:
    """What comes before it is yielded first."""
    store = MemoryStore(request.node.name)
    create_many(store, ((key, key.encode()) for key in "abd"))
    objects = get_many(store, "abcd", at_once=AT_ONCE)

    found = [next(objects), next(objects)]

    assert found == [b"a", b"b"]
    with pytest.raises(ObjectNotFoundError, match="'c'"):
        next(objects)
    assert list(objects) == []


def test_an_iterator_of_objects_can_be_left_early(request: pytest.FixtureRequest) -> None:
    """Closing it leaves no thread behind."""
    store = MemoryStore(request.node.name)
    create_many(store, ((str(index), b"") for index in range(20)))
    objects = get_many(store, map(str, range(20)))
    assert isinstance(objects, Generator)
    next(objects)

    objects.close()

    assert [it for it in threading.enumerate() if it.name.startswith("opsqueue-get")] == []


def test_uploads_hold_a_bounded_number_of_items(request: pytest.FixtureRequest) -> None:
    """With all uploads stuck, no further item is consumed."""
    store = GatedStore(request.node.name)
    consumed = 0

    def items() -> Iterator[tuple[str, bytes]]:
        nonlocal consumed
        for index in range(50):
            consumed += 1
            yield str(index), b""

    def open_gate_when_full() -> None:
        assert store.all_inside.wait(10)
        consumed_while_stuck.append(consumed)
        store.gate.set()

    consumed_while_stuck: list[int] = []
    opener = threading.Thread(target=open_gate_when_full)
    opener.start()
    count = create_many(store, items(), at_once=AT_ONCE)
    opener.join()

    assert count == 50
    assert consumed_while_stuck == [AT_ONCE]


@pytest.mark.parametrize("error", [ValueError("bad row"), KeyboardInterrupt()])
def test_an_error_of_the_iterable_stays_what_it_is(
    request: pytest.FixtureRequest, error: BaseException
) -> None:
    """The very exception propagates, after the uploads in flight have ended."""
    store = GatedStore(request.node.name)

    def items() -> Iterator[tuple[str, bytes]]:
        yield "a", b""
        yield "b", b""
        store.gate.set()
        raise error

    with pytest.raises(type(error)) as caught:
        create_many(store, items(), at_once=AT_ONCE)

    assert caught.value is error
    assert store.ended == 2


def test_the_first_failed_upload_ends_the_rest(request: pytest.FixtureRequest) -> None:
    """Its error is raised and the iterable is left where it is."""

    class FailingStore(MemoryStore):
        def create(self, key: str, data: bytes) -> bool:
            if key == "5":
                message = "disk full"
                raise StoreUnavailableError(message)
            return super().create(key, data)

    store = FailingStore(request.node.name)
    items = ((str(index), b"") for index in range(1_000))

    with pytest.raises(StoreUnavailableError, match="disk full"):
        create_many(store, items, at_once=AT_ONCE)

    key, _ = next(items)
    assert int(key) <= 5 + AT_ONCE


def test_nothing_to_do_is_done() -> None:
    """Empty iterables are fine."""
    store = MemoryStore("none")

    assert create_many(store, []) == 0
    assert list(get_many(store, [])) == []


def test_at_least_one_at_once() -> None:
    """Zero would never end: it is refused at the call."""
    store = MemoryStore("none")

    with pytest.raises(InvalidArgumentError, match="at_once is 0"):
        get_many(store, [], at_once=0)
    with pytest.raises(InvalidArgumentError, match="at_once is 0"):
        create_many(store, [], at_once=0)
