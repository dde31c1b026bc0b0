"""insert_submission: -> ready."""

from __future__ import annotations

from typing import Any

import pytest
import redis
import zstandard
from cbor2 import dumps
from msgspec.structs import asdict, replace

from opsqueue.exceptions import (
    IdempotencyKeyReusedError,
    InvalidArgumentError,
    SubmissionForgottenError,
)
from opsqueue.model.answers import Forgotten
from opsqueue.model.new_submission import (
    BUILT_IN,
    Backoff,
    idempotency_key_of_retry,
    own_idempotency_key,
)
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import Scripts, queue_names
from tests.opsqueue.steps import (
    FAILURE,
    Clock,
    Raw,
    indexes_of,
    insert,
    listed,
    new_submission,
    prefix_of,
    take,
    take_one,
    tokens_of,
)


def compressed(data: bytes, level: int) -> bytes:
    return zstandard.ZstdCompressor(level).compress(data)


def test_a_submission_is_read_back_as_it_was_inserted(queue: Queue, clock: Clock) -> None:
    """Nothing that a producer gave is lost or changed on the way."""
    new = new_submission(
        queue,
        3,
        chunk_size=10,
        operations_total=25,
        max_attempts=4,
        metadata=b"\x00\xff opaque",
        strategic_metadata={"customer": -(2**63), "priority": 2**63 - 1},
        trace_context={"traceparent": "00-ab-cd-01"},
    )

    inserted = queue.insert_submission(new)

    submission = queue.get_submission(inserted.id)
    assert inserted.is_new
    assert submission.state is SubmissionState.IN_PROGRESS
    assert (new.prefix, new.codec) == (submission.prefix, submission.codec)
    assert (
        submission.chunks_total,
        submission.chunk_size,
        submission.operations_total,
    ) == (3, 10, 25)
    assert submission.max_attempts == 4
    assert new.metadata == submission.metadata
    assert new.strategic_metadata == submission.strategic_metadata
    assert new.trace_context == submission.trace_context
    assert clock.now == submission.created_at.timestamp() * 1000
    assert submission.ended_at is None
    assert submission.last_failure is None


def test_a_known_idempotency_key_answers_the_first_id_and_changes_nothing(queue: Queue) -> None:
    """A producer may repeat an insert whose answer was lost."""
    first = queue.insert_submission(new_submission(queue, 3), idempotency_key="order-7")

    again = queue.insert_submission(new_submission(queue, 3), idempotency_key="order-7")

    assert first.id == again.id
    assert not again.is_new
    assert queue.get_submission(first.id).chunks_total == 3
    assert queue.count_queue().stats["submissions_inserted"] == 1


BASE = {
    "chunk_size": 2,
    "operations_total": 5,
    "max_failed_operations": 3,
    "metadata": b"m",
    "strategic_metadata": {"customer": 7, "region": 1},
}


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"chunk_size": 3, "operations_total": 7}, ("operations_total", "chunk_size")),
        ({"operations_total": 6}, ("operations_total",)),
        ({"codec": "json"}, ("codec",)),
        ({"max_attempts": 9}, ("max_attempts",)),
        ({"backoff": Backoff(first_ms=5)}, ("backoff_first_ms",)),
        ({"backoff": Backoff(max_ms=61_000)}, ("backoff_max_ms",)),
        ({"retention_ms": 5}, ("retention_ms",)),
        ({"max_failed_operations": None}, ("max_failed_operations",)),
        ({"max_failed_operations": 0}, ("max_failed_operations",)),
        ({"delete_inputs_at_completion": True}, ("delete_inputs_at_completion",)),
        ({"metadata": None}, ("metadata",)),
        ({"metadata": b""}, ("metadata",)),
        ({"strategic_metadata": {"customer": 8, "region": 1}}, ("strategic_metadata",)),
        ({"strategic_metadata": {}}, ("strategic_metadata",)),
        ({"metadata": b"n", "max_attempts": 1}, ("metadata", "max_attempts")),
    ],
)
def test_an_idempotency_key_that_comes_with_another_request_is_refused(
    queue: Queue, changes: dict[str, Any], differing: tuple[str, ...]
) -> None:
    """The first submission is named, and what is different; nothing is inserted."""
    first = queue.insert_submission(new_submission(queue, 3, **BASE), idempotency_key="order-7")

    with pytest.raises(IdempotencyKeyReusedError, match=str(first.id)) as raised:
        queue.insert_submission(
            new_submission(queue, 3, **BASE | changes), idempotency_key="order-7"
        )

    assert (raised.value.submission_id, raised.value.differing) == (first.id, differing)
    assert queue.count_queue().stats["submissions_inserted"] == 1
    again = queue.insert_submission(new_submission(queue, 3, **BASE), idempotency_key="order-7")
    assert first.id == again.id


