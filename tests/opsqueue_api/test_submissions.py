"""Status with its long poll, cancel, lists, counts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import pytest
import redis

from opsqueue.queue import Queue
from opsqueue.store import ObjectStore
from opsqueue.submission import Submission, SubmissionId
from opsqueue_api.app import App, create_app


@pytest.fixture
def submission_id(http: httpx.Client) -> str:
    """Of a submission of two chunks in progress."""
    return insert(http)


def insert(http: httpx.Client, **more: object) -> str:
    body = {"operations": [1, 2, 3], "chunk_size": 2, **more}
    return str(http.post("/submissions", json=body).json()["id"])


@pytest.fixture
def has_read(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Set when somebody has read a submission's state: a long poll is then about to wait."""
    event = Event()
    get = Queue.get_submission

    def get_and_tell(self: Queue, submission_id: SubmissionId) -> Submission:
        submission = get(self, submission_id)
        event.set()
        return submission

    monkeypatch.setattr(Queue, "get_submission", get_and_tell)
    return event


def test_the_status_tells_progress(http: httpx.Client, queue: Queue, submission_id: str) -> None:
    """A chunk in a worker's hand is counted."""
    queue.reserve_chunks("w")

    status = http.get(f"/submissions/{submission_id}").json()

    assert (status["state"], status["chunks_in_hand"]) == ("in_progress", 1)


def test_a_failed_submission_tells_its_failure(
    http: httpx.Client, fail_a_chunk: Callable[[], None]
) -> None:
    """Type, message, chunk and attempt of what ended it."""
    submission_id = insert(http, max_attempts=1)
    fail_a_chunk()

    status = http.get(f"/submissions/{submission_id}").json()

    failure = status["failure"]
    assert (status["state"], status["chunks_failed"], status["chunks_dropped"]) == ("failed", 1, 1)
    assert [failure[name] for name in ("type", "message", "chunk_index", "attempt")] == [
        "ValueError",
        "bad row 7",
        0,
        1,
    ]


def test_a_retried_attempt_is_no_failure_of_the_submission(
    http: httpx.Client, fail_a_chunk: Callable[[], None], submission_id: str
) -> None:
    """`last_failure` shows it, `failure` stays null."""
    fail_a_chunk()

    status = http.get(f"/submissions/{submission_id}").json()

    assert (status["failure"], status["last_failure"]["message"]) == (None, "bad row 7")


@pytest.mark.parametrize("path", ["/submissions/{}", "/submissions/{}/results"])
def test_an_unknown_submission_is_not_found(http: httpx.Client, path: str) -> None:
    """404 with the queue and a hint."""
    response = http.get(path.format("1" * 19))

    assert response.status_code == 404
    assert response.json()["type"] == "urn:opsqueue:problem:submission-not-found"


@pytest.mark.parametrize("id_", ["abc", "-1", "1" * 20, "1.5", "%20"])
def test_an_id_that_is_no_number_is_not_found(http: httpx.Client, id_: str) -> None:
    """404 with what an id is."""
    response = http.get(f"/submissions/{id_}")

    assert response.status_code == 404
    assert "19 digits" in response.json()["detail"]


@pytest.mark.parametrize("wait", ["61", "-1", "nan", "inf", "soon"])
def test_a_wait_is_0_to_60_seconds(http: httpx.Client, submission_id: str, wait: str) -> None:
    """Others are refused with 422."""
    response = http.get(f"/submissions/{submission_id}", params={"wait": wait})

    assert response.status_code == 422
    assert "from 0 to 60" in response.json()["detail"]


def test_waiting_for_an_ended_submission_answers_at_once(
    http: httpx.Client, submission_id: str
) -> None:
    """With a wait longer than the test may take."""
    http.post(f"/submissions/{submission_id}/cancel")

    status = http.get(f"/submissions/{submission_id}?wait=60", timeout=30).json()

    assert status["state"] == "cancelled"


def test_waiting_for_an_unknown_submission_answers_at_once(http: httpx.Client) -> None:
    """404, not a minute later."""
    assert http.get(f"/submissions/{'1' * 19}?wait=60").status_code == 404


