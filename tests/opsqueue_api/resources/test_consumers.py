"""The routes for consumers in any language, with contents as JSON or bytes."""

from __future__ import annotations

import base64
import pickle
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import pytest
import redis

from opsqueue.contents.codec import open_codec
from opsqueue.contents.output import encode_output
from opsqueue.model.chunk import OperationError, ReleaseOutcome, Token
from opsqueue.model.new_submission import MAX_METADATA_BYTES
from opsqueue.model.submission import SubmissionId
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore, input_key, output_key
from opsqueue_api.app import create_app
from opsqueue_api.http.settings import Limits
from opsqueue_api.http.streams import has_closed
from tests.opsqueue.steps import repair_wholly
from tests.opsqueue_api.clients import client_of

PROBLEM = "urn:opsqueue:problem:"
WANTED = {"worker": "node-1", "strategy": "Oldest", "include_operations": True}


@pytest.fixture
def client(real_client: redis.Redis) -> redis.Redis:
    """Use only a real server; the state machine's own suite covers fakeredis."""
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
    """It could never send a heartbeat."""
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
    assert "can't be returned as JSON" in chunk["problem"]
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
    first, second = (open_codec(chunk["codec"]).encode([value]) for value in ("first", "second"))
    for content in (first, second):
        stored = http.put(path, params={"token": chunk["token"]}, content=content, headers=headers)
        assert stored.status_code == 204
    outcome = complete(http, {"token": chunk["token"]}).json()["outcomes"][0]["outcome"]

    assert (409, f"{PROBLEM}chunk-lost") == (refused.status_code, refused.json()["type"])
    assert (409, 415) == (elsewhere.status_code, untyped.status_code)
    assert store.get(output_key(chunk["prefix"], 0)) == first
    assert outcome == "completed"


def test_bytes_can_come_along_with_the_report(http: httpx.Client, store: ObjectStore) -> None:
    """As base64, encoded as the submission's codec says."""
    id_ = insert(http, [1])
    (chunk,) = reserve(http)
    data = open_codec("msgpack+zstd").encode([11])

    complete(http, {"token": chunk["token"], "output": base64.b64encode(data).decode()})

    assert store.get(output_key(chunk["prefix"], 0)) == data
    assert http.get(f"/submissions/{id_}/results").text == "11\n"


def encoded(*results: Any, codec: str = "msgpack+zstd") -> str:
    return base64.b64encode(open_codec(codec).encode(list(results))).decode()


def with_errors(*results: Any) -> str:
    """Encode an output of a handler that collects errors; each None becomes an error."""
    failed = OperationError(type="ValueError", message="no")
    output = [failed if result is None else result for result in results]
    data = encode_output(output, open_codec("msgpack+zstd"), collects=True).data
    return base64.b64encode(data).decode()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "neither": ({}, "has no output"),
    "empty": ({"output": ""}, "empty"),
    "no-bytes-of-any-codec": ({"output": "AAAA"}, "can't be decompressed"),
    "without-compression": ({"output": encoded(1, 2, codec="msgpack")}, "can't be decompressed"),
    "another-codec": ({"output": encoded(1, 2, codec="cbor+zstd")}, "another codec"),
    "cut-off": ({"output": encoded("x" * 999, 2)[:-8]}, "can't be"),
    "too-few": ({"output": encoded(1)}, "1 results for 2 operations"),
    "too-many": ({"output": encoded(1, 2, 3)}, "3 results for 2 operations"),
    "none": ({"output": encoded()}, "0 results for 2 operations"),
    "errors-of-other-operations": ({"output": with_errors(1, None, 3)}, "3 results for 2"),
    "too-few-as-json": ({"results": [1]}, "1 results for 2 operations"),
    "too-many-as-json": ({"results": [1, 2, 3]}, "3 results for 2 operations"),
    "none-as-json": ({"results": []}, "0 results for 2 operations"),
    "null-as-json": ({"results": None}, "results"),
    "both": ({"results": [1, 2], "output": "AA=="}, "not both"),
    "not-encodable": ({"results": [1, 2**64]}, "can't encode the result of operation 1"),
}