@pytest.mark.parametrize(
    "changes",
    [
        {"trace_context": {"traceparent": "00-ab-cd-01"}},
        {"max_attempts": 10},
        {"backoff": Backoff(first_ms=1_000, max_ms=60_000), "retention_ms": 24 * 3_600_000},
        {"max_failed_operations": 0.6},
        {"strategic_metadata": {"region": 1, "customer": 7}},
        {"inline": [b"a", b"b", b"c"]},
    ],
)
def test_what_says_the_same_in_other_words_is_a_repetition(
    queue: Queue, changes: dict[str, Any]
) -> None:
    """A default, given, and what varies with each try; whichever of both came first."""
    for number, (one, other) in enumerate([({}, changes), (changes, {})]):
        key = f"order-{number}"
        first = queue.insert_submission(new_submission(queue, 3, **BASE | one), idempotency_key=key)

        again = queue.insert_submission(
            new_submission(queue, 3, **BASE | other), idempotency_key=key
        )

        assert (first.id, again.is_new) == (again.id, False)


def test_a_repetition_is_one_whatever_became_of_the_first_and_of_the_defaults(queue: Queue) -> None:
    """The queue's defaults have changed, and the submission itself has."""
    queue.set_defaults({"max_attempts": 2})
    new = new_submission(queue, 3, **BASE)
    id_ = queue.insert_submission(new, idempotency_key="order-7").id
    queue.set_defaults({"max_attempts": 3, "backoff_first_ms": 90_000, "retention_ms": 1})
    queue.update_metadata(id_, {"customer": 8, "region": None})
    queue.cancel_submission(id_)
    queue.retry_submission(id_)

    assert queue.insert_submission(new, idempotency_key="order-7").id == id_
    with pytest.raises(IdempotencyKeyReusedError):
        queue.insert_submission(replace(new, max_attempts=3), idempotency_key="order-7")


def test_a_submission_of_an_earlier_version_is_answered_whatever_was_asked_for(
    queue: Queue, client: redis.Redis, raw: Raw
) -> None:
    """It has no fingerprint. One of a later version may be of a form that is not known."""
    id_ = queue.insert_submission(new_submission(queue, 3), idempotency_key="order-7").id

    for kept in ("2:whatever", None):
        if kept is None:
            client.hdel(raw.key(f"sub:{id_}"), "fingerprint")
        else:
            client.hset(raw.key(f"sub:{id_}"), "fingerprint", kept)
        again = queue.insert_submission(new_submission(queue, 5), idempotency_key="order-7")
        assert again.id == id_