def test_a_wait_ends_with_the_submission(
    http: httpx.Client,
    work: Callable[[Callable[[Any], Any]], int],
    submission_id: str,
    has_read: Event,
) -> None:
    """The answer to a long poll has the end in it."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(http.get, f"/submissions/{submission_id}?wait=60")
        assert has_read.wait(10)
        work(lambda x: x)

        status = waiting.result(timeout=10).json()

    assert (status["state"], status["operations_done"]) == ("completed", 3)


def test_a_wait_ends_when_its_time_is_over(http: httpx.Client, submission_id: str) -> None:
    """The status is then as it is."""
    status = http.get(f"/submissions/{submission_id}?wait=0.05").json()

    assert status["state"] == "in_progress"


def test_a_wait_ends_when_the_process_stops(
    client: redis.Redis, store: ObjectStore, queue_name: str, submission_id: str
) -> None:
    """A long poll must not hold up a restart."""
    app = create_app(client, store, is_stopping=lambda: True)

    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://api") as http:
        response = http.get(f"/v1/queues/{queue_name}/submissions/{submission_id}?wait=60")

    assert response.json()["state"] == "in_progress"


def test_more_waits_than_there_is_room_for_answer_at_once(
    client: redis.Redis, store: ObjectStore, queue_name: str, has_read: Event, submission_id: str
) -> None:
    """So that threads stay free for others."""
    stop = Event()
    app = create_app(client, store, long_polls=1, is_stopping=stop.is_set)
    has_read.clear()
    path = f"http://api/v1/queues/{queue_name}/submissions/{submission_id}?wait=60"
    with ThreadPoolExecutor(1) as pool, httpx.Client(transport=httpx.WSGITransport(app)) as http:
        first = pool.submit(http.get, path)
        assert has_read.wait(10)

        second = http.get(path)

        stop.set()
        assert second.json()["state"] == "in_progress"
        assert first.result(timeout=10).status_code == 200


def test_a_cancel_answers_the_status(http: httpx.Client, submission_id: str) -> None:
    """State cancelled, chunks dropped."""
    response = http.post(f"/submissions/{submission_id}/cancel")

    status = response.json()
    assert (
        response.status_code,
        status["state"],
        status["chunks_dropped"],
    ) == (200, "cancelled", 2)


def test_an_ended_submission_cannot_be_cancelled(http: httpx.Client, submission_id: str) -> None:
    """409 naming the state, with the whole status in it."""
    http.post(f"/submissions/{submission_id}/cancel")

    response = http.post(f"/submissions/{submission_id}/cancel")

    problem = response.json()
    assert (409, "cancelled", submission_id) == (
        response.status_code,
        problem["state"],
        problem["submission"]["id"],
    )
    assert "is cancelled" in problem["detail"]


def test_an_unknown_submission_cannot_be_cancelled(http: httpx.Client) -> None:
    """404."""
    assert http.post(f"/submissions/{'1' * 19}/cancel").status_code == 404


def test_a_list_shows_a_state_newest_first(http: httpx.Client) -> None:
    """By default those in progress."""
    ids = [insert(http) for _ in range(3)]
    http.post(f"/submissions/{ids[1]}/cancel")

    found = http.get("/submissions").json()

    assert [ids[2], ids[0]] == [submission["id"] for submission in found["submissions"]]
    assert None is found["next"]


def test_a_list_is_read_in_pages(http: httpx.Client) -> None:
    """`next` of one page is `after` of the following; the last has none."""
    ids = [insert(http) for _ in range(3)]

    first = http.get("/submissions?limit=2&order=oldest").json()
    second = http.get(f"/submissions?limit=2&order=oldest&after={first['next']}").json()

    pages = [[submission["id"] for submission in p["submissions"]] for p in (first, second)]
    assert [ids[:2], ids[2:]] == pages
    assert None is second["next"]


@pytest.mark.parametrize(
    "query", ["state=lost", "limit=0", "limit=101", "limit=x", "after=x", "order=random"]
)
def test_a_list_refuses_wrong_parameters(http: httpx.Client, query: str) -> None:
    """422 naming the parameter."""
    response = http.get(f"/submissions?{query}")

    assert response.status_code == 422
    assert query.partition("=")[0] in response.json()["detail"]


def test_a_queue_is_counted(http: httpx.Client, queue: Queue, queue_name: str) -> None:
    """By state, with what is in hand."""
    insert(http)
    queue.reserve_chunks("w")

    counts = http.get("").json()

    assert (queue_name, 1, 0, 1) == (
        counts["queue"],
        counts["submissions"]["in_progress"],
        counts["submissions"]["failed"],
        counts["chunks_in_hand"],
    )


def test_the_app_of_one_client_serves_many_queues(app: App) -> None:
    """Queues don't see each other's submissions."""
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://api") as http:
        body = {"operations": [1], "chunk_size": 1}
        id_ = http.post("/v1/queues/a/submissions", json=body).json()["id"]

        response = http.get(f"/v1/queues/b/submissions/{id_}")

    assert response.status_code == 404
