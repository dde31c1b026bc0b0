"""GET .../results?follow=true: results while the submission is in progress."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import redis
from falcon import testing

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.contents.codec import open_codec
from opsqueue.contents.output import encode_output
from opsqueue.model.chunk import OperationError
from opsqueue.model.new_submission import NewSubmission
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore, output_key
from opsqueue_api.app import App, create_app
from opsqueue_api.http.long_polls import LongPolls, Room
from opsqueue_api.http.settings import Limits
from tests.opsqueue.steps import insert as insert_chunks
from tests.opsqueue.steps import take
from tests.opsqueue_api.clients import client_of

Work = Callable[..., int]


def insert(http: httpx.Client, count: int, **more: object) -> str:
    body = {"operations": list(range(count)), "chunk_size": 2, **more}
    return str(http.post("/submissions", json=body).json()["id"])


def follow(http: httpx.Client, id_: str, query: str = "") -> Any:
    return http.stream("GET", f"/submissions/{id_}/results?follow=true{query}")


def lines_of(response: httpx.Response) -> Iterator[Any]:
    return (json.loads(line) for line in response.iter_lines())


def test_results_come_while_others_are_worked_on(
    http: httpx.Client, queue: Queue, work: Work
) -> None:
    """In order, whatever is done first."""
    id_ = insert(http, 6)
    held = take(queue, 1)
    work(lambda x: x * 10)

    with ThreadPoolExecutor(1) as pool:
        # Not the headers before the first line: httpx's transport for tests waits for that.
        text = pool.submit(lambda: http.get(f"/submissions/{id_}/results?follow=true").text)
        queue.release_chunks([chunk.token for chunk in held])
        work(lambda x: x * 10)

        assert [0, 10, 20, 30, 40, 50] == [int(line) for line in text.result(20).splitlines()]


def test_a_line_is_there_before_the_next_chunk_is_done(http: httpx.Client, work: Work) -> None:
    """The rest is only worked on when the first line has been read."""
    id_ = insert(http, 3)
    work_one = {"limit": 1}
    work(lambda x: x, **work_one)

    with follow(http, id_) as response:
        lines = lines_of(response)
        assert [next(lines), next(lines)] == [0, 1]
        work(lambda x: x)
        assert list(lines) == [2]


def test_a_completed_submission_is_followed_to_its_end(http: httpx.Client, work: Work) -> None:
    """As without following; and from whatever chunk."""
    id_ = insert(http, 5)
    work(lambda x: x)

    with follow(http, id_, "&from_chunk=1") as response:
        assert list(lines_of(response)) == [2, 3, 4]
    with follow(http, id_, "&from_chunk=3") as response:
        assert list(lines_of(response)) == []


def test_following_goes_on_from_a_chunk(http: httpx.Client, work: Work) -> None:
    """Where the last connection broke."""
    id_ = insert(http, 5)
    work(lambda x: x, limit=2)

    with follow(http, id_, "&from_chunk=1") as response:
        lines = lines_of(response)
        assert [next(lines), next(lines)] == [2, 3]
        work(lambda x: x)
        assert list(lines) == [4]


@pytest.mark.parametrize("way", ["cancel", "fail"])
def test_a_submission_that_ends_otherwise_cuts_the_answer_off(
    http: httpx.Client, work: Work, queue: Queue, fail_a_chunk: Callable[[], None], way: str
) -> None:
    """What is done comes first; a client can't take the rest for all there is."""
    id_ = insert(http, 4, max_attempts=1)
    work(lambda x: x, limit=1)

    with follow(http, id_) as response:
        lines = lines_of(response)
        assert [next(lines), next(lines)] == [0, 1]
        if way == "cancel":
            http.post(f"/submissions/{id_}/cancel")
        else:
            fail_a_chunk()
        with pytest.raises(ConnectionAbortedError, match="chunk 1 is not done"):
            next(lines)


def test_one_that_has_failed_already_is_refused(
    http: httpx.Client, fail_a_chunk: Callable[[], None]
) -> None:
    """As without following: 409 with how it stands."""
    id_ = insert(http, 1, max_attempts=1)
    fail_a_chunk()

    response = http.get(f"/submissions/{id_}/results?follow=true")

    assert (response.status_code, response.json()["state"]) == (409, "failed")


def test_following_ends_with_the_process(
    client: redis.Redis, store: ObjectStore, queue_name: str
) -> None:
    """Within a second, cut off."""
    app = create_app(client, store, is_stopping=lambda: True)
    with client_of(app, f"/v1/queues/{queue_name}") as http:
        id_ = insert(http, 1)
        with pytest.raises(ConnectionAbortedError, match="process stops"):
            http.get(f"/submissions/{id_}/results?follow=true")


