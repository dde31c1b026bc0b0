"""Server-sent events of submissions and queues."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from opsqueue.queue.queue import Queue
from opsqueue_api.resources import events
from tests.opsqueue.steps import insert, take, tokens_of

Event = tuple[str, str | None, Any]


def events_of(response: httpx.Response) -> Iterator[Event]:
    """(event, id, data) of each; comments as ("", None, text)."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        else:
            if "data" in fields:
                yield fields["event"], fields.get("id"), json.loads(fields["data"])
            elif "" in fields:
                yield "", None, fields[""]
            fields = {}


@pytest.fixture
def listen(http: httpx.Client) -> Callable[..., Any]:
    def run(path: str, last_id: str | None = None) -> Any:
        return http.stream("GET", path, headers={"last-event-id": last_id} if last_id else {})

    return run


def test_a_submission_tells_its_progress_and_its_end(
    listen: Callable[..., Any], queue: Queue
) -> None:
    """Each with what was done so far; the last is its whole status."""
    id_ = insert(queue, 2, chunk_size=3)
    first, second = tokens_of(take(queue, 2))

    with listen(f"/submissions/{id_}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = events_of(response)
        seen = [next(found)]
        for token in (first, second):
            queue.complete_chunks([token])
            seen.append(next(found))
        seen += found

    assert [("progress", "0"), ("progress", "1"), ("progress", "2"), ("end", "end")] == [
        (name, event_id) for name, event_id, _ in seen
    ]
    assert [0, 3, 6, 6] == [data["operations_done"] for *_, data in seen]
    assert seen[0][2]["operations_per_second"] is None
    assert seen[1][2]["operations_per_second"] > 0
    assert seen[1][2]["remaining_s"] > 0
    assert (seen[3][2]["id"], seen[3][2]["state"]) == (str(id_), "completed")


def test_who_comes_back_is_told_only_what_is_new(listen: Callable[..., Any], queue: Queue) -> None:
    """The last id decides; after the end the client need not reconnect."""
    id_ = insert(queue, 2)
    first, second = tokens_of(take(queue, 2))
    queue.complete_chunks([first])

    with listen(f"/submissions/{id_}/events", "1") as response:
        queue.complete_chunks([second])
        assert [name for name, *_ in events_of(response)] == ["progress", "end"]
    with listen(f"/submissions/{id_}/events", "end") as response:
        assert response.status_code == 204


def test_silence_is_kept_alive(
    listen: Callable[..., Any], queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comments, which are not events, keep the connection open."""
    monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.0)
    monkeypatch.setattr(events, "WAIT_SLICE_MS", 10)
    monkeypatch.setattr(events, "_COUNT_EVERY_S", 0.01)
    id_ = insert(queue, 1)

    with listen(f"/submissions/{id_}/events") as response:
        found = events_of(response)
        next(found)
        assert next(found)[0] == ""
    with listen("/events") as response:
        found = events_of(response)
        next(found)
        assert next(found)[0] == ""


def test_a_queue_tells_its_counts_and_what_becomes_of_submissions(
    listen: Callable[..., Any], queue: Queue
) -> None:
    """Counts when they change; submissions with an id to go on from."""
    insert(queue, 1)

    with listen("/events") as response:
        found = events_of(response)
        name, _, counts = next(found)
        assert (name, counts["submissions"]["in_progress"]) == ("counts", 1)
        id_ = insert(queue, 1)
        both: dict[str, Any] = {}
        while both.keys() != {"submission", "counts"}:
            event = next(found)
            both[event[0]] = event
        told, counted = both["submission"], both["counts"]
    queue.cancel_submission(id_)
    with listen("/events", told[1]) as response:
        caught_up = next(event for event in events_of(response) if event[0] == "submission")

    assert told[2] == {"queue": queue.name, "id": str(id_), "event": "created"}
    assert counted[2]["submissions"]["in_progress"] == 2
    assert caught_up[2]["event"] == "cancelled"


def test_all_queues_tell_their_counts(http: httpx.Client, queue: Queue) -> None:
    """In one stream, each with its name."""
    insert(queue, 1)

    with http.stream("GET", "http://api/v1/events") as response:
        for name, _, counts in events_of(response):
            if (name, counts["queue"]) == ("counts", queue.name):
                break

    assert counts["submissions_ready"] == 1


def test_events_of_what_is_not_there_are_refused(http: httpx.Client) -> None:
    """Before the stream begins."""
    assert http.get(f"/submissions/{42:019}/events").status_code == 404
