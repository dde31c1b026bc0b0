"""The values of a new submission, and the status of a submission."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.new_submission import (
    BUILT_IN,
    MAX_CHUNKS,
    MAX_METADATA_BYTES,
    MAX_STRATEGIC_PAIRS,
    Backoff,
    Defaults,
    NewSubmission,
    check_strategic_metadata,
)
from opsqueue.model.submission import Failure, Submission, SubmissionId, SubmissionState

AT = datetime(2026, 11, 23, tzinfo=UTC)
FAILURE = Failure(chunk_index=1, attempt=3, at=AT, type="E", message="bad", traceback="")


def submission(**fields: Any) -> Submission:
    values: dict[str, Any] = {
        "id": SubmissionId(1),
        "queue": "q",
        "state": SubmissionState.IN_PROGRESS,
        "prefix": "p",
        "codec": "json",
        "chunks_total": 10,
        "chunks_done": 4,
        "chunks_in_hand": 2,
        "chunks_failed": 0,
        "chunk_size": 100,
        "operations_total": 950,
        "operations_done": 400,
        "operations_failed": 0,
        "max_failed_operations": None,
        "max_attempts": 3,
        "backoff": Backoff(first_ms=5, max_ms=7),
        "retention_ms": 3_600_000,
        "delete_inputs_at_completion": True,
        "metadata": None,
        "strategic_metadata": {},
        "trace_context": {},
        "is_inline": False,
        "created_at": AT,
        "ended_at": None,
        "last_failure": None,
    }
    return Submission(**{**values, **fields})


# Ids


def test_an_id_shows_its_19_digits() -> None:
    """In messages and in URLs alike, with the zeros in front."""
    id_ = SubmissionId(42)

    assert str(id_) == f"{id_}" == "0000000000000000042"
    assert f"{id_:>21}" == "  0000000000000000042"
    assert repr(id_) == "SubmissionId(id=42)"
    assert id_.id == 42


def test_an_id_is_made_from_an_int_or_its_digits() -> None:
    """Both forms convert to each other."""
    digits = "1795000000000000100"

    assert SubmissionId(digits) == SubmissionId(1_795_000_000_000_000_100)
    assert str(SubmissionId(digits)) == digits


def test_an_id_is_an_int_that_survives_pickling() -> None:
    """It goes to pool processes."""
    id_ = SubmissionId(7)

    copy = pickle.loads(pickle.dumps(id_))  # noqa: S301 our own bytes

    assert copy == id_ == 7
    assert type(copy) is SubmissionId
    assert json.dumps({"id": str(id_)}) == '{"id": "0000000000000000007"}'


# New submissions


def test_every_chunk_is_full_unless_said_otherwise() -> None:
    """operations_total has a default."""
    assert NewSubmission(prefix="p", chunks_total=3, chunk_size=10).operations == 30
    assert (
        NewSubmission(prefix="p", chunks_total=3, chunk_size=10, operations_total=21).operations
        == 21
    )


def test_attempts_back_off_and_retention_are_the_queues_unless_they_are_given() -> None:
    """Built in are 10 attempts, 1 s doubling to 60 s, and a day."""
    new = NewSubmission(prefix="p", chunks_total=1)

    assert Defaults() == new.own_defaults
    assert Backoff(first_ms=1_000, max_ms=60_000) == Backoff(
        first_ms=BUILT_IN.backoff_first_ms, max_ms=BUILT_IN.backoff_max_ms
    )
    assert (BUILT_IN.max_attempts, BUILT_IN.retention_ms) == (10, 24 * 3600 * 1000)


@pytest.mark.parametrize(
    "prefix", ["p", "a/b", "default/0192-aB_c.d=e", "_x", "x" * 200, "2026/11/23/run-1"]
)
def test_a_prefix_is_a_path_below_the_store(prefix: str) -> None:
    """Letters, digits and ._=- in parts."""
    assert prefix == NewSubmission(prefix=prefix, chunks_total=1).prefix


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        "..",
        "../a",
        "a/../b",
        "a/.",
        ".a",
        "-a",
        "a b",
        "ä",
        "a\n",
        "a\\b",
        "x" * 201,
    ],
)
def test_a_prefix_can_not_lead_out_of_the_store(prefix: str) -> None:
    """Nor hide files, nor be an option on a command line."""
    with pytest.raises(InvalidArgumentError, match="prefix"):
        NewSubmission(prefix=prefix, chunks_total=1)


@pytest.mark.parametrize("chunks_total", [-1, MAX_CHUNKS + 1])
def test_the_number_of_chunks_has_limits(chunks_total: int) -> None:
    """A chunk is a bit of a string in Redis."""
    with pytest.raises(InvalidArgumentError, match=f"chunks_total is {chunks_total}"):
        NewSubmission(prefix="p", chunks_total=chunks_total)


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_a_chunk_has_at_least_one_operation(chunk_size: int) -> None:
    """Zero can't be meant."""
    with pytest.raises(InvalidArgumentError, match=f"chunk_size is {chunk_size}"):
        NewSubmission(prefix="p", chunks_total=1, chunk_size=chunk_size)