def test_followers_beyond_the_room_are_sent_away(
    client: redis.Redis, store: ObjectStore, queue_name: str, work: Work
) -> None:
    """They get 503; a stream that is closed early releases its place."""
    app: App = create_app(client, store, long_polls=1)
    with client_of(app, f"/v1/queues/{queue_name}") as http:
        id_ = insert(http, 4)
        work(lambda x: x, limit=1)

        with follow(http, id_) as first:
            next(lines_of(first))
            refused = http.get(f"/submissions/{id_}/results?follow=true")
            events = http.get(f"/submissions/{id_}/events")
        with follow(http, id_) as again:
            assert next(lines_of(again)) == 0

    assert [503, 503] == [refused.status_code, events.status_code]
    assert refused.headers["retry-after"]
    assert "--threads" in refused.json()["detail"]


@pytest.fixture
def kept_rooms(monkeypatch: pytest.MonkeyPatch) -> list[Room]:
    """All that were taken: with a reference left, only leaving gives one back."""
    rooms: list[Room] = []
    take_room = LongPolls.take_room

    def take_and_keep(self: LongPolls) -> Room:
        rooms.append(take_room(self))
        return rooms[-1]

    monkeypatch.setattr(LongPolls, "take_room", take_and_keep)
    return rooms


@pytest.mark.parametrize("trouble", ["codec", "not there", "no JSON"])
def test_room_is_released_by_an_answer_that_never_begins(
    client: redis.Redis,
    store: ObjectStore,
    queue: Queue,
    work: Work,
    kept_rooms: list[Room],
    trouble: str,
) -> None:
    """At once, and not when the last reference to it goes."""
    app = create_app(client, store, long_polls=1, limits=Limits(inline_bytes=0))
    with client_of(app, f"/v1/queues/{queue.name}") as http:
        if trouble == "codec":
            new = NewSubmission(prefix=fresh_prefix(queue.name), chunks_total=1, codec="pickle")
            id_ = str(queue.insert_submission(new).id)
        else:
            id_ = insert(http, 4)
            work(lambda x: {None: x} if trouble == "no JSON" else x, limit=1)
        if trouble == "not there":
            store.delete_prefix(http.get(f"/submissions/{id_}").json()["prefix"])
        path = f"/submissions/{id_}/results?follow=true"
        first, second = http.get(path), http.get(path)

    expected = {"codec": 422, "not there": 410, "no JSON": 422}[trouble]
    assert [expected] * 2 == [first.status_code, second.status_code]
    assert len(kept_rooms) == 2


@pytest.mark.parametrize("accepts", ["identity", "gzip"])
@pytest.mark.parametrize("what", ["results?follow=true", "events"])
def test_room_is_released_by_an_answer_that_is_closed_unread(
    client: redis.Redis,
    store: ObjectStore,
    queue: Queue,
    kept_rooms: list[Room],
    what: str,
    accepts: str,
) -> None:
    """A generator that was never started runs no `finally`; compressed or not."""
    app = create_app(client, store, long_polls=1)
    id_ = insert_chunks(queue, 1)
    environ = testing.create_environ(
        f"/v1/queues/{queue.name}/submissions/{id_}/{what.partition('?')[0]}",
        query_string=what.partition("?")[2],
        headers={"accept-encoding": accepts},
    )
    start_response = Mock()

    for _ in range(2):
        body = app(environ, start_response)
        body.close()  # type: ignore[attr-defined]  # a WSGI server does

    assert ["200 OK"] * 2 == [call.args[0] for call in start_response.call_args_list]
    assert len(kept_rooms) == 2


def test_an_operation_that_fails_as_the_answer_begins_is_a_problem(
    http: httpx.Client, queue: Queue, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that had failed before: 409, and not a defect of ours."""
    id_ = insert(http, 2, max_failed_operations=1.0)
    (chunk,) = take(queue, 1)
    results = [OperationError(type="ValueError", message="no"), 1]
    output = encode_output(results, open_codec(chunk.source.codec), collects=True)
    take_room = LongPolls.take_room

    def take_when_it_has_failed(self: LongPolls) -> Room:
        # When the submission has been looked at, and nothing of it been read.
        store.create(output_key(chunk.source.prefix, 0), output.data)
        queue.complete_chunks([chunk.token], operations_failed={chunk.token: 1})
        return take_room(self)

    monkeypatch.setattr(LongPolls, "take_room", take_when_it_has_failed)

    problem = http.get(f"/submissions/{id_}/results?follow=true").json()

    assert problem["type"] == "urn:opsqueue:problem:operations-failed"
    assert "1 of 2 operations" in problem["detail"]
