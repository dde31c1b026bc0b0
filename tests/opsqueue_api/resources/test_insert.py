"""POST /v1/queues/{queue}/submissions."""

from __future__ import annotations

import base64
import re
from typing import Any

import httpx
import msgspec
import pytest
import redis

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.contents.codec import open_codec
from opsqueue.model.answers import Inserted
from opsqueue.model.new_submission import DEFAULT_CODEC, Defaults, NewSubmission
from opsqueue.queue.queue import Queue
from opsqueue.queue.rebuild import Rebuilt, rebuild
from opsqueue.store import ObjectStore, input_key
from opsqueue_api.app import create_app
from opsqueue_api.http.settings import Limits
from tests.opsqueue_api.clients import client_of
from tests.waiting import until


def stored_prefixes(store: ObjectStore) -> set[str]:
    return {key.rpartition("/")[0] for key in store.list_prefix("")}


def test_operations_are_cut_and_stored_as_chunks(http: httpx.Client, store: ObjectStore) -> None:
    """Five operations in chunks of two are three objects, the last with one operation."""
    body = {"operations": [1, "two", None, {"x": 3.5}, [5]], "chunk_size": 2}

    status = http.post("/submissions", json=body).json()

    codec = open_codec(status["codec"])
    chunks = [codec.decode(store.get(input_key(status["prefix"], i))) for i in range(3)]
    assert chunks == [[1, "two"], [None, {"x": 3.5}], [[5]]]


def test_an_insert_answers_the_whole_status(http: httpx.Client, queue_name: str) -> None:
    """201, the id as 19 digits in a string, instants with Z, and the Location of the status."""
    body = {
        "operations": [1, 2, 3],
        "chunk_size": 2,
        "metadata": "aGVsbG8=",
        "strategic_metadata": {"customer": 7},
        "max_attempts": 3,
    }

    response = http.post("/submissions", json=body)

    status = response.json()
    assert response.status_code == 201
    assert f"submissions/{status['id']}" == response.headers["location"]
    assert re.fullmatch(r"[0-9]{19}", status.pop("id"))
    assert re.fullmatch(r"[0-9-]{10}T[0-9:.]+Z", status.pop("created_at"))
    assert status.pop("prefix").startswith(f"{queue_name}/")
    expected = {
        "queue": queue_name,
        "state": "in_progress",
        "chunks_total": 2,
        "chunks_done": 0,
        "chunks_in_hand": 0,
        "chunks_failed": 0,
        "chunks_dropped": 0,
        "chunk_size": 2,
        "operations_total": 3,
        "operations_done": 0,
        "operations_failed": 0,
        "operations_succeeded": 0,
        "operations_dropped": 0,
        "max_failed_operations": None,
        "max_attempts": 3,
        "backoff": {"first_ms": 1_000, "max_ms": 60_000},
        "retention_ms": 24 * 3_600_000,
        "delete_inputs_at_completion": False,
        "codec": DEFAULT_CODEC,
        "ended_at": None,
        "metadata": "aGVsbG8=",
        "strategic_metadata": {"customer": 7},
        "trace_context": {},
        "is_inline": False,
        "failure": None,
        "last_failure": None,
        "release_reason": None,
        "released_at": None,
    }
    assert expected == status


def test_no_operations_complete_at_once(http: httpx.Client) -> None:
    """An empty list is a submission of no chunks."""
    status = http.post("/submissions", json={"operations": [], "chunk_size": 2}).json()

    assert (status["state"], status["chunks_total"]) == ("completed", 0)


