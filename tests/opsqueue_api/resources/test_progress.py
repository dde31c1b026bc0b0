"""GET .../progress, requested by HttpBackend; RedisBackend returns the same."""

from __future__ import annotations

from threading import Thread

import httpx
import pytest
import redis

from opsqueue.exceptions import SubmissionNotFoundError
from opsqueue.model.answers import Progress
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.producer.backends import Backend
from opsqueue.producer.http_api import HttpBackend
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.queue import Queue
from opsqueue_api.app import App
from tests.opsqueue.steps import insert, take, tokens_of


@pytest.fixture(params=["http", "redis"])
def api(request: pytest.FixtureRequest, app: App, client: redis.Redis) -> Backend:
    if request.param == "redis":
        return RedisBackend(client)
    return HttpBackend("http://api", transport=httpx.WSGITransport(app))


def test_progress_has_the_counts_and_the_chunks(api: Backend, queue: Queue) -> None:
    """At once where no wait is asked for."""
    id_ = insert(queue, 20, chunk_size=2)
    queue.complete_chunks(tokens_of(take(queue, 3)))

    progress = api.queue(queue.name).wait_for_progress(id_, 1)

    assert progress.state is SubmissionState.IN_PROGRESS
    assert (20, 3, 40, 6) == (
        progress.chunks_total,
        progress.chunks_done,
        progress.operations_total,
        progress.operations_done,
    )
    assert [1, 2] == list(progress.done)
    assert (1, 20, 3) == (progress.done.first, progress.done.end, progress.done.done_until)


@pytest.mark.parametrize("wanted", ["its chunk", "any chunk", "the end"])
def test_waiting_ends_with_what_was_waited_for(api: Backend, queue: Queue, wanted: str) -> None:
    """Long before the time is over."""
    id_ = insert(queue, 3)
    first, second = tokens_of(take(queue, 2))
    seen = 0 if wanted == "any chunk" else None
    found: list[Progress] = []

    def wait() -> None:
        found.append(api.queue(queue.name).wait_for_progress(id_, 1, seen=seen, wait_s=30))

    waiter = Thread(target=wait)
    waiter.start()
    queue.complete_chunks([first])
    if wanted == "its chunk":
        queue.complete_chunks([second])
    elif wanted == "the end":
        queue.cancel_submission(id_)
    waiter.join(20)

    assert not waiter.is_alive()
    expected = {"its chunk": 2, "any chunk": 1, "the end": 1}[wanted]
    assert expected == found[0].chunks_done


def test_waiting_gives_up_in_time(api: Backend, queue: Queue) -> None:
    """And says how things stand."""
    id_ = insert(queue, 1)

    assert api.queue(queue.name).wait_for_progress(id_, wait_s=0.05).chunks_done == 0


def test_there_is_no_progress_of_what_is_not_there(api: Backend, queue: Queue) -> None:
    """As everywhere."""
    with pytest.raises(SubmissionNotFoundError):
        api.queue(queue.name).wait_for_progress(SubmissionId(42), wait_s=1)


@pytest.mark.parametrize("query", ["from=-1", "from=x", "seen=1.5", "wait=61", "from=99999999999"])
def test_what_can_not_be_meant_is_refused(http: httpx.Client, queue: Queue, query: str) -> None:
    """Naming the parameter."""
    answer = http.get(f"/submissions/{insert(queue, 1)}/progress?{query}")

    assert answer.status_code == 422
    assert query.split("=", maxsplit=1)[0] in answer.json()["detail"]