@pytest.mark.parametrize(
    ("codec", "one", "other", "is_same"),
    [
        ("raw", b"x", b"y", False),
        ("raw+zstd", compressed(b"x", 1), compressed(b"x", 19), True),
        ("cbor", dumps([1, 2]), dumps([2, 1]), False),
        ("cbor", dumps([{"a": 1, "b": 2}]), dumps([{"b": 2, "a": 1}]), True),
        ("cbor", dumps([{"a": 1, "b": 2}]), dumps([{"b": 1, "a": 2}]), False),
        ("cbor", dumps([{1, 9}]), dumps([{9, 1}]), True),
        ("cbor", dumps([{1, 2}]), dumps([{2, 1, 3}]), False),
        ("cbor+zstd", compressed(dumps([1]), 1), compressed(dumps([1]), 19), True),
        ("cbor+zstd", compressed(dumps([1]), 1), compressed(dumps([2]), 1), False),
        ("cbor+zstd", b"damaged", b"damaged too", True),
        ("cbor+zstd", compressed(dumps(["x" * 2_000_000]), 1), compressed(dumps([""]), 1), True),
        ("msgpack", b"\x91\x92\x01\x02", b"\x91\x92\x02\x01", True),
        ("json", b'[{"a": 1, "b": 2}]', b'[{"b":2,"a":1}]', True),
        ("json", b"[[1, 2]]", b"[[2, 1]]", False),
        ("pickle", b"one", b"other", True),
        ("own", b"one", b"other", True),
    ],
)
def test_contents_that_come_along_are_compared_where_they_can_be(
    queue: Queue, codec: str, one: bytes, other: bytes, *, is_same: bool
) -> None:
    """Not by what compressed them; nor where equal operations may have different bytes.

    MessagePack has lists of what were sets, whose order differs from process to process.
    """
    first, second = (new_submission(queue, 1, codec=codec, inline=[data]) for data in (one, other))
    id_ = queue.insert_submission(first, idempotency_key="order-7").id

    if is_same:
        assert queue.insert_submission(second, idempotency_key="order-7").id == id_
    else:
        with pytest.raises(IdempotencyKeyReusedError) as raised:
            queue.insert_submission(second, idempotency_key="order-7")
        assert raised.value.differing == ("operations",)


def test_what_is_kept_of_a_request_does_not_grow_with_it_and_is_not_kept_for_a_clients_own_key(
    queue: Queue, client: redis.Redis, raw: Raw
) -> None:
    """Some 70 bytes, once."""
    large = new_submission(queue, 2, metadata=b"m" * 60_000, inline=[b"x" * 100_000] * 2)
    of_caller = queue.insert_submission(large, idempotency_key="k").id
    keys = (own_idempotency_key(), idempotency_key_of_retry(of_caller, 3), "")
    others = [queue.insert_submission(new_submission(queue), idempotency_key=key) for key in keys]

    fingerprint = client.hget(raw.key(f"sub:{of_caller}"), "fingerprint")

    assert fingerprint is not None
    assert len(fingerprint) < 80
    for other in others:
        assert client.hget(raw.key(f"sub:{other.id}"), "fingerprint") is None


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_an_idempotency_key_that_outlives_its_submission_says_how_that_ended(
    queue: Queue, clock: Clock, end: str
) -> None:
    """The insert is not repeated, and the answer names the final state."""
    new = new_submission(queue, 1, retention_ms=10, max_attempts=1)
    id_ = queue.insert_submission(new, idempotency_key="order-7").id
    match end:
        case "completed":
            queue.complete_chunks([take_one(queue).token])
        case "failed":
            queue.fail_chunk(take_one(queue).token, FAILURE)
        case _:
            queue.cancel_submission(id_)
    clock.advance(10)
    queue.forget_submissions()

    with pytest.raises(SubmissionForgottenError) as raised:
        queue.insert_submission(new_submission(queue), idempotency_key="order-7")

    assert (raised.value.submission_id, raised.value.state) == (id_, end)