def test_uploaded_chunks_are_taken_as_they_are(http: httpx.Client, queue_name: str) -> None:
    """A body with prefix and chunks_total needs no operations."""
    prefix = fresh_prefix(queue_name)
    body = {
        "prefix": prefix,
        "chunks_total": 3,
        "chunk_size": 10,
        "operations_total": 25,
        "codec": "json",
    }

    response = http.post("/submissions", json=body)

    status = response.json()
    assert response.status_code == 201
    assert [status[name] for name in ("prefix", "chunks_total", "operations_total", "codec")] == [
        prefix,
        3,
        25,
        "json",
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (3, 2_000, 30_000, 7_000)),
        ({"max_attempts": None, "retention_ms": None}, (3, 2_000, 30_000, 7_000)),
        ({"max_attempts": 10, "retention_ms": 1}, (10, 2_000, 30_000, 1)),
        ({"backoff": {"first_ms": 40_000}}, (3, 40_000, 40_000, 7_000)),
        ({"backoff": {"max_ms": 5}}, (3, 5, 5, 7_000)),
    ],
)
@pytest.mark.parametrize("kind", ["json", "ndjson", "prefix", "inline"])
def test_what_an_insert_does_not_say_is_as_the_queue_has_it_then_as_the_api(
    client: redis.Redis,
    store: ObjectStore,
    queue: Queue,
    kind: str,
    given: dict[str, Any],
    expected: tuple[int, ...],
) -> None:
    """The answer tells what the submission has, whatever kind of insert it was."""
    queue.set_defaults({"max_attempts": 3, "backoff_first_ms": 2_000})
    defaults = Defaults(max_attempts=4, backoff_max_ms=30_000, retention_ms=7_000)
    path = f"/v1/queues/{queue.name}/submissions"
    body = {"chunk_size": 1, **given}
    prefix = fresh_prefix(queue.name)
    with client_of(create_app(client, store, defaults=defaults)) as http:
        match kind:
            case "ndjson":
                backoff = body.pop("backoff", {})
                query = body | {f"backoff_{name}": ms for name, ms in backoff.items()}
                query = {name: value for name, value in query.items() if value is not None}
                headers = {"content-type": "application/x-ndjson"}
                status = http.post(path, content="1\n", params=query, headers=headers).json()
            case "json":
                status = http.post(path, json=body | {"operations": [1]}).json()
            case _:
                body |= {"prefix": prefix, "chunks_total": 1, "codec": "json"}
                body |= {"inline": ["WzFd"]} if kind == "inline" else {}
                status = http.post(path, json=body).json()

    backoff = status["backoff"]
    assert expected == (
        status["max_attempts"],
        backoff["first_ms"],
        backoff["max_ms"],
        status["retention_ms"],
    )


def test_a_known_idempotency_key_answers_the_first_submission(http: httpx.Client) -> None:
    """200 and the first id; nothing is inserted twice."""
    body = {"operations": [1], "chunk_size": 1}
    first = http.post("/submissions", json=body, headers={"idempotency-key": "k 1"})

    again = http.post("/submissions", json=body, headers={"idempotency-key": "k 1"})

    assert [first.status_code, again.status_code] == [201, 200]
    assert first.json() == again.json()


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"operations": [1, {"a": 2, "b": [3]}, 4]}, "operations"),
        ({"operations": [1, {"a": 2, "b": [3.5]}]}, "operations"),
        ({"operations": [{"a": 2, "b": [3]}, 1]}, "operations"),
        ({"chunk_size": 2}, "chunk_size"),
        ({"metadata": "bQ=="}, "metadata"),
        ({"max_attempts": 3}, "max_attempts"),
    ],
)
@pytest.mark.parametrize("inline_bytes", [0, 1_000])
@pytest.mark.parametrize("kind", ["json", "ndjson"])
def test_a_known_idempotency_key_with_another_request_is_refused(
    client: redis.Redis,
    store: ObjectStore,
    queue: Queue,
    kind: str,
    inline_bytes: int,
    change: dict[str, Any],
    differing: str,
) -> None:
    """422 with the first id and what is different; its second upload is deleted."""
    first: dict[str, Any] = {"chunk_size": 1, "operations": [1, {"a": 2, "b": [3]}]}
    same = {"chunk_size": 1, "operations": [1, {"b": [3], "a": 2}], "max_attempts": 10}
    if kind == "ndjson" and "metadata" in change:
        pytest.skip("an NDJSON body has no metadata")
    app = create_app(client, store, limits=Limits(inline_bytes=inline_bytes))
    with client_of(app, f"/v1/queues/{queue.name}") as http:

        def post(body: dict[str, Any]) -> httpx.Response:
            headers = {"idempotency-key": "k"}
            if kind == "json":
                return http.post("/submissions", json=body, headers=headers)
            query = {name: value for name, value in body.items() if name != "operations"}
            lines = b"\n".join(map(msgspec.json.encode, body["operations"]))
            headers |= {"content-type": "application/x-ndjson"}
            return http.post("/submissions", content=lines, params=query, headers=headers)

        id_ = post(first).json()["id"]
        kept = stored_prefixes(store)

        refused, repeated = post(first | change), post(same)

    problem = refused.json()
    assert (422, 200) == (refused.status_code, repeated.status_code)
    assert problem["type"] == "urn:opsqueue:problem:idempotency-key-reused"
    assert problem["submission_id"] == repeated.json()["id"] == id_
    assert differing in " ".join(problem["differing"]).replace("operations_total", "operations")
    assert kept == stored_prefixes(store)


