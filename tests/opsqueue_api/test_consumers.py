"""What a consumer in any language meets: the endpoints, with contents as JSON or bytes."""

from __future__ import annotations

import base64
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import pytest
import redis

from opsqueue.codec import open_codec
from opsqueue.queue import Queue
from opsqueue.store import ObjectStore, input_key, output_key
from opsqueue_api.app import create_app
from opsqueue_api.streams import has_closed
from tests.opsqueue.steps import repair_wholly
from tests.opsqueue_api.clients import client_of

PROBLEM = "urn:opsqueue:problem:"
WANTED = {"worker": "node-1", "strategy": "Oldest", "include_operations": True}


@pytest.fixture
def client(real_client: redis.Redis) -> redis.Redis:
    """A real server alone: fakeredis has the state machine's own suite."""
    return real_client


def insert(http: httpx.Client, operations: list[Any], **more: Any) -> str:
    body = {"operations": operations, "chunk_size": 2, **more}
    return str(http.post("/submissions", json=body).json()["id"])


def reserve(http: httpx.Client, **more: Any) -> list[dict[str, Any]]:
    answer = http.post("/chunks/reserve", json={**WANTED, **more})
    assert answer.status_code == 200, answer.text
    chunks: list[dict[str, Any]] = answer.json()["chunks"]
    return chunks


def complete(http: httpx.Client, *chunks: dict[str, Any]) -> httpx.Response:
    return http.post("/chunks/complete", json={"chunks": chunks})


@pytest.mark.parametrize("worker", ["", "a/b", "..", "."])
def test_a_worker_whose_name_no_path_can_have_is_refused(http: httpx.Client, worker: str) -> None:
    """It could never give a sign of life."""
    answer = http.post("/chunks/reserve", json={**WANTED, "worker": worker})

    assert answer.status_code == 422
    assert "worker" in answer.json()["detail"]


def test_json_alone_does_a_whole_submission(http: httpx.Client) -> None:
    """Reserve with operations, complete with results: no store, no codec, no Redis."""
    id_ = insert(http, [1, "zwei", None])

    chunks = reserve(http, max=5)
    for chunk in chunks:
        complete(http, {"token": chunk["token"], "results": [[op] for op in chunk["operations"]]})

    results = http.get(f"/submissions/{id_}/results").text.splitlines()
    assert [[1, "zwei"], [None]] == [chunk["operations"] for chunk in chunks]
    assert ["[1]", '["zwei"]', "[null]"] == results


def test_a_reserved_chunk_says_all_that_is_needed(http: httpx.Client, queue: Queue) -> None:
    """Also where its objects lie, for those who go to the store."""
    id_ = insert(http, [1, 2, 3], strategic_metadata={"customer": 7}, max_attempts=3)
    prefix = queue.get_submission(queue.list_submissions().submissions[0].id).prefix

    (chunk,) = reserve(http, include_operations=False)

    assert chunk.pop("token")
    assert chunk.pop("expires_at").endswith("Z")
    assert chunk == {
        "submission_id": id_,
        "chunk_index": 0,
        "attempt": 1,
        "max_attempts": 3,
        "chunks_total": 2,
        "chunk_size": 2,
        "operations_total": 3,
        "codec": "msgpack+zstd",
        "prefix": prefix,
        "input_key": f"{prefix}/0-in",
        "output_key": f"{prefix}/0-out",
        "input_url": f"/v1/queues/{queue.name}/submissions/{id_}/chunks/0/input",
        "strategic_metadata": {"customer": 7},
    }


