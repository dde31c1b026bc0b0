"""GET .../submissions/{id}/chunks and GET .../reservations."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from opsqueue.model.new_submission import Backoff
from opsqueue.queue.queue import Queue
from tests.opsqueue.steps import FAILURE, insert, take, take_one, tokens_of


def test_the_chunks_of_a_submission_are_told_by_cell(http: httpx.Client, queue: Queue) -> None:
    """And what is under way one by one, with instants as JSON has them."""
    id_ = insert(queue, 4, backoff=Backoff(first_ms=60_000, max_ms=60_000))
    queue.complete_chunks(tokens_of(take(queue, 1)))
    queue.fail_chunk(take_one(queue).token, FAILURE)
    take(queue, 1, worker="w7")

    body = http.get(f"/submissions/{id_}/chunks?cells=100").json()

    nothing = {"done": 0, "in_hand": 0, "delayed": 0, "failed": 0, "errors": 0}
    assert [
        nothing | {"done": 1},
        nothing | {"delayed": 1},
        nothing | {"in_hand": 1},
        nothing,
    ] == body["cells"]
    assert (4, 1, "in_progress", False) == (
        body["chunks_total"],
        body["chunks_per_cell"],
        body["state"],
        body["is_partial"],
    )
    (held,), (delayed,) = body["in_hand"], body["delayed"]
    assert (2, "w7", str(id_)) == (held["index"], held["worker"], held["submission_id"])
    assert held["reserved_at"] < held["expires_at"]
    assert held["reserved_at"].endswith("Z")
    assert (1, 1) == (delayed["index"], delayed["attempt"])
    assert [{"index": 1, "attempts": 1}] == body["retried"]
    assert body["failed"] == []


def test_the_failed_chunk_is_named(
    http: httpx.Client, queue: Queue, fail_a_chunk: Callable[[], None]
) -> None:
    """With its last attempt."""
    id_ = insert(queue, 2, max_attempts=1)
    fail_a_chunk()

    (failed,) = http.get(f"/submissions/{id_}/chunks").json()["failed"]

    assert (0, 1) == (failed["index"], failed["attempt"])


def test_no_more_than_a_hundred_are_named(http: httpx.Client, queue: Queue) -> None:
    """The cells count them all."""
    id_ = insert(queue, 300)
    take(queue, 250)

    body = http.get(f"/submissions/{id_}/chunks").json()

    assert len(body["in_hand"]) == 100
    assert sum(cell["in_hand"] for cell in body["cells"]) == 250


def test_an_unknown_submission_has_no_chunks(http: httpx.Client) -> None:
    """404, as for its status."""
    assert http.get(f"/submissions/{7:019}/chunks").status_code == 404


def test_chunks_in_hand_of_a_queue_are_told_with_their_workers(
    http: httpx.Client, queue: Queue
) -> None:
    """The oldest first, as many as wanted."""
    first, second = insert(queue, 1), insert(queue, 2)
    take(queue, 1, worker="w1")
    take(queue, 2, worker="w2")

    all_ = http.get("/reservations").json()["reservations"]
    one = http.get("/reservations?limit=1").json()["reservations"]

    assert [(str(first), "w1"), (str(second), "w2"), (str(second), "w2")] == [
        (row["submission_id"], row["worker"]) for row in all_
    ]
    assert all_[:1] == one