@pytest.mark.parametrize("inline_bytes", [0, 1_000])
def test_chunks_that_a_producer_sends_along_are_compared(
    client: redis.Redis, store: ObjectStore, queue: Queue, inline_bytes: int
) -> None:
    """Also by an API that stores them; each upload has a prefix of its own."""
    app = create_app(client, store, limits=Limits(inline_bytes=inline_bytes))

    def body(data: bytes) -> dict[str, Any]:
        inline = [base64.b64encode(data).decode()]
        prefix = fresh_prefix(queue.name)
        body = {"prefix": prefix, "chunk_size": 1, "chunks_total": 1, "inline": inline}
        return {**body, "codec": "raw"}

    with client_of(app, f"/v1/queues/{queue.name}") as http:
        first, repeated, other = (
            http.post("/submissions", json=body(data), headers={"idempotency-key": "k"})
            for data in (b"one", b"one", b"other")
        )

    assert [201, 200, 422] == [first.status_code, repeated.status_code, other.status_code]
    assert (first.json()["id"], ["operations"]) == (
        other.json()["submission_id"],
        other.json()["differing"],
    )


def test_a_key_that_outlives_its_submission_is_answered_with_how_that_ended(
    http: httpx.Client, queue: Queue
) -> None:
    """409 with the first id; not 404, and not a second submission."""
    body = {"operations": [], "chunk_size": 1, "retention_ms": 0}
    headers = {"idempotency-key": "k"}
    first = http.post("/submissions", json=body, headers=headers).json()
    until(lambda: queue.forget_submissions().submissions)

    again = http.post("/submissions", json=body, headers=headers)

    assert again.status_code == 409
    problem = again.json()
    assert problem["type"] == "urn:opsqueue:problem:submission-forgotten"
    assert (problem["submission_id"], problem["state"]) == (first["id"], "completed")


def test_a_known_idempotency_key_leaves_no_second_upload(
    http: httpx.Client, store: ObjectStore
) -> None:
    """What the second request stored is deleted; the first one's chunks stay."""
    body = {"operations": [1], "chunk_size": 1}
    first = http.post("/submissions", json=body, headers={"idempotency-key": "k"}).json()

    http.post("/submissions", json=body, headers={"idempotency-key": "k"})

    assert {first["prefix"]} == stored_prefixes(store)


@pytest.mark.parametrize(
    "contents",
    [
        {"operations": [1, 2]},
        {"chunks_total": 1, "codec": "json", "inline": ["WzEsMl0="]},
    ],
)
def test_what_a_rebuild_found_before_its_insert_is_kept_and_answered(
    http: httpx.Client,
    store: ObjectStore,
    queue_name: str,
    monkeypatch: pytest.MonkeyPatch,
    contents: dict[str, Any],
) -> None:
    """Redis may be lost, and rebuilt, while the API repeats an insert."""
    insert = Queue.insert_submission
    rebuilt: list[object] = []

    def after_a_rebuild(self: Queue, new: NewSubmission, *, idempotency_key: str = "") -> Inserted:
        rebuilt.extend(rebuild(store, self))
        return insert(self, new, idempotency_key=idempotency_key)

    monkeypatch.setattr(Queue, "insert_submission", after_a_rebuild)

    body = {**contents, "chunk_size": 2}
    if "inline" in contents:
        body["prefix"] = fresh_prefix(queue_name)
    response = http.post("/submissions", json=body, headers={"idempotency-key": "k"})

    (outcome,) = rebuilt
    assert isinstance(outcome, Rebuilt)
    assert (response.status_code, response.json()["id"]) == (200, str(outcome.submission_id))
    assert store.exists(input_key(outcome.prefix, 0))