def test_a_reserve_waits_for_a_chunk(http: httpx.Client, queue: Queue) -> None:
    """It is answered with the insert, not after the wait."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(reserve, http, wait=30)
        is_waiting = Event()
        while not is_waiting.is_set():
            if queue.list_workers():  # a reserve is a sign of life
                is_waiting.set()
        insert(http, [1])

        chunks = waiting.result(timeout=10)

    assert [1] == chunks[0]["operations"]


def test_a_reserve_that_waits_ends_with_the_process(
    client: redis.Redis, store: ObjectStore, queue_name: str
) -> None:
    """Empty-handed, within a second or so."""
    app = create_app(client, store, long_polls=1, is_stopping=lambda: True)
    with client_of(app, f"/v1/queues/{queue_name}") as http:
        answer = http.post("/chunks/reserve", json={"worker": "w", "wait": 60}, timeout=10)

    assert answer.json() == {"chunks": [], "is_paused": False, "next_due_in_ms": None}


@pytest.mark.parametrize(
    "strategy",
    [
        "SelectOnly(customer, 2)",
        {"SelectOnly": {"meta_key": "customer", "value": 2, "underlying": "Oldest"}},
        {"OrElse": {"first": {"SelectOnly": {"meta_key": "customer", "value": 2}},
                    "fallback": "Newest"}},
    ],
)  # fmt: skip
def test_a_strategy_is_text_or_json(http: httpx.Client, strategy: Any) -> None:
    """Text as on command lines."""
    for value in (1, 2, 3):
        insert(http, [value], strategic_metadata={"customer": value})

    (chunk,) = reserve(http, strategy=strategy)

    assert [2] == chunk["operations"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"worker": "a b"},
        {"worker": "w", "max": 0},
        {"worker": "w", "max": 1001},
        {"worker": "w", "wait": 61},
        {"worker": "w", "strategy": "oldest"},
        {"worker": "w", "strategy": {"Oldest": 3}},
        {"worker": "w", "strategy": {"SelectOnly": {"key": "k"}}},
        {"worker": "w", "strategy": {"Oldest": {}, "Newest": {}}},
        {"worker": "w", "strategy": "OrElse(" * 250},
        {"worker": "w", "reservation_ms": 0},
        {"worker": "w", "limit": 1},
    ],
)
def test_a_wrong_reserve_is_refused(http: httpx.Client, body: dict[str, Any]) -> None:
    """422 as a problem."""
    answer = http.post("/chunks/reserve", json=body)

    assert (422, f"{PROBLEM}invalid-argument") == (answer.status_code, answer.json()["type"])


def test_what_has_no_json_form_says_so_and_stays_reserved(
    http: httpx.Client, queue: Queue, store: ObjectStore
) -> None:
    """An answer with an error would leave chunks in nobody's knowledge."""
    insert(http, [1])
    prefix = queue.list_submissions().submissions[0].prefix
    store.delete_prefix(prefix)
    data = open_codec("msgpack+zstd").encode([{(1, 2): 3}])
    store.create(input_key(prefix, 0), data)

    (chunk,) = reserve(http)
    as_json = http.get(chunk["input_url"].partition(queue.name)[2], params={"as": "json"})
    as_bytes = http.get(chunk["input_url"].partition(queue.name)[2])

    assert chunk["operations"] is None
    assert "can't be given as JSON" in chunk["problem"]
    assert (422, f"{PROBLEM}not-json") == (as_json.status_code, as_json.json()["type"])
    assert (data, "msgpack+zstd") == (as_bytes.content, as_bytes.headers["opsqueue-codec"])


def test_an_input_can_be_read_as_json(http: httpx.Client) -> None:
    """The operations, a list."""
    id_ = insert(http, [1, 2, 3])

    assert [3] == http.get(f"/submissions/{id_}/chunks/1/input?as=json").json()
    assert http.get(f"/submissions/{id_}/chunks/2/input").status_code == 422
    assert http.get(f"/submissions/{id_}/chunks/-1/input").status_code == 422
    assert http.get(f"/submissions/{'1' * 19}/chunks/0/input").status_code == 404
    assert http.get(f"/submissions/{id_}/chunks/0/input?as=xml").status_code == 422


def test_an_input_that_was_deleted_is_gone(
    http: httpx.Client, queue: Queue, store: ObjectStore
) -> None:
    """410; a reserve tells of it beside the chunk."""
    id_ = insert(http, [1])
    store.delete_prefix(queue.list_submissions().submissions[0].prefix)

    answer = http.get(f"/submissions/{id_}/chunks/0/input")

    assert (410, f"{PROBLEM}input-gone") == (answer.status_code, answer.json()["type"])
    assert "has no object" in reserve(http)[0]["problem"]


def test_bytes_can_be_stored_before_the_chunk_is_completed(
    http: httpx.Client, store: ObjectStore
) -> None:
    """By the holder of its token alone; the first output stays."""
    id_ = insert(http, [1], max_attempts=3)
    (chunk,) = reserve(http)
    path = f"/submissions/{id_}/chunks/0/output"
    headers = {"content-type": "application/octet-stream"}

    refused = http.put(path, params={"token": "1-0"}, content=b"mine", headers=headers)
    elsewhere = http.put(
        path.replace("/0/", "/1/"),
        params={"token": chunk["token"]},
        content=b"mine",
        headers=headers,
    )
    untyped = http.put(path, params={"token": chunk["token"]}, content=b"mine")
    for content in (b"first", b"second"):
        stored = http.put(path, params={"token": chunk["token"]}, content=content, headers=headers)
        assert stored.status_code == 204
    outcome = complete(http, {"token": chunk["token"]}).json()["outcomes"][0]["outcome"]

    assert (409, f"{PROBLEM}chunk-lost") == (refused.status_code, refused.json()["type"])
    assert (409, 415) == (elsewhere.status_code, untyped.status_code)
    assert store.get(output_key(chunk["prefix"], 0)) == b"first"
    assert outcome == "completed"


def test_bytes_can_come_along_with_the_report(http: httpx.Client, store: ObjectStore) -> None:
    """As base64, encoded as the submission's codec says."""
    id_ = insert(http, [1])
    (chunk,) = reserve(http)
    data = open_codec("msgpack+zstd").encode([11])

    complete(http, {"token": chunk["token"], "output": base64.b64encode(data).decode()})

    assert store.get(output_key(chunk["prefix"], 0)) == data
    assert http.get(f"/submissions/{id_}/results").text == "11\n"


