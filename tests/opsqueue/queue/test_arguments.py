"""With any arguments, a method of `Queue` raises a clear error and changes nothing, or succeeds.

A script is not rolled back, so a value that one of its commands refuses must be refused before.

OPSQUEUE_HYPOTHESIS_EXAMPLES=2000 makes longer runs, which are random instead of always the same.
"""

from __future__ import annotations

import inspect
import os
import secrets
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.exceptions import OpsqueueError, OpsqueueInternalError, RedisUnavailableError
from opsqueue.model.chunk import ChunkFailure, Finished
from opsqueue.model.new_submission import Backoff, Defaults, NewSubmission
from opsqueue.model.submission import SubmissionFilter, SubmissionId, SubmissionState
from opsqueue.queue.queue import Queue
from opsqueue.strategy import MaxSimultaneous, Oldest, Random
from tests.opsqueue.queue_snapshot import raw_keys
from tests.opsqueue.steps import FAILURE, NO_WAIT, insert, new_submission, take, tokens_of

EXAMPLES = int(os.environ.get("OPSQUEUE_HYPOTHESIS_EXAMPLES", "0"))
BOUNDS = settings(
    max_examples=EXAMPLES or 15,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

HUGE = [2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**18, 10**400]
NUMBERS = st.sampled_from([-1, 0, 1, *HUGE, *[-number for number in HUGE]]) | st.integers()
FLOATS = st.sampled_from([0.5, -0.0, 3.0, 1e18, 1e300, float("inf"), float("-inf"), float("nan")])
TEXTS = st.sampled_from(
    [
        *("", " ", "-", "+", "0", "1", "1e5", "inf", "nan", "(0-1", "0-0", "9" * 20 + "-0"),
        *("9" * 19 + "-" + "9" * 19, "x" * 10_000, "\ud800", "a\nb", "\0", "naïve", "日本", "{x}"),
    ]
) | st.text(st.characters(), max_size=5)
SCALARS = st.one_of(
    NUMBERS, NUMBERS, FLOATS, TEXTS, TEXTS, st.none(), st.booleans(), st.binary(max_size=4)
)
# What is no scalar: of the right shape, since type checkers see the others.
SHAPED: dict[str, st.SearchStrategy[Any]] = {
    "strategic_metadata": st.dictionaries(TEXTS, SCALARS, max_size=2),
    "changes": st.dictionaries(
        TEXTS | st.just("customer") | st.sampled_from(Defaults.__struct_fields__),
        SCALARS,
        max_size=40,
    ),
    "pairs": st.dictionaries(TEXTS, SCALARS, max_size=2),
    "trace_context": st.dictionaries(TEXTS, SCALARS, max_size=20),
    "inline": st.lists(SCALARS, max_size=3),
    "redo": st.lists(SCALARS, max_size=3),
    "tokens": st.lists(SCALARS, max_size=3),
    "begun": st.lists(SCALARS, max_size=3),
    "prefixes": st.lists(SCALARS, max_size=3),
    "names": st.lists(SCALARS, max_size=3),
    "deleted_prefixes": st.lists(SCALARS, max_size=3),
    "deleted": st.dictionaries(TEXTS | st.integers(), SCALARS, max_size=2),
    "state": st.sampled_from([None, *SubmissionState]),
    "created_from": st.datetimes(timezones=st.timezones()) | st.datetimes(),
    "strategy": st.sampled_from([None, MaxSimultaneous("customer", 1), Random()]),
    "kind": st.sampled_from(["inputs", "outputs"]),
    "begin": st.booleans(),
    "after": st.none() | st.integers(0, 2**63 - 1).map(SubmissionId),
    **dict.fromkeys(("type", "message", "traceback"), TEXTS),
}


class Stage:
    """A queue in which every transition has something to do."""

    def __init__(self, client: redis.Redis) -> None:
        queue = Queue(client, f"test-{secrets.token_hex(6)}")
        pairs = {"customer": 1}
        self.failed = insert(queue, 2, max_attempts=1)
        queue.fail_chunk(take(queue)[0].token, FAILURE)
        self.done = insert(queue, 1, delete_inputs_at_completion=True)
        queue.complete_chunks(tokens_of(take(queue)))
        self.id = insert(queue, 9, chunk_size=2, strategic_metadata=pairs, backoff=NO_WAIT)
        self.small = insert(queue, 2, chunk_size=2, inline=[b"a", b"b"])
        chunks = take(queue, 10)
        queue.fail_chunk(chunks[0].token, FAILURE)
        queue.complete_chunks([chunks[1].token], operations_failed={chunks[1].token: 1})
        queue.heartbeat("w1", tokens=tokens_of(chunks))
        self.tokens = tokens_of(chunks[2:])
        self.token = self.tokens[0]
        self.queue = queue


NEW = {
    "prefix": lambda place: fresh_prefix(place.queue.name),
    "chunks_total": 3,
    "chunk_size": 2,
    "operations_total": 5,
    "codec": "json",
    "max_attempts": 3,
    "max_failed_operations": 1,
    "metadata": b"m",
    "strategic_metadata": {"customer": 1},
    "trace_context": {"traceparent": "00"},
    "retention_ms": 1_000,
    "delete_inputs_at_completion": False,
    "first_ms": 0,
    "max_ms": 1_000,
}
FINISHED = {
    "cursor": 2,
    "redo": [0],
    "chunks_done": 1,
    "done": b"\x40",
    "operations_done": 2,
    "operations_failed": 1,
    "errors": b"\x40",
    "last_error": 1,
}


def new_of(given: dict[str, Any]) -> NewSubmission:
    fields = {name: given.pop(name) for name in NEW if name in given}
    backoff = Backoff(first_ms=fields.pop("first_ms"), max_ms=fields.pop("max_ms"))
    return NewSubmission(backoff=backoff, **fields)


def insert_submission(queue: Queue, given: dict[str, Any]) -> None:
    queue.insert_submission(new_of(given), **given)


def insert_inline(queue: Queue, given: dict[str, Any]) -> None:
    inline = given.pop("inline")
    queue.insert_submission(new_submission(queue, 2, inline=inline), **given)


def restore_submission(queue: Queue, given: dict[str, Any]) -> None:
    finished = Finished(**{name: given.pop(name) for name in FINISHED})
    queue.restore_submission(new_of(given), finished)


def fail_chunk(queue: Queue, given: dict[str, Any]) -> None:
    failure = ChunkFailure(**{n: given.pop(n) for n in ("type", "message", "traceback")})
    queue.fail_chunk(given.pop("token"), failure, **given)


def fail_chunks(queue: Queue, given: dict[str, Any]) -> None:
    queue.fail_chunks([(given.pop("token"), ChunkFailure(**given))])


def waiting(name: str) -> Callable[[Queue, dict[str, Any]], None]:
    return lambda queue, given: getattr(queue, name)(*given.values(), block_ms=1)


def complete_chunks(queue: Queue, given: dict[str, Any]) -> None:
    token, failed, output = (given.pop(n) for n in ("token", "failed", "output"))
    queue.complete_chunks([token], operations_failed={token: failed}, outputs={token: output})


def list_submissions(queue: Queue, given: dict[str, Any]) -> None:
    names = ("state", "strategic_metadata", "created_from")
    wanted = SubmissionFilter(**{name: given.pop(name) for name in names})
    queue.list_submissions(wanted, **given)


def id_of(stage: Stage) -> SubmissionId:
    return stage.id


def token_of(stage: Stage) -> str:
    return stage.token


ID = {"submission_id": id_of}
SWEEP = {"sweeper": "w2", "limit": 10, "lock_ms": 1_000}
CASES: dict[str, dict[str, Any]] = {
    "insert_submission": {**NEW, "idempotency_key": "k", "idempotency_ms": 1_000},
    "insert_inline": {"inline": [b"a", b"b"], "idempotency_key": "k"},
    "restore_submission": {**NEW, **FINISHED},
    "cancel_submission": ID,
    "retry_submission": {"submission_id": lambda stage: stage.failed},
    "update_metadata": {**ID, "changes": {"customer": 2, "region": 1}},
    "watch_submission": {**ID, "watch_ms": 1_000},
    "reserve_chunks": {
        "worker": "w1",
        "limit": 2,
        "reservation_ms": 1_000,
        "strategy": Oldest(),
        "heartbeat_timeout_ms": 1_000,
        "begun": lambda stage: stage.tokens,
    },
    "complete_chunks": {"token": token_of, "failed": 1, "output": b"x"},
    "fail_chunk": {"token": token_of, "type": "E", "message": "m", "traceback": "t", "jitter": 500},
    "release_chunks": {"tokens": lambda stage: stage.tokens, "delay_ms": 10, "reason": "why"},
    "heartbeat": {
        "worker": "w1",
        "tokens": lambda stage: stage.tokens,
        "info": b"{}",
        "unknown_ms": 30_000,
        "timeout_ms": 30_000,
        "begun": lambda stage: stage.tokens,
    },
    "note_begun": {"worker": "w1", "begun": lambda stage: stage.tokens},
    "retire_worker": {"worker": "w1"},
    "reclaim_dead": SWEEP,
    "reclaim_expired": {**SWEEP, "page_from": "-"},
    "repair": {"begin": True, "limit": 100},
    "set_limit": {"meta_key": "customer", "value": 1, "max": 5, "per_second": 2.0, "burst": 3},
    "remove_limit": {"meta_key": "customer", "value": 1},
    "set_partitions": {"partitions": 2},
    "lookup_key": {"idempotency_key": "k"},
    "fail_chunks": {"token": token_of, "type": "E", "message": "m", "traceback": "t"},
    "wake_next": {"strategy": lambda _stage: Oldest()},
    "wait_for_events": {"last_id": "0-0"},
    "set_defaults": {"changes": {"retention_ms": 1_000, "backoff_max_ms": 10}},
    "forget_submissions": {"limit": 10, "deleted_prefixes": ["a/b"]},
    "delete_inputs": {"limit": 10, "deleted": lambda stage: {stage.done: 1}},
    "discard_prefixes": {"prefixes": ["a/b"]},
    "unknown_prefixes": {"prefixes": ["a/b"]},
    "get_submission": ID,
    "done_chunks": {**ID, "start": 0, "limit": 10},
    "get_reservations": {"tokens": lambda stage: stage.tokens},
    "list_submissions": {
        "state": None,
        "strategic_metadata": {"customer": 1},
        "created_from": None,
        "after": None,
        "order": "newest",
        "limit": 10,
    },
    "lookup_submissions": {"pairs": {"customer": 1}, "limit": 10},
    "lookup_prefix": {"prefix": "a/b"},
    "inline_contents": {"submission_id": lambda stage: stage.small, "kind": "inputs", "index": 0},
    "chunks_with_errors": {**ID, "first_index": 0, "limit": 10},
    "list_workers": {"limit": 10},
    "get_workers": {"names": ["w1"]},
    "count_cells": {**ID, "chunks_per_cell": 8, "first_cell": 0, "limit": 10},
    "list_reservations": {**ID, "from_": None, "limit": 10},
    "list_delayed": {**ID, "limit": 10},
}
CALLS: dict[str, Callable[[Queue, dict[str, Any]], None]] = {
    "insert_submission": insert_submission,
    "insert_inline": insert_inline,
    "restore_submission": restore_submission,
    "fail_chunk": fail_chunk,
    "complete_chunks": complete_chunks,
    "fail_chunks": fail_chunks,
    "wait_for_events": waiting("wait_for_events"),
    "list_submissions": list_submissions,
}


def read_everything(queue: Queue) -> None:
    """Every reading that lists must go on: one poisoned row would hide all others."""
    for submission in queue.list_submissions(limit=100).submissions:
        queue.done_chunks(submission.id)
        queue.chunks_with_errors(submission.id)
        assert 0 <= submission.chunks_done <= submission.chunks_total
        assert 0 <= submission.operations_failed <= submission.operations_done
        assert submission.operations_done <= submission.operations_total
        assert submission.chunks_in_hand >= 0
    counts = queue.count_queue()
    assert all(number >= 0 for number in counts.stats.values())
    queue.list_workers()
    queue.list_reservations()
    queue.list_limits()
    queue.get_defaults()


def every_chunk_is_somewhere(queue: Queue) -> None:
    """What no longer is in hand, done, free or delayed would be found by a repair."""
    while not (swept := queue.repair(begin=True, limit=1_000)) or swept.next_from:
        pass
    assert queue.count_queue().stats.get("chunks_repaired", 0) == 0


def test_every_method_that_takes_arguments_is_called() -> None:
    """Also one that comes later."""
    taking = {
        name
        for name, method in inspect.getmembers(Queue, inspect.isfunction)
        if not name.startswith("_") and len(inspect.signature(method).parameters) > 1
    }

    # These ask nothing of Redis, take commands, which are checked already, or call others of these.
    others = {
        "part", "run", "pipeline", "wait_for_end", "wait_for_progress", "reserve_when_free",
        "watch", "watching",
    }  # fmt: skip
    assert taking - others == CASES.keys() - {"insert_inline"}


@pytest.mark.parametrize("name", CASES)
def test_a_refused_call_changes_nothing(real_client: redis.Redis, name: str) -> None:
    """And one that is not refused is a whole transition, after which all can be read."""

    stages = [Stage(real_client)]

    @BOUNDS
    @given(st.data())
    def run(data: st.DataObject) -> None:
        stage = stages[-1]
        given = {
            key: value(stage) if callable(value) else value for key, value in CASES[name].items()
        }
        for key in data.draw(st.lists(st.sampled_from(sorted(given)), min_size=1, max_size=2)):
            given[key] = data.draw(SHAPED.get(key, SCALARS), label=key)
        before = raw_keys(real_client, stage.queue.name)
        call = CALLS.get(name) or (lambda queue, of: getattr(queue, name)(**of))
        refusal = None
        try:
            call(stage.queue, dict(given))
        except OpsqueueError as exc:
            refusal = exc
            note(f"refused: {exc!r}")
        if refusal is None:
            read_everything(stage.queue)
            every_chunk_is_somewhere(stage.queue)
            stages.append(Stage(real_client))
        else:
            assert not isinstance(refusal, RedisUnavailableError | OpsqueueInternalError)
            assert before == raw_keys(real_client, stage.queue.name)

    run()
