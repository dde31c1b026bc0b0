"""The JSON of API and client: each reads what the other writes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsqueue.http.bodies import InsertBody
from opsqueue.http.json_form import decoder_of, encode
from opsqueue.model.answers import Counts
from opsqueue.model.new_submission import MAX_BACKOFF_MS, Backoff, NewSubmission
from opsqueue.model.submission import Failure, Submission, SubmissionId, SubmissionState

numbers = st.integers(min_value=0, max_value=2**53)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
instants = st.datetimes(
    min_value=datetime(2020, 1, 1),  # noqa: DTZ001 hypothesis adds the zone itself
    max_value=datetime(2090, 1, 1),  # noqa: DTZ001 as above
    timezones=st.just(UTC),
)
int64s = st.integers(min_value=-(2**63), max_value=2**63 - 1)
meta = st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), int64s, max_size=3)
ids = st.integers(min_value=0, max_value=2**63 - 1).map(SubmissionId)
failures = st.builds(
    Failure,
    chunk_index=numbers,
    attempt=numbers,
    at=instants,
    type=texts,
    message=texts,
    traceback=texts,
)
submissions = st.builds(
    Submission,
    id=ids,
    queue=texts,
    state=st.sampled_from(SubmissionState),
    prefix=texts,
    codec=texts,
    backoff=st.builds(
        Backoff, first_ms=st.integers(0, 1_000), max_ms=st.integers(1_000, MAX_BACKOFF_MS)
    ),
    retention_ms=st.none() | numbers,
    delete_inputs_at_completion=st.booleans(),
    **dict.fromkeys(
        (
            "chunks_total",
            "chunks_done",
            "chunks_in_hand",
            "chunks_failed",
            "chunk_size",
            "operations_total",
            "operations_done",
            "operations_failed",
            "max_attempts",
        ),
        numbers,
    ),
    metadata=st.none() | st.binary(max_size=20),
    strategic_metadata=meta,
    trace_context=st.dictionaries(texts, texts, max_size=2),
    is_inline=st.booleans(),
    created_at=instants,
    ended_at=st.none() | instants,
    max_failed_operations=st.none() | numbers,
    last_failure=st.none() | failures,
)


def a_submission(**changes: object) -> Submission:
    values: dict[str, Any] = {
        "id": SubmissionId(7),
        "queue": "q",
        "state": SubmissionState.IN_PROGRESS,
        "prefix": "q/1",
        "codec": "json",
        "chunks_total": 5,
        "chunks_done": 2,
        "chunks_in_hand": 1,
        "chunks_failed": 0,
        "chunk_size": 10,
        "operations_total": 45,
        "operations_done": 20,
        "operations_failed": 0,
        "max_failed_operations": None,
        "max_attempts": 10,
        "backoff": Backoff(first_ms=5, max_ms=7),
        "retention_ms": 3_600_000,
        "delete_inputs_at_completion": True,
        "metadata": b"\x00\xff",
        "strategic_metadata": {"customer": 2**62},
        "trace_context": {},
        "is_inline": False,
        "created_at": datetime(2026, 11, 23, 12, 0, 0, 250_000, tzinfo=UTC),
        "ended_at": None,
        "last_failure": None,
    }
    return Submission(**values | changes)


def as_json(submission: Submission) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode(submission))
    return found


@given(submission=submissions)
def test_a_submission_survives_json(submission: Submission) -> None:
    """All values survive."""
    data = encode(submission)

    back = decoder_of(Submission).decode(data)

    assert submission == back


def test_json_forms_are_those_that_other_languages_can_read() -> None:
    """The id is 19 digits in a string, instants end with Z, bytes are base64."""
    body = as_json(a_submission())

    assert body["id"] == "0000000000000000007"
    assert body["created_at"] == "2026-11-23T12:00:00.250000Z"
    assert body["metadata"] == "AP8="
    assert body["strategic_metadata"] == {"customer": 2**62}


def test_dropped_chunks_are_told() -> None:
    """The value is computed, so that other clients need not compute it."""
    body = as_json(a_submission(state=SubmissionState.CANCELLED))

    assert body["chunks_dropped"] == 3


@pytest.mark.parametrize(
    ("state", "failure"), [(SubmissionState.IN_PROGRESS, None), (SubmissionState.FAILED, "boom")]
)
def test_failure_is_null_unless_the_submission_failed(
    state: SubmissionState, failure: str | None
) -> None:
    """A retried attempt's is `last_failure` alone."""
    last = Failure(
        chunk_index=1,
        attempt=2,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        type="ValueError",
        message="boom",
        traceback="",
    )

    body = as_json(a_submission(state=state, last_failure=last))

    assert failure == (body["failure"] and body["failure"]["message"])
    assert body["last_failure"]["message"] == "boom"


def test_a_client_ignores_fields_that_it_does_not_know() -> None:
    """An older client reads a newer API."""
    body = as_json(a_submission()) | {"colour": "red"}

    back = decoder_of(Submission).decode(json.dumps(body))

    assert a_submission() == back


@given(
    chunks_total=st.integers(min_value=0, max_value=2**32 - 1),
    chunk_size=st.integers(min_value=1, max_value=1_000),
    max_attempts=st.integers(min_value=1, max_value=1_000_000),
    metadata=st.none() | st.binary(max_size=20),
    strategic_metadata=meta,
    first_ms=st.integers(min_value=0, max_value=60_000),
)
def test_a_new_submission_survives_json(
    chunks_total: int,
    chunk_size: int,
    max_attempts: int,
    metadata: bytes | None,
    strategic_metadata: dict[str, int],
    first_ms: int,
) -> None:
    """All that a producer can ask for."""
    new = NewSubmission(
        prefix="q/1",
        chunks_total=chunks_total,
        chunk_size=chunk_size,
        operations_total=chunks_total * chunk_size,
        codec="cbor",
        max_attempts=max_attempts,
        backoff=Backoff(first_ms=first_ms, max_ms=MAX_BACKOFF_MS),
        metadata=metadata,
        strategic_metadata=strategic_metadata,
        trace_context={"traceparent": "00-1-2-01"},
        retention_ms=5,
        delete_inputs_at_completion=True,
    )

    body = msgspec.json.decode(msgspec.json.encode(InsertBody.of(new)), type=InsertBody)

    back = body.to_new_submission(
        prefix="q/1",
        chunks_total=chunks_total,
        operations_total=chunks_total * chunk_size,
        codec="cbor",
    )
    assert new == back


def test_counts_survive_json() -> None:
    """Totals and current numbers survive."""
    counts = Counts(
        queue="q",
        submissions=dict.fromkeys(SubmissionState, 3),
        submissions_ready=1,
        chunks_delayed=2,
        chunks_in_hand=3,
        workers=4,
        chunks_per_second=0.5,
        operations_per_second=12.25,
        is_paused=True,
        oldest_waiting_at=datetime(2026, 11, 23, tzinfo=UTC),
        stats={"chunks_inserted": 2**40},
    )

    assert counts == decoder_of(Counts).decode(encode(counts))