@pytest.mark.parametrize(
    ("key", "kept_ms"),
    [(own_idempotency_key(), 600_000), ("order-7", 86_400_000)],
    ids=["own", "given"],
)
def test_a_clients_own_key_is_remembered_for_as_long_as_it_repeats(
    queue: Queue, client: redis.Redis, raw: Raw, clock: Clock, key: str, kept_ms: int
) -> None:
    """A caller's key is remembered for a day; what is kept of a forgotten submission, as long."""
    new = new_submission(queue, 0, retention_ms=0)
    id_ = queue.insert_submission(new, idempotency_key=key).id
    queue.forget_submissions()

    for name in (f"idem:{key}", f"forgotten:{id_}"):
        assert kept_ms - 60_000 < client.pttl(raw.key(name)) <= kept_ms


def test_an_idempotency_key_is_known_before_its_prefix_is_found_taken(queue: Queue) -> None:
    """A repeated insert has the same prefix and must not be refused for it."""
    new = new_submission(queue, 3)
    first = queue.insert_submission(new, idempotency_key="order-7")

    again = queue.insert_submission(new, idempotency_key="order-7")

    assert first.id == again.id


def test_an_idempotency_key_that_is_kept_for_no_time_is_refused_before_anything_is_stored(
    queue: Queue,
) -> None:
    """Redis refuses an expiry of 0, in the middle of the script."""
    with pytest.raises(InvalidArgumentError, match="idempotency_ms is 0"):
        queue.insert_submission(new_submission(queue), idempotency_key="k", idempotency_ms=0)

    assert listed(queue, SubmissionState.IN_PROGRESS) == []


def test_a_prefix_of_another_submission_is_refused(queue: Queue) -> None:
    """Two submissions in one folder would overwrite each other's chunks."""
    prefix = prefix_of(queue, "shared")
    owner = insert(queue, prefix=prefix)

    with pytest.raises(InvalidArgumentError, match=f"belongs to submission {owner}"):
        insert(queue, prefix=prefix)

    assert [owner] == [s.id for s in listed(queue, SubmissionState.IN_PROGRESS)]


DIGITS = "0123456789abcdef" * 2
OTHER_FORMS = [
    *("other", f"other/{DIGITS}", "{queue}", "{queue}/1", f"{{queue}}/{DIGITS}/1"),
    *(f"{{queue}}/{DIGITS[1:]}", f"{{queue}}/{DIGITS}0", f"{{queue}}/{DIGITS.upper()}", DIGITS),
    *(f"{{queue}}x/{DIGITS}", f"{{queue}}/x/{DIGITS}"),
]


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_a_prefix_of_another_form_than_the_queues_is_refused(queue: Queue, form: str) -> None:
    """Its objects may be those of another queue, or lie above or below another submission's."""
    prefix = form.format(queue=queue.name)

    with pytest.raises(InvalidArgumentError, match=r"32 hexadecimal digits"):
        insert(queue, 0, prefix=prefix, retention_ms=0)
    with pytest.raises(InvalidArgumentError, match=r"32 hexadecimal digits"):
        queue.discard_prefixes([prefix])

    assert listed(queue, SubmissionState.COMPLETED) == []
    assert queue.forget_submissions() == Forgotten(0, ())


@pytest.mark.parametrize(
    "form", [*OTHER_FORMS, f"{{queue}}/{DIGITS[1:]}\n", f"{{queue}}/{DIGITS}\0"]
)
@pytest.mark.parametrize("partition", [0, 3])
def test_the_script_itself_refuses_a_prefix_of_another_form(
    client: redis.Redis, queue_name: str, form: str, partition: int
) -> None:
    """Whatever a client checks before."""
    scripts = Scripts(client, queue_name, partition=partition)
    prefix = form.format(queue=queue_name)

    answer = scripts.call(
        "insert_submission", partition="00", partitions="", idempotency="", idempotency_ms=1,
        prefix=prefix, chunks_total=0, chunk_size=1, operations_total=0, meta_count=0,
        inline_count=0, **asdict(BUILT_IN),
        **{f"fallback_{name}": of for name, of in asdict(BUILT_IN).items()},
    )  # fmt: skip
    discarded = scripts.call("discard_prefixes", step="discard", rest=[prefix])

    assert answer == [b"prefix_refused"]
    assert discarded == [b"discarded", []]
    assert list(client.scan_iter(match=f"*{queue_name}*", count=10_000)) == []


