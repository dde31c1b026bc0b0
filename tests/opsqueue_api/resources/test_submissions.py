"""The status with its long poll, cancelling, lists and counts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import pytest
import redis

from opsqueue.model.submission import Submission, SubmissionId
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore
from opsqueue_api.app import App, create_app
from opsqueue_api.http.tokens import parse_tokens
from tests.opsqueue_api.clients import client_of


@pytest.fixture
def submission_id(http: httpx.Client) -> str:
    """Of a submission of two chunks in progress."""
    return insert(http)


def insert(http: httpx.Client, **more: object) -> str:
    body = {"operations": [1, 2, 3], "chunk_size": 2, **more}
    return str(http.post("/submissions", json=body).json()["id"])


@pytest.fixture
def has_read(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Set when a submission's state has been read, just before a long poll waits."""
    event = Event()
    get = Queue.get_submission

    def get_and_tell(self: Queue, submission_id: SubmissionId) -> Submission:
        submission = get(self, submission_id)
        event.set()
        return submission

    monkeypatch.setattr(Queue, "get_submission", get_and_tell)
    return event


def test_the_status_tells_progress(http: httpx.Client, queue: Queue, submission_id: str) -> None:
    """A reserved chunk is counted."""
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

    with client_of(app) as http:
        response = http.get(f"/v1/queues/{queue_name}/submissions/{submission_id}?wait=60")

    assert response.json()["state"] == "in_progress"


def test_more_waits_than_there_is_room_for_answer_at_once(
    client: redis.Redis, store: ObjectStore, queue_name: str, has_read: Event, submission_id: str
) -> None:
    """Threads must stay free for other requests."""
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
    """Those that ended are of another one."""
    ids = [insert(http) for _ in range(3)]
    http.post(f"/submissions/{ids[1]}/cancel")

    found = http.get("/submissions", params={"state": "in_progress"}).json()

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
    with client_of(app) as http:
        body = {"operations": [1], "chunk_size": 1}
        id_ = http.post("/v1/queues/a/submissions", json=body).json()["id"]

        response = http.get(f"/v1/queues/b/submissions/{id_}")

    assert response.status_code == 404


def test_strategic_metadata_is_changed_while_it_runs(http: httpx.Client, queue: Queue) -> None:
    """Null removes a key, what is not named stays."""
    id_ = insert(http, strategic_metadata={"priority": 1, "customer": 7, "old": 3})

    body = {"strategic_metadata": {"priority": 9, "old": None}}
    status = http.patch(f"/submissions/{id_}", json=body).json()

    assert status["strategic_metadata"] == {"priority": 9, "customer": 7}
    assert queue.lookup_submissions({"priority": 9}) == [SubmissionId(id_)]


def test_strategic_metadata_of_an_ended_submission_stays(http: httpx.Client) -> None:
    """409, as for a cancel."""
    id_ = insert(http)
    http.post(f"/submissions/{id_}/cancel")

    response = http.patch(f"/submissions/{id_}", json={"strategic_metadata": {"a": 1}})

    assert response.status_code == 409
    assert response.json()["type"] == "urn:opsqueue:problem:submission-ended"


@pytest.mark.parametrize(
    "body",
    [{"metadata": "x"}, {"strategic_metadata": {"a": 2**63}}, {"strategic_metadata": {"": 1}}],
)
def test_a_change_that_cannot_be_meant_is_refused(http: httpx.Client, body: object) -> None:
    """422."""
    assert http.patch(f"/submissions/{insert(http)}", json=body).status_code == 422


def test_a_cancelled_submission_is_retried(http: httpx.Client) -> None:
    """One in progress is not: 409."""
    id_ = insert(http)
    http.post(f"/submissions/{id_}/cancel")

    first, second = (http.post(f"/submissions/{id_}/retry") for _ in range(2))

    assert (first.status_code, first.json()["state"]) == (200, "in_progress")
    assert second.status_code == 409
    assert second.json()["type"] == "urn:opsqueue:problem:submission-not-retryable"