@pytest.mark.parametrize(("done", "says"), REFUSED.values(), ids=REFUSED)
def test_a_report_without_a_whole_output_is_refused_and_nothing_is_counted(
    http: httpx.Client, queue: Queue, store: ObjectStore, done: dict[str, Any], says: str
) -> None:
    """The chunk stays in hand, so that it can be reported rightly, or failed."""
    id_ = insert(http, [1, 2])
    (chunk,) = reserve(http)

    answer = complete(http, {"token": chunk["token"], **done})

    assert answer.status_code == 422
    assert says in answer.json()["detail"]
    assert not store.exists(output_key(chunk["prefix"], 0))
    assert queue.count_queue().chunks_in_hand == 1
    assert complete(http, {"token": chunk["token"], "results": [3, 4]}).status_code == 200
    assert http.get(f"/submissions/{id_}/results").text == "3\n4\n"


def test_an_output_that_holds_too_much_is_refused_by_the_limits_name(http: httpx.Client) -> None:
    """A few kilobytes that would be 64 MiB."""
    insert(http, [1, 2])
    (chunk,) = reserve(http)

    answer = complete(http, {"token": chunk["token"], "output": encoded("x" * 2**26, 2)})

    assert (422, f"{PROBLEM}output-refused") == (answer.status_code, answer.json()["type"])
    assert "max-chunk-bytes" in answer.json()["detail"]


def test_a_refusal_names_the_chunk_and_its_token(http: httpx.Client) -> None:
    """As a problem of its own, which programs can tell apart."""
    id_ = insert(http, [1, 2])
    (chunk,) = reserve(http)

    problem = complete(http, {"token": chunk["token"]}).json()

    assert (f"{PROBLEM}output-refused", chunk["token"]) == (problem["type"], problem["token"])
    assert f"chunk {id_}/0" in problem["detail"]
    assert "still reserved" in problem["detail"]


@pytest.mark.parametrize("bad", [{}, {"output": "AAAA"}, {"results": [1, 2]}])
def test_one_report_that_is_refused_leaves_the_others_unchanged(
    http: httpx.Client, queue: Queue, store: ObjectStore, bad: dict[str, Any]
) -> None:
    """Nothing is stored or counted, so all of it can be sent again."""
    id_ = insert(http, [1, 2, 3], chunk_size=1)
    chunks = reserve(http, max=3)
    good = [{"token": chunk["token"], "results": [7]} for chunk in chunks]

    answer = complete(http, good[0], {"token": chunks[1]["token"], **bad}, good[2])

    assert (422, chunks[1]["token"]) == (answer.status_code, answer.json()["token"])
    assert not [key for key in store.list_prefix("") if key.endswith("-out")]
    assert queue.count_queue().chunks_in_hand == 3
    complete(http, *good)
    assert http.get(f"/submissions/{id_}/results").text == "7\n" * 3


def test_the_last_chunk_has_fewer_operations(http: httpx.Client) -> None:
    """So many results as it has, not as many as the others."""
    id_ = insert(http, [1, 2, 3])
    first, last = reserve(http, max=2)

    refused = complete(http, {"token": last["token"], "output": encoded(1, 2)})
    complete(http, {"token": last["token"], "output": encoded(5)})
    complete(http, {"token": first["token"], "output": encoded(3, 4)})

    assert "2 results for 1 operations" in refused.json()["detail"]
    assert http.get(f"/submissions/{id_}/results").text == "3\n4\n5\n"


@pytest.mark.parametrize("told", [0, 1, 2, 10**9])
@pytest.mark.parametrize("way", ["stored", "sent"])
def test_failed_operations_are_those_of_the_output(http: httpx.Client, told: int, way: str) -> None:
    """Whatever the consumer says of them."""
    id_ = insert(http, [1, 2])
    (chunk,) = reserve(http)
    done = {"token": chunk["token"], "operations_failed": told}
    output = with_errors(1, None)
    if way == "stored":
        put(http, chunk, base64.b64decode(output))
    else:
        done["output"] = output

    complete(http, done)

    assert http.get(f"/submissions/{id_}").json()["operations_failed"] == 1
    assert http.get(f"/submissions/{id_}/results?errors=skip").text == "1\n"