@pytest.mark.parametrize("name", ["f" * 32, "a.b-c_d", "x" * 100, "0"])
def test_a_prefix_of_any_queues_name_is_taken(client: redis.Redis, name: str) -> None:
    """Also where the name looks like the digits, or like a pattern."""
    queue = Queue(client, name)

    id_ = insert(queue, 0, retention_ms=0)

    assert queue.get_submission(id_).prefix.startswith(f"{name}/")


def test_a_submission_without_chunks_is_completed_at_once(queue: Queue, raw: Raw) -> None:
    """There is nothing to wait for."""
    id_ = insert(queue, 0)

    submission = queue.get_submission(id_)
    assert submission.state is SubmissionState.COMPLETED
    assert submission.ended_at == submission.created_at
    assert raw.ready() == []
    assert queue.count_queue().stats.get("backlog_chunks", 0) == 0


def test_ids_have_19_digits_and_begin_with_the_instant(queue: Queue, clock: Clock) -> None:
    """Readable, and they sort by creation."""
    id_ = insert(queue)

    assert f"{clock.now}000000" == str(id_)


def test_ids_ascend_when_the_clock_steps_back(queue: Queue, clock: Clock) -> None:
    """An order by id is an order by insertion, whatever the clock does."""
    first = insert(queue)
    clock.advance(-60_000)

    second = insert(queue)

    assert first + 100 == second


def test_ids_ascend_past_ten_thousand_in_a_millisecond(
    client: redis.Redis, queue: Queue, raw: Raw, clock: Clock
) -> None:
    """The sequence has four digits and then borrows from the next millisecond."""
    client.set(raw.key("last_id"), f"{clock.now}9999")

    borrowed = insert(queue)
    following = insert(queue)

    assert SubmissionId(f"{clock.now + 1}000000") == borrowed
    assert SubmissionId(f"{clock.now + 1}000100") == following


def test_the_queue_is_listed_by_its_name(
    client: redis.Redis, queue: Queue, queue_name: str
) -> None:
    """Lists show a queue from its first submission on."""
    insert(queue)

    assert queue_name in queue_names(client)


def test_an_inserted_submission_can_be_reserved_from_its_first_chunk(queue: Queue) -> None:
    """The cursor begins at 0."""
    insert(queue, 3)

    chunks = take(queue, 10)

    assert indexes_of(chunks) == [0, 1, 2]
    assert [chunk.attempt for chunk in chunks] == [1, 1, 1]


@pytest.mark.parametrize("idempotency_ms", [2**63 - 1, 2**64])
def test_an_idempotency_key_that_is_kept_for_too_long_is_refused_before_anything_is_stored(
    queue: Queue, idempotency_ms: int
) -> None:
    """Redis refuses such an expiry when the submission stands there already."""
    with pytest.raises(InvalidArgumentError, match="idempotency_ms is"):
        queue.insert_submission(
            new_submission(queue), idempotency_key="k", idempotency_ms=idempotency_ms
        )

    assert listed(queue, SubmissionState.IN_PROGRESS) == []


def test_totals_that_are_full_stop_no_insert(queue: Queue, raw: Raw) -> None:
    """Some 1,000 submissions of 2**53 operations make one overflow; it can only grow."""
    insert(queue, 1)
    for total in ("operations_inserted", "backlog_operations", "operations_completed"):
        raw.client.hset(raw.key("stats"), total, 2**63 - 1)

    id_ = insert(queue, 1)
    queue.complete_chunks(tokens_of(take(queue, 2)))

    assert queue.get_submission(id_).state is SubmissionState.COMPLETED
    assert queue.count_queue().stats["operations_completed"] >= 2**63 - 1