def test_a_prefix_belongs_to_one_submission(http: httpx.Client, queue_name: str) -> None:
    """The second insert under a prefix is refused with 409."""
    body = {"prefix": fresh_prefix(queue_name), "chunks_total": 1, "chunk_size": 10}
    http.post("/submissions", json=body)

    response = http.post("/submissions", json=body)

    assert response.status_code == 409
    assert response.json()["type"] == "urn:opsqueue:problem:prefix-taken"


def test_nothing_is_stored_below_a_prefix_that_a_submission_has(
    http: httpx.Client, store: ObjectStore, queue_name: str
) -> None:
    """Chunks that the API stores for the client neither join an upload nor give it a manifest."""
    prefix = fresh_prefix(queue_name)
    store.create(input_key(prefix, 0), b"first")
    http.post("/submissions", json={"prefix": prefix, "chunks_total": 1, "chunk_size": 1})

    body = {"prefix": prefix, "chunks_total": 2, "chunk_size": 1, "inline": ["kQE=", "kQE="]}
    response = http.post("/submissions", json=body)

    assert response.status_code == 409
    assert list(store.list_prefix("")) == [input_key(prefix, 0)]


def test_nothing_stays_below_a_prefix_whose_objects_are_being_deleted(
    http: httpx.Client, store: ObjectStore, queue: Queue
) -> None:
    """The sweeper may have been there already."""
    prefix = fresh_prefix(queue.name)
    queue.discard_prefixes([prefix])

    body = {"prefix": prefix, "chunks_total": 1, "chunk_size": 1, "inline": ["kQE="]}
    response = http.post("/submissions", json=body)

    assert response.status_code == 409
    assert list(store.list_prefix("")) == []


@pytest.mark.parametrize("inline", [None, ["kQE="]])
@pytest.mark.parametrize(
    "form",
    [
        "{other}",
        "{other}/{digits}",
        "{queue}",
        "{queue}/",
        "{queue}/run-1",
        "{queue}/{digits}/",
        "{queue}//{digits}",
        "{queue}/{digits}/0",
        "{queue}/x/{digits}",
        "{queue}x/{digits}",
        "{queue}/{digits}0",
        "{queue}/{short}",
        "{queue}/{upper}",
        "{queue}/{digits}\n",
        "{queue}/{digits}\x00",
        "{queue}/{short}\x00",
        "{queue}%2F{digits}",
        "{queue}/{wide}",
        "{queue}/../{other}/{digits}",
        "./{queue}/{digits}",
        "/{queue}/{digits}",
        "{digits}",
        "{queue}/{very_long}",
    ],
)
def test_a_prefix_that_is_not_of_its_queues_form_is_refused(
    http: httpx.Client, store: ObjectStore, queue: Queue, form: str, inline: list[str] | None
) -> None:
    """422 that says what to use; nothing is stored, not even the queue's name."""
    digits = "0123456789abcdef" * 2
    prefix = form.format(
        queue=queue.name,
        other="other",
        digits=digits,
        short=digits[1:],
        upper=digits.upper(),
        wide=digits.replace("1", "\N{FULLWIDTH DIGIT ONE}"),
        very_long=digits * 1_000,
    )
    body: dict[str, Any] = {"prefix": prefix, "chunks_total": 1, "chunk_size": 1, "retention_ms": 0}

    response = http.post("/submissions", json=body | ({"inline": inline} if inline else {}))

    assert response.status_code == 422
    assert "prefix " in response.json()["detail"]
    assert list(store.list_prefix("")) == []
    assert queue.list_submissions().submissions == ()