def test_an_output_that_has_no_errors_has_no_failed_operations(http: httpx.Client) -> None:
    """As /errors would show."""
    id_ = insert(http, [1, 2])
    (chunk,) = reserve(http)

    complete(http, {"token": chunk["token"], "results": [1, 2], "operations_failed": 2})

    assert http.get(f"/submissions/{id_}").json()["operations_failed"] == 0


def put(http: httpx.Client, chunk: dict[str, Any], data: bytes) -> httpx.Response:
    path = f"/submissions/{chunk['submission_id']}/chunks/{chunk['chunk_index']}/output"
    headers = {"content-type": "application/octet-stream"}
    return http.put(path, params={"token": chunk["token"]}, content=data, headers=headers)


@pytest.mark.parametrize(
    "name", [name for name in REFUSED if "output" in REFUSED[name][0] and name != "both"]
)
def test_bytes_that_are_no_whole_output_are_not_stored(
    http: httpx.Client, store: ObjectStore, name: str
) -> None:
    """They would stay, and no attempt could complete the chunk."""
    insert(http, [1, 2])
    (chunk,) = reserve(http)
    done, says = REFUSED[name]

    answer = put(http, chunk, base64.b64decode(str(done["output"])))

    assert (422, f"{PROBLEM}output-refused") == (answer.status_code, answer.json()["type"])
    assert says in answer.json()["detail"]
    assert not store.exists(output_key(chunk["prefix"], 0))


def test_an_output_that_an_earlier_reservation_stored_is_enough(http: httpx.Client) -> None:
    """The first one stays, and is counted as it is."""
    id_ = insert(http, [1, 2])
    (chunk,) = reserve(http)
    put(http, chunk, base64.b64decode(with_errors(1, None)))
    http.post("/chunks/release", json={"tokens": [chunk["token"]]})
    (again,) = reserve(http)

    complete(http, {"token": again["token"], "results": [5, 6]})

    assert http.get(f"/submissions/{id_}").json()["operations_failed"] == 1
    assert http.get(f"/submissions/{id_}/results?errors=skip").text == "1\n"


@pytest.mark.parametrize("report", [{}, {"results": [1, 2]}])
@pytest.mark.parametrize("data", [b"", b"text", open_codec("msgpack+zstd").encode([1])])
def test_a_stored_output_that_can_not_be_used_is_refused(
    http: httpx.Client, store: ObjectStore, queue: Queue, report: dict[str, Any], data: bytes
) -> None:
    """Whoever stored it: it stays, and what is reported would not be what is read."""
    insert(http, [1, 2])
    (chunk,) = reserve(http)
    key = output_key(chunk["prefix"], 0)
    store.create(key, data)

    answer = complete(http, {"token": chunk["token"], **report})

    assert (422, f"{PROBLEM}output-refused") == (answer.status_code, answer.json()["type"])
    assert key in answer.json()["detail"]
    assert queue.count_queue().chunks_in_hand == 1


def test_a_chunk_that_is_named_twice_is_done_once(http: httpx.Client) -> None:
    """By the first of the two, whatever the second has."""
    id_ = insert(http, [1])
    (chunk,) = reserve(http)
    first, second = ({"token": chunk["token"], "results": [value]} for value in (1, 2))
    short = {"token": chunk["token"].partition(":")[0]}

    outcomes = complete(http, first, second, short).json()["outcomes"]

    assert ["completed", "lost", "lost"] == [outcome["outcome"] for outcome in outcomes]
    assert http.get(f"/submissions/{id_}/results").text == "1\n"