@pytest.mark.parametrize("operations_total", [20, 31, -1])
def test_all_chunks_but_the_last_are_full(operations_total: int) -> None:
    """Three of ten hold 21 to 30."""
    with pytest.raises(InvalidArgumentError, match="3 chunks of 10 hold 21 to 30"):
        NewSubmission(prefix="p", chunks_total=3, chunk_size=10, operations_total=operations_total)


def test_a_submission_without_chunks_has_no_operations() -> None:
    """And says so when it is given some."""
    assert NewSubmission(prefix="p", chunks_total=0, chunk_size=10).operations == 0
    with pytest.raises(InvalidArgumentError, match="hold 0 to 0"):
        NewSubmission(prefix="p", chunks_total=0, operations_total=1)


def test_operations_that_redis_could_not_count_are_refused() -> None:
    """Lua's numbers are exact to 2**53: a script would fail half-way with more."""
    NewSubmission(prefix="p", chunks_total=2**27, chunk_size=2**26)

    with pytest.raises(InvalidArgumentError, match="operations_total"):
        NewSubmission(prefix="p", chunks_total=MAX_CHUNKS, chunk_size=MAX_CHUNKS)


@pytest.mark.parametrize("max_attempts", [0, -1, 1_000_001])
def test_attempts_have_limits(max_attempts: int) -> None:
    """There is at least one."""
    with pytest.raises(InvalidArgumentError, match=f"max_attempts is {max_attempts}"):
        NewSubmission(prefix="p", chunks_total=1, max_attempts=max_attempts)


def test_metadata_has_a_limit() -> None:
    """It is part of every reserve that returns chunks of its submission."""
    NewSubmission(prefix="p", chunks_total=1, metadata=b"x" * MAX_METADATA_BYTES)

    with pytest.raises(InvalidArgumentError, match="metadata has 524,289 bytes"):
        NewSubmission(prefix="p", chunks_total=1, metadata=b"x" * (MAX_METADATA_BYTES + 1))


def test_a_negative_retention_is_refused() -> None:
    """The refusal comes before anything is consumed."""
    NewSubmission(prefix="p", chunks_total=1, retention_ms=0)

    with pytest.raises(InvalidArgumentError, match="retention_ms is -1"):
        NewSubmission(prefix="p", chunks_total=1, retention_ms=-1)


@pytest.mark.parametrize(
    ("first_ms", "max_ms"), [(-1, 0), (2, 1), (0, -1), (0, 31 * 24 * 3600 * 1000)]
)
def test_a_back_off_that_can_not_be_meant_is_refused(first_ms: int, max_ms: int) -> None:
    """Negative, with a cap below its first, or of more than 30 days."""
    with pytest.raises(InvalidArgumentError, match="back-off"):
        Backoff(first_ms=first_ms, max_ms=max_ms)


@pytest.mark.parametrize("pairs", [{"customer": 7}, {"a.b-c_d": -(2**63)}, {"k": 2**63 - 1}, {}])
def test_strategic_metadata_are_short_names_and_64_bit_integers(pairs: dict[str, int]) -> None:
    """Valid pairs raise nothing."""
    check_strategic_metadata(pairs)


@pytest.mark.parametrize(
    "pairs",
    [
        {"": 1},
        {"x" * 256: 1},
        {"\udfff": 1},
        {"a\ud83d": 1},
        {b"a": 1},
        {"k": 2**63},
        {"k": -(2**63) - 1},
        {"k": 1.5},
        {"k": "text"},
        {"k": True},
        {7: 1},
    ],
)
def test_other_strategic_metadata_are_refused(pairs: dict[Any, Any]) -> None:
    """With the pair in the message."""
    with pytest.raises(InvalidArgumentError, match="strategic metadata"):
        check_strategic_metadata(pairs)


def test_the_number_of_strategic_pairs_has_a_limit() -> None:
    """Each costs a command at every reserve."""
    with pytest.raises(InvalidArgumentError, match="65 pairs"):
        check_strategic_metadata({f"k{n}": n for n in range(MAX_STRATEGIC_PAIRS + 1)})


# What became of it


def test_only_an_ended_submission_has_dropped_chunks() -> None:
    """Done, failed and dropped are all of it then."""
    running = submission()
    cancelled = submission(state=SubmissionState.CANCELLED)
    failed = submission(state=SubmissionState.FAILED, chunks_failed=1)
    completed = submission(state=SubmissionState.COMPLETED, chunks_done=10)

    assert [s.chunks_dropped for s in (running, cancelled, failed, completed)] == [0, 6, 5, 0]


def test_only_a_failed_submission_has_a_failure() -> None:
    """Others may have had failed attempts, which were or are retried."""
    running = submission(last_failure=FAILURE)
    failed = submission(state=SubmissionState.FAILED, last_failure=FAILURE)

    assert (running.failure, failed.failure) == (None, FAILURE)
    assert running.last_failure == FAILURE


def test_a_failure_reads_as_python_prints_it() -> None:
    """The traceback first, type and message last."""
    with_traceback = Failure(
        chunk_index=1, attempt=3, at=AT, type="E", message="bad", traceback="Traceback:\n  x\n"
    )

    assert FAILURE.text == "E: bad"
    assert with_traceback.text == "Traceback:\n  x\nE: bad"
