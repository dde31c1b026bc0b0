"""Answers keep their form, byte by byte as recorded in samples/answers.txt, one per line.

An answer may get a new field, which older clients ignore. Any other change of a line breaks
clients. `python -m tests.opsqueue_api.http.test_samples` records them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import fakeredis
import falcon
import msgspec
import pytest

from opsqueue.exceptions import (
    OpsqueueError,
    SubmissionNotCancellableError,
    SubmissionNotConfirmedError,
    SubmissionNotFoundError,
    TooManyMatchingSubmissionsError,
)
from opsqueue.http.bodies import (
    AliveBody,
    ChunkBody,
    HealthBody,
    IdsBody,
    InlineBody,
    OutcomesBody,
    ProgressEvent,
    QueuesBody,
    ReservedBody,
    ScalingBody,
    SubmissionEvent,
    VersionBody,
    WorkersBody,
)
from opsqueue.http.json_form import decoder_of
from opsqueue.model.answers import (
    Alive,
    Counts,
    ErrorChunks,
    Progress,
    SubmissionPage,
    WorkerSeen,
)
from opsqueue.model.chunk import (
    Completed,
    Dropped,
    FinallyFailed,
    Lost,
    OperationFailed,
    Released,
    Reservation,
    Retried,
    Source,
    Token,
)
from opsqueue.model.grid import Cell, ChunkInHand, DelayedChunk, FailedChunk, Grid, RetriedChunk
from opsqueue.model.new_submission import Backoff
from opsqueue.model.submission import Failure, Submission, SubmissionId, SubmissionState
from opsqueue.store.memory import MemoryStore
from opsqueue_api.app import create_app
from opsqueue_api.http.parameters import write
from opsqueue_api.http.problem import problem_of
from opsqueue_api.resources.events import sse
from opsqueue_api.resources.grid import ReservationsBody
from tests.opsqueue_api.clients import client_of

FOLDER: Final = Path(__file__).parent / "samples"
AT: Final = datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)
ID: Final = SubmissionId(1_795_479_162_987_000_000)
FAILURE: Final = Failure(
    chunk_index=3,
    attempt=10,
    at=AT,
    type="app.BadAddressError",
    message="no host in 'x@'",
    traceback='Traceback:\n  File "app.py"\n',
)


def a_submission(state: SubmissionState, **changes: Any) -> Submission:
    values: dict[str, Any] = {
        "id": ID,
        "queue": "mails",
        "state": state,
        "prefix": "mails/019a8b6e3c2f5d0b9c1e4a7f3b21d6e8",
        "codec": "msgpack+zstd",
        "chunks_total": 5,
        "chunks_done": 2,
        "chunks_in_hand": 1,
        "chunks_failed": 0,
        "chunk_size": 10,
        "operations_total": 45,
        "operations_done": 20,
        "operations_failed": 1,
        "max_failed_operations": None,
        "max_attempts": 10,
        "backoff": Backoff(first_ms=1_000, max_ms=60_000),
        "retention_ms": None,
        "delete_inputs_at_completion": False,
        "metadata": None,
        "strategic_metadata": {},
        "trace_context": {},
        "is_inline": False,
        "created_at": AT.replace(microsecond=0),
        "ended_at": None,
        "last_failure": None,
    }
    return Submission(**values | changes)


RUNNING: Final = a_submission(
    SubmissionState.IN_PROGRESS,
    max_failed_operations=7,
    backoff=Backoff(first_ms=5, max_ms=7),
    retention_ms=3_600_000,
    delete_inputs_at_completion=True,
    metadata=b"\x00\xff",
    strategic_metadata={"customer": 2**62, "a": -1},
    trace_context={"traceparent": "00-1-2-01"},
    is_inline=True,
    last_failure=FAILURE,
)
COMPLETED: Final = a_submission(
    SubmissionState.COMPLETED, chunks_done=5, chunks_in_hand=0, operations_done=45, ended_at=AT
)
FAILED: Final = a_submission(
    SubmissionState.FAILED, chunks_failed=1, ended_at=AT, last_failure=FAILURE
)
CANCELLED: Final = a_submission(SubmissionState.CANCELLED, id=SubmissionId(7), ended_at=AT)
SOURCE: Final = Source(
    submission_id=ID,
    queue="mails",
    prefix="mails/019a8b6e3c2f5d0b9c1e4a7f3b21d6e8",
    codec="json",
    chunks_total=5,
    chunk_size=10,
    operations_total=45,
    max_attempts=10,
)
CHUNK: Final = Reservation(
    token=Token("1795479162987-0:1795479162987000000:4"),
    source=SOURCE,
    chunk_index=4,
    attempt=1,
    expires_at_ms=1_769_860_800_250,
)
FULL_CHUNK: Final = Reservation(
    token=Token("1795479162987-1:0000000000000000007:0"),
    source=Source(
        submission_id=SubmissionId(7),
        queue="mails",
        prefix="mails/x",
        codec="msgpack",
        chunks_total=1,
        chunk_size=1,
        operations_total=1,
        max_attempts=2,
        metadata=b"\x00\xff",
        strategic_metadata={"customer": 7},
        trace_context={"traceparent": "00-1-2-01"},
        is_inline=True,
        is_suspect=True,
    ),
    chunk_index=0,
    attempt=2,
    expires_at_ms=1_769_860_800_000,
    input=b"\x91\x01",
)
COUNTS: Final = Counts(
    queue="mails",
    submissions={state: number for number, state in enumerate(sorted(SubmissionState), 1)},
    submissions_ready=1,
    chunks_delayed=2,
    chunks_in_hand=3,
    workers=4,
    chunks_per_second=1 / 3,
    operations_per_second=12.25,
    is_paused=True,
    oldest_waiting_at=AT,
    stats={"chunks_inserted": 2**40, "backlog_chunks": 9},
)
NEW_COUNTS: Final = Counts(
    queue="a",
    submissions=dict.fromkeys(sorted(SubmissionState), 0),
    submissions_ready=0,
    chunks_delayed=0,
    chunks_in_hand=0,
    workers=0,
    chunks_per_second=0.0,
    operations_per_second=0.0,
    is_paused=False,
    oldest_waiting_at=None,
    stats={},
)
WORKERS: Final = (
    WorkerSeen(name="silent", seen_ms_ago=90_000, info={}, is_alive=False),
    WorkerSeen(
        name="host-1",
        seen_ms_ago=250,
        info={"host": "host-1", "queues": ["mails"]},
        chunks_in_hand=2,
        oldest_ms=1_500,
    ),
)
PROGRESS: Final = Progress(
    state=SubmissionState.IN_PROGRESS,
    chunks_total=10,
    chunks_done=3,
    chunks_in_hand=2,
    operations_total=100,
    operations_done=30,
    operations_failed=1,
    first=1,
    end=10,
    bits=b"\xe0",
)
OUTCOMES: Final = (
    Completed(ID, 3),
    Completed(ID, 0, is_limit_passed=True),
    Retried(ID, 2, 1_769_860_800_250),
    FinallyFailed(ID, 10),
    Released(ID),
    Dropped(ID),
    Lost(),
)
IN_HAND: Final = ChunkInHand(
    submission_id=SubmissionId(7),
    index=3,
    attempt=2,
    worker="host-1",
    reserved_at=AT,
    expires_at=AT.replace(minute=10),
)
GRID: Final = Grid(
    state=FAILED.state,
    chunks_total=FAILED.chunks_total,
    chunks_per_cell=8,
    cells=(Cell(done=1, in_hand=2, delayed=3, failed=4, errors=5),),
    in_hand=(IN_HAND,),
    delayed=(DelayedChunk(index=4, attempts_used=1, due_at=AT),),
    failed=(FailedChunk(index=3, attempt=10, at=AT),),
    retried=(RetriedChunk(5, 2),),
    retried_total=9,
    is_partial=True,
)
OPERATION: Final = OperationFailed(12, 1, "ValueError", "negative", "Traceback:\n")


def written(body: msgspec.Struct) -> bytes:
    resp = falcon.Response()
    write(resp, body)
    return resp.data or b""


def problem(exc: OpsqueueError) -> bytes:
    resp = falcon.Response()
    problem_of(exc).write(resp)
    return resp.data or b""


def answers() -> dict[str, bytes]:
    """Every kind of answer."""
    tokens = [f"token-{number}" for number in range(len(OUTCOMES))]
    return {
        "running": written(RUNNING),
        "completed": written(COMPLETED),
        "failed": written(FAILED),
        "cancelled": written(CANCELLED),
        "page": written(SubmissionPage(submissions=(CANCELLED, FAILED), next=ID)),
        "last_page": written(SubmissionPage(submissions=(), next=None)),
        "ids": written(IdsBody(ids=[SubmissionId(7), ID])),
        "inline": written(InlineBody(chunks={0: b"\x00\xff", 12: b""})),
        "counts": written(COUNTS),
        "queues": written(QueuesBody(queues=[NEW_COUNTS, COUNTS])),
        "workers": written(WorkersBody(workers=list(WORKERS))),
        "scaling": written(ScalingBody(queue="mails", value=7)),
        "alive": written(HealthBody(status="alive")),
        "ready": written(HealthBody(status="ready", redis="ok", store="ok")),
        "version": written(VersionBody(name="opsqueue-redis", version="0.1.0")),
        "progress": written(PROGRESS),
        "errors": msgspec.json.encode(OPERATION),
        "errors_chunks": written(ErrorChunks((1, 5), 6)),
        "errors_chunks_end": written(ErrorChunks((), None)),
        "reserved": written(ReservedBody(chunks=[ChunkBody.of(CHUNK), ChunkBody.of(FULL_CHUNK)])),
        "reserved_none": written(ReservedBody(chunks=[], is_paused=True, next_due_in_ms=250)),
        "reserved_operations": written(
            ReservedBody(
                chunks=[
                    ChunkBody.of(FULL_CHUNK, operations=msgspec.Raw(b"[1]")),
                    ChunkBody.of(CHUNK, operations=None, problem="no JSON form"),
                ]
            )
        ),
        "outcomes": written(OutcomesBody.of(tokens, OUTCOMES)),
        "heartbeat": written(AliveBody.of(Alive(frozenset({Token("b"), Token("a")}), 2, lost=1))),
        "chunks": written(GRID),
        "reservations": written(ReservationsBody(reservations=(IN_HAND,))),
        "event_progress": sse(
            "progress",
            ProgressEvent.of(PROGRESS, operations_per_second=2 / 3, remaining_s=100 / 3),
            id_="3",
        ),
        "event_progress_first": sse(
            "progress", ProgressEvent.of(PROGRESS, operations_per_second=None, remaining_s=None)
        ),
        "event_end": sse("end", (FAILED), id_="end"),
        "event_counts": sse("counts", COUNTS),
        "event_submission": sse(
            "submission", SubmissionEvent(queue="mails", id=ID, event="created")
        ),
        "problem_not_found": problem(SubmissionNotFoundError(ID, "mails")),
        "problem_ended": problem(SubmissionNotCancellableError(FAILED)),
        "problem_too_many": problem(TooManyMatchingSubmissionsError(50)),
        "problem_not_confirmed": problem(SubmissionNotConfirmedError(ID, "no replica answered")),
    }


def schemas() -> dict[str, Any]:
    with client_of(create_app(fakeredis.FakeRedis(), MemoryStore())) as http:
        found: dict[str, Any] = http.get("/openapi.json").json()["components"]["schemas"]
    return found


def recorded() -> Mapping[str, bytes]:
    lines = (FOLDER / "answers.txt").read_text("utf-8").splitlines()
    pairs = (line.partition(" ")[::2] for line in lines)
    return {name: json.loads(text).encode() for name, text in pairs}


@pytest.mark.parametrize("name", recorded())
def test_an_answer_has_the_form_that_was_recorded(name: str) -> None:
    """Every field, in its order."""
    assert recorded()[name].decode() == answers()[name].decode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("running", RUNNING),
        ("completed", COMPLETED),
        ("failed", FAILED),
        ("cancelled", CANCELLED),
        ("page", SubmissionPage(submissions=(CANCELLED, FAILED), next=ID)),
        ("last_page", SubmissionPage(submissions=())),
        ("counts", COUNTS),
        ("workers", WorkersBody(workers=list(WORKERS))),
        ("progress", PROGRESS),
        ("errors", OPERATION),
        ("errors_chunks", ErrorChunks((1, 5), 6)),
        ("heartbeat", Alive(frozenset({Token("a"), Token("b")}), 2)),
    ],
)
def test_a_value_is_read_off_its_answer(name: str, value: msgspec.Struct) -> None:
    """As it was, all that is computed included."""
    assert value == decoder_of(type(value)).decode(recorded()[name])


def test_every_answer_is_recorded() -> None:
    """In this order."""
    assert list(recorded()) == list(answers())


def test_schemas_are_those_that_were_recorded() -> None:
    """Clients are generated from them."""
    expected = json.loads((FOLDER / "schemas.json").read_text("utf-8"))

    found = schemas()

    assert expected.keys() == found.keys()
    for name, schema in expected.items():
        assert (name, schema) == (name, found[name])


if __name__ == "__main__":
    lines = [f"{name} {json.dumps(data.decode())}\n" for name, data in answers().items()]
    (FOLDER / "answers.txt").write_text("".join(lines), "utf-8")
    (FOLDER / "schemas.json").write_text(
        json.dumps(dict(sorted(schemas().items())), indent=1) + "\n", "utf-8"
    )