@pytest.mark.parametrize("report", [{}, {"output": "AAAA"}, {"results": [1, 2, 3]}])
def test_a_report_of_a_submission_that_has_ended_is_dropped(
    http: httpx.Client, store: ObjectStore, report: dict[str, Any]
) -> None:
    """The result is no longer needed, so nothing is refused."""
    id_ = insert(http, [1])
    (chunk,) = reserve(http)
    http.post(f"/submissions/{id_}/cancel")

    outcomes = complete(http, {"token": chunk["token"], **report}).json()["outcomes"]

    assert ["dropped"] == [outcome["outcome"] for outcome in outcomes]
    assert not store.exists(output_key(chunk["prefix"], 0))


@pytest.mark.parametrize("report", [{}, {"output": "AAAA"}, {"results": [1, 2, 3]}])
def test_a_report_of_a_chunk_that_is_lost_is_not_looked_at(
    http: httpx.Client, report: dict[str, Any]
) -> None:
    """It is answered as it always was, and says nothing of what others have done."""
    insert(http, [1])
    (chunk,) = reserve(http)
    http.post("/chunks/release", json={"tokens": [chunk["token"]]})

    outcomes = complete(http, {"token": chunk["token"], **report}).json()["outcomes"]

    assert [{"token": chunk["token"], "outcome": "lost"}] == outcomes


@pytest.mark.parametrize("codec", ["raw", "custom:mine", "pickle"])
def test_what_the_api_can_not_read_must_be_there(
    http: httpx.Client, store: ObjectStore, codec: str
) -> None:
    """It is not counted: raw bytes are the submitter's affair, others it can't decode."""
    prefix = f"{http.base_url.path.rstrip('/').rpartition('/')[2]}/{'0' * 32}"
    store.create(input_key(prefix, 0), b"x")
    body = {"prefix": prefix, "chunks_total": 1, "chunk_size": 2, "codec": codec}
    id_ = http.post("/submissions", json=body).json()["id"]
    (chunk,) = reserve(http, include_operations=False)

    missing = complete(http, {"token": chunk["token"]})
    output = base64.b64encode(pickle.dumps([1, 2])).decode()
    complete(http, {"token": chunk["token"], "output": output})

    assert (422, f"{PROBLEM}output-refused") == (missing.status_code, missing.json()["type"])
    assert http.get(f"/submissions/{id_}").json()["state"] == "completed"


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


def test_a_heartbeat_reports_what_is_revoked(http: httpx.Client, queue: Queue) -> None:
    """The answer names the tokens; the list of workers shows the heartbeat's info."""
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
    """They are released at once without using an attempt; a second call changes nothing."""
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
    """Nobody would receive the chunks that would be reserved for it."""
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


@pytest.mark.parametrize("report", [{}, {"output": "AAAA"}, {"results": [1, 2, 3]}])
def test_a_late_report_without_an_output_does_not_complete_what_a_retry_put_back(
    http: httpx.Client, queue: Queue, monkeypatch: pytest.MonkeyPatch, report: dict[str, Any]
) -> None:
    """The submission had ended when the report was looked at, and goes on when it is counted."""
    id_ = insert(http, [1])
    (chunk,) = reserve(http)
    http.post(f"/submissions/{id_}/cancel")
    release = Queue.release_chunks

    def after_a_retry(self: Queue, tokens: list[Token]) -> list[ReleaseOutcome]:
        http.post(f"/submissions/{id_}/retry")
        return release(self, tokens)

    monkeypatch.setattr(Queue, "release_chunks", after_a_retry)

    outcomes = complete(http, {"token": chunk["token"], **report}).json()["outcomes"]

    assert ["lost"] == [outcome["outcome"] for outcome in outcomes]
    assert queue.get_submission(SubmissionId(id_)).chunks_done == 0
    assert [0] == [again["chunk_index"] for again in reserve(http)]


