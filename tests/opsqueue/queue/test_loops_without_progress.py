"""Loops that run until nothing is left also end when a round makes no progress.

The server here gives the same answer to every call of a script, like one whose state does not
change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import fakeredis
import pytest
import redis

from opsqueue.contents.chunks import all_pages
from opsqueue.exceptions import OpsqueueInternalError
from opsqueue.model.answers import ErrorChunks, Forgotten, Progress, SpentInputs
from opsqueue.model.new_submission import Defaults
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.producer.follow import chunks_as_they_come, chunks_in_order
from opsqueue.queue import sweeper
from opsqueue.queue.queue import Queue
from opsqueue.queue.sweeper import Sweeper
from opsqueue.store.memory import MemoryStore

ID = SubmissionId("1795000000000000000")
IN_USE = [b"in_use", [b"settings", 1]]
MOST_CALLS = 2_500
ROW = [
    str(ID).encode(),
    [
        part
        for name, value in {
            "state": "in_progress", "prefix": "q/0", "codec": "json", "chunks_total": 1,
            "chunks_done": 0, "chunks_in_hand": 0, "chunk_size": 1, "operations_total": 1,
            "operations_done": 0, "operations_failed": 0, "max_attempts": 1,
            "backoff_first_ms": 1, "backoff_max_ms": 1, "created_at": 1,
        }.items()
        for part in (name.encode(), str(value).encode())
    ],
    [],
    [],
]  # fmt: skip


class Stuck:
    """Scripts that always give the same answer."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = answers
        self.calls: Counter[str] = Counter()

    def call(self, name: str, **_: Any) -> list[Any]:
        self.calls[name] += 1
        assert self.calls[name] < MOST_CALLS, f"{name} is called for ever"
        return self.answers[name]


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Queue, Stuck]]:
    def make(**answers: list[Any]) -> tuple[Queue, Stuck]:
        queue = Queue(fakeredis.FakeRedis(protocol=2), "q", partition=0)
        scripts = Stuck(**answers)
        monkeypatch.setattr(queue, "_scripts_of", lambda _partition: scripts)
        return queue, scripts

    return make


@pytest.fixture
def sweeping(fake_client: redis.Redis, queue_name: str) -> Callable[[Queue], Sweeper]:
    store = MemoryStore(queue_name)
    return lambda queue: Sweeper(lambda: [queue], client=fake_client, sweeper="s", store=store)


def test_retiring_ends_when_nothing_could_be_ended(
    stuck: Callable[..., tuple[Queue, Stuck]],
) -> None:
    queue, scripts = stuck(retire_worker=[b"retired", 0, 1, 0], delete_queue=IN_USE)

    queue.retire_worker("w1")

    assert scripts.calls == {"retire_worker": 1, "delete_queue": 1}


def test_retiring_a_worker_that_goes_on_reserving_ends(
    stuck: Callable[..., tuple[Queue, Stuck]],
) -> None:
    """Otherwise there would always be more to release."""
    queue, scripts = stuck(retire_worker=[b"retired", 1_000, 1, 0], delete_queue=IN_USE)

    queue.retire_worker("w1")

    assert scripts.calls == {"retire_worker": 1_000, "delete_queue": 1}


def test_a_sweep_of_dead_workers_ends(
    stuck: Callable[..., tuple[Queue, Stuck]], sweeping: Callable[[Queue], Sweeper]
) -> None:
    queue, scripts = stuck(reclaim_dead=[b"reclaimed", 0, 0, 0, []])

    sweeping(queue).reclaim_from_the_dead(queue)

    assert scripts.calls == {"reclaim_dead": 1}


def test_a_walk_over_reservations_ends_where_it_does_not_get_on(
    stuck: Callable[..., tuple[Queue, Stuck]], sweeping: Callable[[Queue], Sweeper]
) -> None:
    queue, scripts = stuck(reclaim_expired=[b"reclaimed", 0, b"(1-1", 0, []])

    sweeping(queue).reclaim_expired(queue)

    assert scripts.calls == {"reclaim_expired": 2}