def test_ids_are_looked_up(http: httpx.Client) -> None:
    """By pairs and states, and by prefix; too many is 409 with the limit."""
    ids = [insert(http, strategic_metadata={"customer": 7, "n": n}) for n in range(3)]
    http.post(f"/submissions/{ids[0]}/cancel")
    prefix = http.get(f"/submissions/{ids[1]}").json()["prefix"]

    def look_up(**params: Any) -> object:
        return http.get("/submission-ids", params=params).json()["ids"]

    assert look_up(meta="customer:7") == ids[1:]
    assert look_up(meta=["customer:7", "n:2"]) == ids[2:]
    assert look_up(meta="customer:7", state=["cancelled", "in_progress"]) == ids
    assert look_up(prefix=prefix) == [ids[1]]
    assert look_up(prefix="nobody") == []
    too_many = http.get("/submission-ids", params={"meta": "customer:7", "limit": 1})
    assert (too_many.status_code, too_many.json()["max_submissions"]) == (409, 1)


@pytest.mark.parametrize(
    "params",
    [
        {"meta": "customer"},
        {"meta": "customer:seven"},
        {"created_from": "yesterday"},
        {"created_from": "2026-01-01T00:00:00"},
        {"state": "lost"},
    ],
)
def test_a_filter_that_cannot_be_read_is_refused(
    http: httpx.Client, params: dict[str, str]
) -> None:
    """422, with what would be right."""
    assert http.get("/submissions", params=params).status_code == 422


def test_a_list_is_filtered(http: httpx.Client) -> None:
    """By any state, pairs and age."""
    ids = [insert(http, strategic_metadata={"customer": n % 2}) for n in range(4)]
    http.post(f"/submissions/{ids[1]}/cancel")

    params = {"state": "any", "meta": "customer:1", "order": "oldest"}
    listed = http.get("/submissions", params=params).json()["submissions"]
    future = http.get("/submissions", params={"created_from": "2200-01-01T00:00:00Z"}).json()

    assert [s["id"] for s in listed] == ids[1::2]
    assert future["submissions"] == []


def test_a_queue_is_paused_and_resumed(http: httpx.Client, queue: Queue) -> None:
    """The answer says which."""
    insert(http)

    assert http.post("/pause").json()["is_paused"] is True
    assert queue.reserve_chunks("w").is_paused
    assert http.post("/resume").json()["is_paused"] is False
    assert queue.reserve_chunks("w").chunks


def test_queues_and_workers_are_listed(http: httpx.Client, queue: Queue) -> None:
    """With counts; with what workers tell of themselves."""
    insert(http)
    queue.heartbeat("w1", info=b'{"host": "a"}')

    queues = {q["queue"]: q for q in http.get("http://api/v1/queues").json()["queues"]}
    workers = http.get("/workers").json()["workers"]

    assert queues[queue.name]["submissions"]["in_progress"] == 1
    assert [(w["name"], w["info"]) for w in workers] == [("w1", {"host": "a"})]


@pytest.mark.parametrize("path", ["/submissions", "/submissions/"])
def test_the_location_leads_to_the_submission_below_any_prefix(
    http: httpx.Client, path: str
) -> None:
    """It is relative to the client's URL, of which a proxy may remove a prefix."""
    answer = http.post(path, json={"operations": [1], "chunk_size": 1})

    location = httpx.URL(f"https://proxy/oq/v1/queues/q{path}").join(answer.headers["location"])
    assert f"https://proxy/oq/v1/queues/q/submissions/{answer.json()['id']}" == str(location)


def test_a_list_without_a_state_has_all_states(http: httpx.Client) -> None:
    """As on the command line."""
    ids = [insert(http), insert(http)]
    http.post(f"/submissions/{ids[0]}/cancel")

    found = http.get("/submissions", params={"order": "oldest"}).json()["submissions"]

    assert ids == [one["id"] for one in found]


@pytest.mark.parametrize(
    "path", ["", "/submissions", "/submissions/{id}", "/submissions/{id}/results", "/events"]
)
def test_head_is_answered_as_get_without_the_body(http: httpx.Client, work: Any, path: str) -> None:
    """Headers and refusals are those of GET, and a stream releases its place."""
    id_ = insert(http)
    work(lambda x: x)
    path = path.format(id=id_)

    answers = [http.head(path) for _ in range(30)]

    assert {(200, b"")} == {(one.status_code, one.content) for one in answers}
    with http.stream("GET", path) as whole:
        for name in ("content-type", "content-length"):
            assert whole.headers.get(name) == answers[0].headers.get(name)
    assert http.head(path, params={"none": 1}).status_code == 422


