"""What every store promises, on all four of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from opsqueue.contents.chunks import store_operations
from opsqueue.contents.codec import open_codec
from opsqueue.exceptions import FormatTooNewError, InvalidArgumentError, ObjectNotFoundError
from opsqueue.store import input_key, output_key
from opsqueue.store.base import upgrade_store
from opsqueue.store.parallel import create_many, get_many

if TYPE_CHECKING:
    from opsqueue.store import ObjectStore

CONTENDERS = 16
BAD_KEYS = [
    *("", "/abs", "a/", "a//b", "..", "a/../b", "./a", "a\x00b", "a\nb", "\ud800"),
    *("x" * 801, ".opsqueue-tmp-1", "a/.opsqueue-tmp-1"),
]


def test_the_first_stored_object_stays(store: ObjectStore) -> None:
    """A second create is refused and changes nothing."""
    first_made = store.create("41/7-out", b"first")

    second_made = store.create("41/7-out", b"second")

    assert (first_made, second_made) == (True, False)
    assert store.get("41/7-out") == b"first"


def test_a_race_for_one_key_has_one_winner(store: ObjectStore) -> None:
    """Of 16 threads exactly one is told that it stored its object, and that is what is there."""
    start = threading.Barrier(CONTENDERS)

    def contend(number: int) -> bool:
        start.wait()
        return store.create("41/7-out", b"%d" % number)

    with ThreadPoolExecutor(CONTENDERS) as pool:
        made = list(pool.map(contend, range(CONTENDERS)))

    assert made.count(True) == 1
    assert store.get("41/7-out") == b"%d" % made.index(True)


def test_objects_come_back_byte_for_byte(store: ObjectStore) -> None:
    """Empty, binary and larger contents are kept as they are."""
    contents = [b"", b"\x00\xff\r\n", bytes(300_000)]
    create_many(store, ((str(index), data) for index, data in enumerate(contents)))

    found = list(get_many(store, ["0", "1", "2"]))

    assert contents == found


@pytest.mark.parametrize(
    ("start", "size_bytes", "expected"),
    [
        (0, 4, b"0123"),
        (3, 4, b"3456"),
        (8, 4, b"89"),
        (0, 10, b"0123456789"),
        (0, 99, b"0123456789"),
        (10, 4, b""),
        (99, 4, b""),
    ],
)
def test_a_range_ends_with_the_object(
    store: ObjectStore, start: int, size_bytes: int, expected: bytes
) -> None:
    """Fewer bytes than were asked for mean that it ends there."""
    store.create("41/7-out", b"0123456789")

    assert expected == store.get_range("41/7-out", start, size_bytes)


def test_an_empty_object_has_an_empty_range(store: ObjectStore) -> None:
    """S3 and GCS answer such a request with an error of their own."""
    store.create("41/7-out", b"")

    assert store.get_range("41/7-out", 0, 4) == b""


@pytest.mark.parametrize("key", ["41/7-in", "41"])
def test_a_range_of_a_missing_object_names_it(store: ObjectStore, key: str) -> None:
    """A folder is no object here either."""
    store.create("41/7-out", b"x")

    with pytest.raises(ObjectNotFoundError) as caught:
        store.get_range(key, 0, 4)

    assert (caught.value.key, caught.value.store) == (key, store.url)


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    """Getting what is not there says key and store."""
    with pytest.raises(ObjectNotFoundError) as caught:
        store.get("41/7-out")

    assert (caught.value.key, caught.value.store) == ("41/7-out", store.url)


def test_a_folder_is_no_object(store: ObjectStore) -> None:
    """The folder of an object exists as little as any other key."""
    store.create("41/7-in", b"x")

    exists = store.exists("41")

    assert not exists
    with pytest.raises(ObjectNotFoundError):
        store.get("41")


def test_exists_tells_what_is_there(store: ObjectStore) -> None:
    """True for the stored key alone."""
    store.create("41/7-in", b"x")

    found = [store.exists(key) for key in ("41/7-in", "41/7-out", "42/7-in", "41/7-in/x")]

    assert found == [True, False, False, False]


def test_delete_prefix_deletes_just_that_folders_objects(store: ObjectStore) -> None:
    """`41` takes neither `412/…` nor what lies below its own folders, and counts what it took."""
    kept = ["412/0-in", "4/0-in", "40-in", "41/42/0-in", "41/42/manifest", "41/0-in-/0-in"]
    own = ["41/0-in", "41/0-out", "41/7-errors", "41/4294967294-in", "41/manifest"]
    create_many(store, ((key, b"x") for key in [*kept, *own]))

    count = store.delete_prefix("41")

    assert count == len(own)
    assert sorted(kept) == sorted(store.list_prefix(""))


def test_delete_prefix_leaves_what_is_not_named_as_ours(store: ObjectStore) -> None:
    """A bucket may hold other things, and one prefix of an earlier version lay above another."""
    kept = [
        *("41/notes.txt", "41/in", "41/0", "41/-in", "41/01-in", "41/0-in.bak", "41/0-IN"),
        *("41/x-in", "41/0-", "41/00000000000-in", "41/manifest2", "41/٣-in", "41/0-in "),
    ]
    create_many(store, ((key, b"x") for key in [*kept, "41/0-in"]))

    count = store.delete_prefix("41")

    assert count == 1
    assert sorted(kept) == sorted(store.list_prefix(""))


def test_delete_prefix_takes_a_folder_with_other_things_in_it_page_by_page(
    store: ObjectStore,
) -> None:
    """Others' objects between ours don't end it."""
    own = [input_key("41", index) for index in range(30)]
    kept = [f"41/{index}/0-in" for index in range(30)]
    create_many(store, ((key, b"x") for key in [*own, *kept]))

    counts = [store.delete_prefix("41"), store.delete_prefix("41")]

    assert counts == [30, 0]
    assert sorted(kept) == sorted(store.list_prefix(""))


def test_deleting_what_is_not_there_deletes_nothing(store: ObjectStore) -> None:
    """A clean-up may be repeated."""
    assert store.delete_prefix("41") == 0


def test_a_deleted_key_can_be_used_again(store: ObjectStore) -> None:
    """After its folder went, a key is as new."""
    store.create("41/0-in", b"old")
    store.delete_prefix("41/")

    made = store.create("41/0-in", b"new")

    assert made
    assert store.get("41/0-in") == b"new"


def test_an_empty_prefix_is_not_deleted(store: ObjectStore) -> None:
    """No slip empties a whole store."""
    store.create("a", b"x")

    with pytest.raises(InvalidArgumentError, match="every object"):
        store.delete_prefix("")

    assert store.exists("a")


def test_list_prefix_gives_the_keys_below(store: ObjectStore) -> None:
    """Keys are given as they were given, with their folder, and without its neighbours."""
    keys = {"41/0-in", "41/0-out", "41/deep/er", "412/0-in"}
    create_many(store, ((key, b"x") for key in keys))

    found = list(store.list_prefix("41"))

    assert sorted(found) == ["41/0-in", "41/0-out", "41/deep/er"]
    assert list(store.list_prefix("43")) == []


def test_many_objects_come_back_in_order(store: ObjectStore) -> None:
    """Created side by side, read ahead, in the order of their keys.

    Fewer where a request takes milliseconds of this machine's time; pages beyond the first are
    tested in test_pages.py.
    """
    total = 1_000 if store.url.startswith(("file:", "memory:")) else 40
    keys = [input_key("41", index) for index in range(total)]

    count = create_many(store, ((key, key.encode()) for key in keys))
    found = list(get_many(store, keys))

    assert total == count
    assert [key.encode() for key in keys] == found
    assert total == store.delete_prefix("41")


def test_a_good_store_passes_its_check(store: ObjectStore) -> None:
    """The check leaves nothing behind."""
    store.check()

    assert list(store.list_prefix("")) == []


def test_a_store_whose_format_is_too_new_is_refused(store: ObjectStore) -> None:
    """Before anything is written to it; a store without a number has the first format."""
    assert upgrade_store(store) == 1
    assert list(store.list_prefix("")) == []
    keys = ["opsqueue-format-2", "opsqueue-format-3"]
    for key in keys:
        store.create(key, b"")

    for use in (
        store.check,
        partial(upgrade_store, store),
        partial(store_operations, store, [1], prefix="41", chunk_size=1, codec=open_codec("json")),
    ):
        with pytest.raises(FormatTooNewError, match=r"^store .* has format 3, .* up to 1: upgrade"):
            use()
    assert keys == sorted(store.list_prefix(""))


def test_unusual_keys_are_kept_exactly(store: ObjectStore) -> None:
    """Letters that HTTP or a shell would treat specially are nothing special."""
    keys = ["ключ/0-in", "a b/+&=?#%2F", "x" * 200]
    create_many(store, ((key, key.encode()) for key in keys))

    listed = sorted(store.list_prefix(""))

    assert sorted(keys) == listed
    assert [key.encode() for key in keys] == list(get_many(store, keys))


def test_bad_keys_are_refused_by_every_store(store: ObjectStore) -> None:
    """Nothing leads out of the store, nothing looks like an unfinished file."""
    for key in BAD_KEYS:
        with pytest.raises(InvalidArgumentError):
            store.create(key, b"x")
        with pytest.raises(InvalidArgumentError):
            store.get(key)
        with pytest.raises(InvalidArgumentError):
            store.exists(key)
    with pytest.raises(InvalidArgumentError):
        store.delete_objects([".."])
    for prefix in ("..", "/abs", "a//b"):
        with pytest.raises(InvalidArgumentError):
            store.delete_prefix(prefix)
        with pytest.raises(InvalidArgumentError):
            list(store.list_prefix(prefix))


def test_a_store_closes_twice(store: ObjectStore) -> None:
    """Closing again is harmless."""
    store.close()
    store.close()


def test_the_objects_of_a_chunk_have_names() -> None:
    """Input and output lie beside each other."""
    keys = (input_key("p/41", 7), output_key("p/41", 7))

    assert keys == ("p/41/7-in", "p/41/7-out")


def test_objects_are_deleted_by_their_keys(store: ObjectStore) -> None:
    """Just these, and what is not there is no trouble."""
    create_many(store, ((key, b"x") for key in ("41/0-in", "41/0-out", "41/1-in")))

    store.delete_objects(["41/0-in", "41/1-in", "41/2-in", "42/0-in", "41/0-out/x"])

    assert list(store.list_prefix("")) == ["41/0-out"]


def test_list_folders_gives_just_the_folders_right_below(store: ObjectStore) -> None:
    """Neither objects nor deeper folders, nor those of a neighbour whose name begins alike."""
    keys = ["a/1/0-in", "a/1/0-out", "a/2/deep/er", "a/loose", "ab/3/0-in", "top"]
    create_many(store, ((key, b"x") for key in keys))

    found = {prefix: sorted(store.list_folders(prefix)) for prefix in ("", "a", "a/1", "none")}

    assert found == {"": ["a", "ab"], "a": ["a/1", "a/2"], "a/1": [], "none": []}


def test_list_objects_gives_size_and_age(store: ObjectStore) -> None:
    """Its instants have a time zone; a store counts some in whole seconds."""
    before = datetime.now(UTC)
    create_many(store, [("41/0-in", b"four"), ("41/1-in", b""), ("42/0-in", b"x")])

    found = {found.key: found for found in store.list_objects("41")}

    assert {key: one.size_bytes for key, one in found.items()} == {"41/0-in": 4, "41/1-in": 0}
    for one in found.values():
        assert abs(one.stored_at - before) < timedelta(seconds=30)
