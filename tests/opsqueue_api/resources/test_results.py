"""GET .../results as NDJSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import redis

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.contents.codec import open_codec
from opsqueue.exceptions import EncodingError
from opsqueue.model.chunk import Finished
from opsqueue.model.new_submission import NewSubmission
from opsqueue.queue.queue import Queue
from opsqueue.queue.sweeper import Sweeper
from opsqueue.store import ObjectStore, output_key

Work = Callable[..., int]


def insert(http: httpx.Client, operations: list[Any], **more: object) -> str:
    body = {"operations": operations, "chunk_size": 2, **more}
    return str(http.post("/submissions", json=body).json()["id"])


def lines_of(response: httpx.Response) -> list[Any]:
    return [json.loads(line) for line in response.text.splitlines()]


def test_results_come_in_order_a_line_each(http: httpx.Client, work: Work) -> None:
    """Over more chunks than are read ahead."""
    id_ = insert(http, list(range(101)))
    work(lambda x: {"square": x * x})

    response = http.get(f"/submissions/{id_}/results")

    assert response.headers["content-type"] == "application/x-ndjson"
    assert [{"square": x * x} for x in range(101)] == lines_of(response)


def test_no_operations_give_no_lines(http: httpx.Client) -> None:
    """A submission of no chunks has results: none."""
    id_ = insert(http, [])

    response = http.get(f"/submissions/{id_}/results")

    assert (response.status_code, response.text) == (200, "")


def test_bytes_come_as_base64(http: httpx.Client, work: Work) -> None:
    """JSON has no bytes."""
    id_ = insert(http, [1])
    work(lambda _: b"hello")

    response = http.get(f"/submissions/{id_}/results")

    assert lines_of(response) == ["aGVsbG8="]


@pytest.mark.parametrize("prefix", ["runs/2026-11-30", "p", f"elsewhere/{'0' * 32}/1"])
def test_a_submission_of_an_earlier_version_keeps_its_prefix(
    http: httpx.Client, queue: Queue, client: redis.Redis, store: ObjectStore, prefix: str
) -> None:
    """Clients could choose it freely: it is read, found and deleted as ever."""
    store.create(output_key(prefix, 0), open_codec("json").encode(["kept"]))
    store.create(f"{prefix}/deeper/0-out", b"another's")
    new = NewSubmission(prefix=prefix, chunks_total=1, codec="json", retention_ms=0)
    id_ = queue.restore_submission(
        new,
        Finished(
            cursor=1, redo=[], chunks_done=1, done=b"\x80", operations_done=1,
            operations_failed=0, errors=b"\0", last_error=-1,
        ),
    ).id  # fmt: skip

    results = lines_of(http.get(f"/submissions/{id_}/results"))
    found = http.get("/submission-ids", params={"prefix": prefix}).json()["ids"]
    Sweeper(lambda: [queue], client=client, sweeper="w1", store=store).forget(queue)

    assert (results, found) == (["kept"], [str(id_)])
    assert list(store.list_prefix("")) == [f"{prefix}/deeper/0-out"]
    assert http.get(f"/submissions/{id_}").status_code == 404


def test_results_of_a_submission_in_progress_are_refused(http: httpx.Client) -> None:
    """409 with the state and how far it came."""
    id_ = insert(http, [1, 2, 3])

    response = http.get(f"/submissions/{id_}/results")

    problem = response.json()
    assert (
        response.status_code,
        problem["state"],
        problem["chunks_done"],
        problem["chunks_total"],
    ) == (409, "in_progress", 0, 2)


def test_results_of_a_failed_submission_are_refused(
    http: httpx.Client, fail_a_chunk: Callable[[], None]
) -> None:
    """409 with the failure."""
    id_ = insert(http, [1], max_attempts=1)
    fail_a_chunk()

    response = http.get(f"/submissions/{id_}/results")

    problem = response.json()
    assert (response.status_code, problem["state"]) == (409, "failed")
    assert "ValueError: bad row 7" in problem["detail"]


def test_results_of_a_cancelled_submission_are_refused(http: httpx.Client) -> None:
    """409 with the state."""
    id_ = insert(http, [1])
    http.post(f"/submissions/{id_}/cancel")

    response = http.get(f"/submissions/{id_}/results")

    assert (response.status_code, response.json()["state"]) == (409, "cancelled")


@pytest.mark.parametrize("end", ["running", "failed", "cancelled", "completed"])
def test_partial_results_are_those_of_the_chunks_done_in_any_state(
    http: httpx.Client, work: Work, fail_a_chunk: Callable[[], None], end: str
) -> None:
    """Each with its operation's index; what refuses all of them names the parameter."""
    id_ = insert(http, [10, 11, 12, 13, 14], max_attempts=1)
    if end == "completed":
        work(lambda x: -x)
    else:
        work(lambda x: -x, limit=2)
    if end == "failed":
        fail_a_chunk()
    elif end == "cancelled":
        http.post(f"/submissions/{id_}/cancel")

    response = http.get(f"/submissions/{id_}/results", params={"partial": "true"})
    later = http.get(f"/submissions/{id_}/results", params={"partial": "true", "from_chunk": 1})
    refused = http.get(f"/submissions/{id_}/results")

    done = 5 if end == "completed" else 4
    assert 200 == response.status_code
    assert [{"index": i, "result": -10 - i} for i in range(done)] == lines_of(response)
    assert [{"index": i, "result": -10 - i} for i in range(2, done)] == lines_of(later)
    assert (end == "completed") == (200 == refused.status_code)
    assert end == "completed" or "?partial=true" in refused.json()["detail"]