def test_the_operations_of_one_answer_are_bounded_together(
    real_client: redis.Redis, store: ObjectStore, queue_name: str
) -> None:
    """A few bytes stand for each chunk's: what does not fit in is told to be somewhere else."""
    app = create_app(real_client, store, limits=Limits(chunk_bytes=1_000_000))
    with client_of(app, f"/v1/queues/{queue_name}") as http:
        insert(http, ["x" * 600_000] * 5, chunk_size=1)

        chunks = reserve(http, max=5)

        assert [True, True, False, False, False] == [bool(chunk["operations"]) for chunk in chunks]
        assert all("max-chunk-bytes" in chunk["problem"] for chunk in chunks[2:])
        path = chunks[4]["input_url"].rpartition(queue_name)[2]
        assert http.get(f"{path}?as=json").json() == ["x" * 600_000]


@pytest.mark.parametrize(
    "operation",
    [
        b"\xc4\x82\x01\xc2\x5a\x00\x03\x0d\x40" + b"\xff" * 200_000,  # a decimal fraction
        b"\xc5\x82\x01\xc2\x5a\x00\x03\x0d\x40" + b"\xff" * 200_000,  # a bigfloat
        b"\xd8\x1e\x82\x01\xc2\x5a\x00\x03\x0d\x40" + b"\xff" * 200_000,  # a rational
    ],
    ids=["decimal", "bigfloat", "rational"],
)
def test_numbers_that_take_the_square_of_their_length_are_refused(
    http: httpx.Client, store: ObjectStore, operation: bytes
) -> None:
    """They would stop a whole process: nothing else runs while Python makes such a number."""
    prefix = f"{http.base_url.path.rstrip('/').rpartition('/')[2]}/{'0' * 32}"
    store.create(input_key(prefix, 0), b"\x81" + operation)
    body = {"prefix": prefix, "chunks_total": 1, "chunk_size": 1, "codec": "cbor"}
    id_ = http.post("/submissions", json=body).json()["id"]

    answer = http.get(f"/submissions/{id_}/chunks/0/input?as=json")

    assert answer.status_code == 422
    assert "4,300 digits" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a b", "x" * 201, ""])
def test_a_worker_that_could_not_sign_off_may_not_reserve(http: httpx.Client, name: str) -> None:
    """Names are held to one rule, wherever they stand."""
    answer = http.post("/chunks/reserve", json={"worker": name})

    assert answer.status_code == 422
    assert "worker" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["a%20b", "x" * 201, "caf%C3%A9"])
def test_a_worker_may_not_beat_with_a_name_that_may_not_reserve(
    http: httpx.Client, name: str
) -> None:
    """Nor sign off."""
    answers = [
        http.post(f"/workers/{name}/heartbeat", json={"tokens": []}),
        http.delete(f"/workers/{name}"),
    ]

    assert {422} == {answer.status_code for answer in answers}


def test_metadata_comes_once_for_each_submission_where_that_is_asked_for(
    http: httpx.Client, queue: Queue
) -> None:
    """And with each chunk where it is not, as clients of 0.1.0 read it."""
    more = {"strategic_metadata": {"a:b": 7}, "trace_context": {"traceparent": "t"}}
    large = {"metadata": base64.b64encode(bytes(MAX_METADATA_BYTES)).decode(), **more}
    first = insert(http, list(range(128)), **large)
    second = insert(http, [1, 2, 3])

    answer = http.post("/chunks/reserve", json={**WANTED, "max": 100, "share_metadata": True})
    body = answer.json()

    assert [first] * 64 + [second] * 2 == [chunk["submission_id"] for chunk in body["chunks"]]
    assert not any({"metadata", *more} & set(chunk) for chunk in body["chunks"])
    assert [{"submission_id": first, **large}, {"submission_id": second}] == body["shared"]
    assert len(answer.content) < MAX_METADATA_BYTES * 3 // 2

    queue.release_chunks([Token(chunk["token"]) for chunk in body["chunks"]])
    old = http.post("/chunks/reserve", json={**WANTED, "max": 100}).json()
    assert "shared" not in old
    assert [large] * 2 == [{name: chunk[name] for name in large} for chunk in old["chunks"]]