@pytest.mark.parametrize(
    ("done", "says"),
    [
        ({"results": [1]}, "1 results for 2 operations"),
        ({"results": [1, 2], "output": "AA=="}, "not both"),
        ({"results": [1, 2**64]}, "can't carry the result of operation 1"),
    ],
)
def test_a_wrong_output_is_refused_and_nothing_is_counted(
    http: httpx.Client, queue: Queue, store: ObjectStore, done: dict[str, Any], says: str
) -> None:
    """The chunk stays in hand, so that it can be failed."""
    insert(http, [1, 2])
    (chunk,) = reserve(http)

    answer = complete(http, {"token": chunk["token"], **done})

    assert answer.status_code == 422
    assert says in answer.json()["detail"]
    assert not store.exists(output_key(chunk["prefix"], 0))
    assert queue.count_queue().chunks_in_hand == 1


def test_a_lost_chunks_output_is_not_stored(
    http: httpx.Client, queue: Queue, store: ObjectStore
) -> None:
    """Whoever took it over has the say; the report is answered `lost`."""
    insert(http, [1])
    (chunk,) = reserve(http)
    http.post("/chunks/release", json={"tokens": [chunk["token"]]})

    outcomes = complete(http, {"token": chunk["token"], "results": [2]}).json()["outcomes"]

    assert [{"token": chunk["token"], "outcome": "lost"}] == outcomes
    assert not store.exists(output_key(chunk["prefix"], 0))
    assert queue.get_reservations([chunk["token"]]) == {}


def test_a_failure_is_kept_with_the_submission(http: httpx.Client) -> None:
    """With its type and its traceback, in whatever language it is."""
    id_ = insert(http, [1, 2], backoff={"first_ms": 0, "max_ms": 0}, max_attempts=2)
    outcomes = []
    for _ in range(2):
        (chunk,) = reserve(http)
        failed = {"token": chunk["token"], "type": "RangeError", "message": "no", "traceback": "at"}
        outcomes += http.post("/chunks/fail", json={"chunks": [failed]}).json()["outcomes"]

    failure = http.get(f"/submissions/{id_}").json()["failure"]
    assert [("retried", 1), ("failed", 2)] == [(o["outcome"], o["attempt"]) for o in outcomes]
    assert ("RangeError", "no", "at") == tuple(
        failure[name] for name in ("type", "message", "traceback")
    )


def test_a_heartbeat_says_what_is_void(http: httpx.Client, queue: Queue) -> None:
    """Of the tokens that it names; the worker is listed with what it tells of itself."""
    cancelled, going = insert(http, [1]), insert(http, [2])
    tokens = [chunk["token"] for chunk in reserve(http, max=2)]
    http.post(f"/submissions/{cancelled}/cancel")

    alive = http.post(
        "/workers/node-1/heartbeat", json={"tokens": tokens, "info": {"lang": "js"}}
    ).json()

    assert alive == {"void": tokens[:1], "released": 0}
    assert {"lang": "js"} == queue.list_workers()[0].info
    assert http.get(f"/submissions/{going}").json()["chunks_in_hand"] == 1


def test_a_worker_that_goes_leaves_its_chunks(http: httpx.Client, queue: Queue) -> None:
    """At once, without using an attempt; twice is once."""
    insert(http, [1])
    reserve(http)

    codes = [http.delete("/workers/node-1").status_code for _ in range(2)]

    assert codes == [204, 204]
    assert queue.list_workers() == []
    assert reserve(http)[0]["attempt"] == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chunks/complete", {"chunks": [{"token": "x"}]}),
        ("/chunks/complete", {"chunks": [{"token": "x", "results": []}]}),
        ("/chunks/fail", {"chunks": [{"token": "x", "message": ""}]}),
        ("/chunks/fail", {"chunks": [{"token": "1-0"}]}),
        ("/chunks/release", {"tokens": ["1-0"], "delay_ms": -1}),
        ("/chunks/release", {"tokens": ["1-0"] * 1001}),
        ("/workers/w/heartbeat", {"info": {"text": "x" * 5000}}),
    ],
)
def test_a_wrong_report_is_refused(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    """422 as a problem."""
    assert http.post(path, json=body).status_code == 422


def test_a_client_that_hung_up_is_noticed() -> None:
    """What would be reserved for it, nobody would hear of."""
    here, there = socket.socketpair()
    with here, there:
        before = has_closed(here)
        there.sendall(b"x")
        while_speaking = has_closed(here)
        here.recv(1)
        there.close()

        assert (False, False, True) == (before, while_speaking, has_closed(here))
    assert not has_closed(None)


def test_a_worker_whose_reservations_were_removed_from_redis_can_be_deleted(
    http: httpx.Client, queue: Queue, client: redis.Redis
) -> None:
    """An operator's XTRIM: what is pending for it is not there any more."""
    insert(http, [1, 2, 3])
    reserve(http, worker="node-1")
    stream = f"oq:{{{queue.name}}}:reservations"
    client.xtrim(stream, maxlen=0, approximate=False)

    code = http.delete("/workers/node-1").status_code

    repair_wholly(queue)
    assert code == 204
    assert queue.list_workers() == []
    assert len(queue.reserve_chunks("node-2", limit=10).chunks) > 0
    assert queue.count_queue().stats["reservations_lost"] == 1