def test_partial_results_where_no_chunk_is_done_are_none(http: httpx.Client) -> None:
    """An empty answer; and following at the same time is refused."""
    id_ = insert(http, [1])

    response = http.get(f"/submissions/{id_}/results", params={"partial": "true"})
    both = http.get(f"/submissions/{id_}/results", params={"partial": "true", "follow": "true"})

    assert (200, "") == (response.status_code, response.text)
    assert 422 == both.status_code
    assert "follow=true" in both.json()["detail"]


@pytest.mark.parametrize("codec", ["pickle", "pickle+zstd", "of-our-own"])
def test_results_that_the_api_cannot_read_are_refused(
    http: httpx.Client, queue: Queue, codec: str
) -> None:
    """422 naming the codec: unpickling runs code of whoever wrote the object."""
    new = NewSubmission(prefix=fresh_prefix(queue.name), chunks_total=0, codec=codec)
    id_ = queue.insert_submission(new).id

    response = http.get(f"/submissions/{id_}/results")

    assert (
        response.status_code,
        response.json()["type"],
    ) == (422, "urn:opsqueue:problem:results-not-json")
    assert codec in response.json()["detail"]


def test_a_result_without_a_json_form_in_the_first_chunk_is_a_problem(
    http: httpx.Client, work: Work
) -> None:
    """422 before the first byte."""
    id_ = insert(http, [1, 2])
    work(lambda x: {None: x})

    response = http.get(f"/submissions/{id_}/results")

    assert response.status_code == 422
    assert "a dict, has no JSON form" in response.json()["detail"]


def test_a_result_without_a_json_form_later_cuts_the_stream_off(
    http: httpx.Client, work: Work
) -> None:
    """The status line is sent by then: an end that is missing is all that can be said."""
    id_ = insert(http, [1, 2, 3])
    work(lambda x: {None: x} if x == 3 else x)

    with pytest.raises(EncodingError):
        http.get(f"/submissions/{id_}/results")


def test_results_that_were_deleted_are_gone(
    http: httpx.Client, work: Work, store: ObjectStore, queue: Queue
) -> None:
    """410 naming the object."""
    id_ = insert(http, [1])
    work(lambda x: x)
    prefix = http.get(f"/submissions/{id_}").json()["prefix"]
    store.delete_prefix(prefix)

    response = http.get(f"/submissions/{id_}/results")

    assert response.status_code == 410
    assert output_key(prefix, 0) in response.json()["detail"]
    assert queue.name in response.json()["detail"]