def test_a_refused_prefix_is_told_what_to_use(http: httpx.Client, queue_name: str) -> None:
    """The form, and what makes the digits."""
    response = http.post("/submissions", json={"prefix": "p", "chunks_total": 0, "chunk_size": 1})

    assert (
        f"prefix 'p' is not one of queue {queue_name}: upload below {queue_name}/ and 32 "
        "hexadecimal digits" in response.json()["detail"]
    )
    assert "openssl rand -hex 16" in response.json()["detail"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"operations": [1]}, "missing required field `chunk_size`"),
        ({"operations": [1], "chunk_size": 0}, "chunk_size is 0"),
        ({"operations": [1], "chunk_size": "2"}, "Expected `int`, got `str` - at `$.chunk_size`"),
        ({"operations": [1], "chunk_size": 1, "colour": "red"}, "unknown field `colour`"),
        ({"chunk_size": 1}, "neither of operations and prefix"),
        ({"chunk_size": 1, "operations": [], "prefix": "p"}, "both of operations and prefix"),
        ({"chunk_size": 1, "prefix": "p"}, "chunks_total is missing"),
        ({"chunk_size": 1, "operations": [], "codec": "json"}, "codec is only for a body"),
        ({"chunk_size": 1, "prefix": "../p", "chunks_total": 1}, "prefix '../p'"),
        ({"chunk_size": 1, "operations": [], "metadata": "!"}, "base64"),
        ({"chunk_size": 1, "operations": [], "max_attempts": 0}, "max_attempts is 0"),
        ({"chunk_size": 1, "operations": [], "strategic_metadata": {"a": "b"}}, "`int`"),
        ({"chunk_size": 1, "operations": [], "backoff": {"first_ms": 9, "max_ms": 3}}, "back-off"),
        ({"chunk_size": 1, "operations": [], "retention_ms": 10**15}, "retention_ms"),
        ({"chunk_size": 1, "operations": [2**70]}, "chunk 0: codec"),
    ],
)
def test_wrong_values_are_refused_with_422(
    http: httpx.Client, store: ObjectStore, body: dict[str, Any], says: str
) -> None:
    """The problem's detail names the field; nothing is stored."""
    response = http.post("/submissions", json=body)

    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert says in response.json()["detail"]
    assert set() == stored_prefixes(store)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "byte 0"),
        (b'{"chunk_size": 1,', "byte 17"),
        (b'{"chunk_size": 1, "operations": [1, 2,]}', "byte 38"),
        (b'{"chunk_size": 1, "operations": ["\xff"]}', "not UTF-8"),
        (b'{"chunk_size": 1, "operations": [' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_malformed_json_is_refused_with_400(http: httpx.Client, body: bytes, says: str) -> None:
    """The problem's detail says where."""
    response = http.post("/submissions", content=body, headers={"content-type": "application/json"})

    assert response.status_code == 400
    assert says in response.json()["detail"]


def test_a_body_that_is_not_declared_as_json_is_refused(http: httpx.Client) -> None:
    """415: otherwise any web page could post to a developer's own machine."""
    response = http.post("/submissions", data={"chunk_size": "1"})

    assert response.status_code == 415
    assert "curl --json" in response.json()["detail"]


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
def test_an_idempotency_key_is_printable_and_short(http: httpx.Client, key: str) -> None:
    """Others are refused with 422."""
    response = http.post(
        "/submissions",
        json={"operations": [], "chunk_size": 1},
        headers={"idempotency-key": key},
    )

    assert response.status_code == 422


def test_a_queue_name_that_cannot_be_one_is_refused(http: httpx.Client) -> None:
    """400, with what a name may be."""
    response = http.get("http://api/v1/queues/a%20b")

    assert response.status_code == 400
    assert "letters, digits and _.-" in response.json()["detail"]


@pytest.mark.parametrize(
    ("info", "is_warned"),
    [
        ({"codecs": ["cbor", "json"]}, True),
        ({"codecs": ["custom:own"]}, False),
        ({}, False),
        (None, False),
    ],
)
@pytest.mark.parametrize("codec", ["custom:own", "cbor+zstd"])
def test_an_insert_that_no_live_worker_reads_is_answered_with_a_warning(
    http: httpx.Client,
    queue: Queue,
    codec: str,
    info: dict[str, Any] | None,
    is_warned: bool,  # noqa: FBT001
) -> None:
    """It is accepted: a worker may come. Workers that do not tell their codecs may read it."""
    if info is not None:
        queue.heartbeat("w1", tokens=[], info=msgspec.json.encode(info), timeout_ms=30_000)
    body = {
        "prefix": fresh_prefix(queue.name),
        "chunks_total": 1,
        "operations_total": 1,
        "chunk_size": 1,
        "codec": codec,
    }

    response = http.post("/submissions", json=body)

    warning = response.headers.get("Opsqueue-Warning", "")
    assert 201 == response.status_code
    assert (is_warned and codec == "custom:own") is bool(warning)
    assert not warning or "reads codec 'custom:own'" in warning