def test_a_sweep_that_repairs_ends_in_time(
    stuck: Callable[..., tuple[Queue, Stuck]],
    sweeping: Callable[[Queue], Sweeper],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweeper, "_REPAIR_FOR_S", 0.05)
    queue, scripts = stuck(repair=[b"repaired", 0, 1, 0, 0, 0, 0, 0])

    sweeping(queue).repair(queue)

    assert scripts.calls["repair"] < MOST_CALLS


def test_a_sweep_leaves_a_repair_to_the_one_that_does_it(
    stuck: Callable[..., tuple[Queue, Stuck]], sweeping: Callable[[Queue], Sweeper]
) -> None:
    queue, scripts = stuck(repair=[b"busy"])

    sweeping(queue).repair(queue)

    assert scripts.calls == {"repair": 1}


def test_deleting_forgotten_objects_ends_when_they_are_not_let_go(
    sweeping: Callable[[Queue], Sweeper],
) -> None:
    queue = Mock()
    queue.forget_submissions.return_value = Forgotten(0, ("a/b", "a/c"))

    sweeping(queue).forget(queue)

    assert queue.forget_submissions.call_count == 2


def test_deleting_inputs_ends_when_it_does_not_get_on(
    sweeping: Callable[[Queue], Sweeper],
) -> None:
    queue = Mock()
    queue.delete_inputs.return_value = [
        SpentInputs(submission_id=ID, prefix="a/b", first_index=0, chunks_total=10**6)
    ]

    sweeping(queue).delete_inputs(queue)

    assert queue.delete_inputs.call_count == 2


def test_a_retrys_walk_over_delayed_chunks_ends_where_it_does_not_get_on(
    stuck: Callable[..., tuple[Queue, Stuck]],
) -> None:
    queue, scripts = stuck(retry_submission=[b"retried", ROW, b"17"])

    queue.retry_submission(ID)

    assert scripts.calls == {"retry_submission": 2}


def test_a_look_up_ends_where_it_does_not_get_on(stuck: Callable[..., tuple[Queue, Stuck]]) -> None:
    queue, scripts = stuck(lookup_submissions=[b"found", [], str(ID).encode()])

    assert queue.lookup_submissions({"customer": 1}) == []
    assert scripts.calls == {"lookup_submissions": 2}


def test_a_list_of_chunks_with_errors_ends_where_it_does_not_get_on() -> None:
    pages = Mock(return_value=ErrorChunks((), 0))

    assert list(all_pages(pages)) == []
    assert pages.call_count == 1


def test_spreading_a_queue_whose_settings_change_all_the_time_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = Queue(fakeredis.FakeRedis(protocol=2), "q")
    defaults = (Defaults(retention_ms=ms) for ms in range(MOST_CALLS))
    monkeypatch.setattr(queue.part(0), "get_defaults", lambda: next(defaults))

    queue.set_partitions(2)

    assert queue.partitions.look() == 2


def stuck_progress(state: SubmissionState, done: range) -> Progress:
    return Progress(
        state=state,
        chunks_total=9,
        chunks_done=9,
        chunks_in_hand=0,
        operations_total=9,
        operations_done=9,
        operations_failed=0,
        first=done.start,
        end=done.stop,
        bits=b"",
    )


def test_following_in_order_ends_where_an_ended_submission_has_a_chunk_that_is_not_done() -> None:
    """An error: results would be missing."""
    queue = Mock()
    queue.wait_for_progress.return_value = stuck_progress(SubmissionState.COMPLETED, range(0))
    queue.get_submission.return_value.state = SubmissionState.COMPLETED

    with pytest.raises(OpsqueueInternalError, match="chunk 0 is not done"):
        list(chunks_in_order(queue, ID, start=0))

    assert queue.wait_for_progress.call_count < 200


def test_following_as_they_come_ends_where_windows_do_not_get_on() -> None:
    queue = Mock()
    queue.wait_for_progress.return_value = stuck_progress(SubmissionState.COMPLETED, range(0))

    assert [list(page) for page in chunks_as_they_come(queue, ID, start=0)] == [[], []]