def test_head_needs_the_token_that_get_needs(client: redis.Redis, store: ObjectStore) -> None:
    """And not an administrator's."""
    tokens = parse_tokens(f"web:{'x' * 32}:produce@emails")
    app = create_app(client, store, tokens=tokens)
    with client_of(app) as http:
        bearer = {"authorization": f"Bearer {'x' * 32}"}

        assert http.head("/v1/queues/emails/submissions", headers=bearer).status_code == 200
        assert http.head("/v1/queues/emails/submissions").status_code == 401
        assert http.head("/v1/queues/other/submissions", headers=bearer).status_code == 403
        assert http.head("/v1/queues/emails/cancel", headers=bearer).status_code == 404


@pytest.mark.parametrize("path", ["", "/submissions", "/submissions/12", "/nothing", "/../x"])
def test_no_answer_is_stored_or_taken_for_a_page(http: httpx.Client, path: str) -> None:
    """Refusals too."""
    headers = http.get(path).headers

    assert ("nosniff", "no-store") == (
        headers["x-content-type-options"],
        headers["cache-control"],
    )


@pytest.mark.parametrize(
    "kind",
    ["application/jsonx", "application/json-seq", "application/jsonp; charset=utf-8", "text/json"],
)
def test_a_type_that_only_begins_like_json_is_refused(http: httpx.Client, kind: str) -> None:
    """Types are compared whole; parameters may follow them."""
    body = b'{"operations": [1], "chunk_size": 1}'

    refused = http.post("/submissions", content=body, headers={"content-type": kind})
    taken = http.post(
        "/submissions", content=body, headers={"content-type": "Application/JSON ; charset=utf-8"}
    )

    assert (415, 201) == (refused.status_code, taken.status_code)


def test_the_last_colon_of_a_pair_divides(http: httpx.Client) -> None:
    """The value is an integer, and the key any text, percent-encoded."""
    id_ = insert(http, strategic_metadata={"a:1": 7})
    insert(http, strategic_metadata={"a": 1})

    assert [id_] == http.get("/submission-ids?meta=a%3A1:7").json()["ids"]
    assert [id_] == http.get("/submission-ids?meta=a:1:7").json()["ids"]


@pytest.mark.parametrize("query", ["meta=%ff:7", "meta=a:1&meta=%ed%a0%80:7"])
def test_a_pair_that_is_not_utf8_is_refused(http: httpx.Client, query: str) -> None:
    """Nobody meant the character that stands for what can't be read."""
    answer = http.get(f"/submission-ids?{query}")

    assert answer.status_code == 422
    assert "not percent-encoded UTF-8" in answer.json()["detail"]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_key_with_a_lone_surrogate_is_refused(http: httpx.Client, method: str) -> None:
    """JSON can write what is no character."""
    path = "/submissions" if method == "POST" else f"/submissions/{insert(http)}"
    rest = ', "operations": [1], "chunk_size": 1' if method == "POST" else ""
    body = '{"strategic_metadata": {"a\\ud800": 1}' + rest + "}"

    headers = {"content-type": "application/json"}
    answer = http.request(method, path, content=body, headers=headers)

    assert answer.status_code == 400
    assert "lone surrogate" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("&".join(["meta=a:1"] * 65), "65 times meta: a submission has at most 64 pairs"),
        ("meta=a:1&meta=b:1&meta=a:2", "meta has two values for 'a'"),
    ],
)
def test_pairs_that_no_submission_can_have_are_refused(
    http: httpx.Client, query: str, says: str
) -> None:
    """The last one would be looked up otherwise, and submissions found that were not meant."""
    answer = http.get(f"/submission-ids?{query}")

    assert answer.status_code == 422
    assert says in answer.json()["detail"]
    assert http.get(f"/submissions?{query}").status_code == 422
