"""POST /v1/queues/{queue}/submissions."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from opsqueue.answers import Inserted
from opsqueue.codec import DEFAULT_CODEC, open_codec
from opsqueue.new_submission import NewSubmission
from opsqueue.partitioned import PartitionedQueue
from opsqueue.rebuild import Rebuilt, rebuild
from opsqueue.store import ObjectStore, input_key


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
    assert f"/v1/queues/{queue_name}/submissions/{status['id']}" == response.headers["location"]
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
        "retention_ms": None,
        "delete_inputs_at_completion": False,
        "codec": DEFAULT_CODEC,
        "ended_at": None,
        "metadata": "aGVsbG8=",
        "strategic_metadata": {"customer": 7},
        "trace_context": {},
        "is_inline": False,
        "failure": None,
        "last_failure": None,
    }
    assert expected == status


def test_no_operations_complete_at_once(http: httpx.Client) -> None:
    """An empty list is a submission of no chunks."""
    status = http.post("/submissions", json={"operations": [], "chunk_size": 2}).json()

    assert (status["state"], status["chunks_total"]) == ("completed", 0)


def test_uploaded_chunks_are_taken_as_they_are(http: httpx.Client) -> None:
    """A body with prefix and chunks_total needs no operations."""
    body = {
        "prefix": "mine/1",
        "chunks_total": 3,
        "chunk_size": 10,
        "operations_total": 25,
        "codec": "json",
    }

    response = http.post("/submissions", json=body)

    status = response.json()
    assert response.status_code == 201
    assert [status[name] for name in ("prefix", "chunks_total", "operations_total", "codec")] == [
        "mine/1",
        3,
        25,
        "json",
    ]


def test_a_known_idempotency_key_answers_the_first_submission(http: httpx.Client) -> None:
    """200 and the first id; nothing is inserted twice."""
    body = {"operations": [1], "chunk_size": 1}
    first = http.post("/submissions", json=body, headers={"idempotency-key": "k 1"})

    again = http.post("/submissions", json=body, headers={"idempotency-key": "k 1"})

    assert [first.status_code, again.status_code] == [201, 200]
    assert first.json() == again.json()


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
    insert = PartitionedQueue.insert_submission
    rebuilt = []

    def after_a_rebuild(
        self: PartitionedQueue, new: NewSubmission, *, idempotency_key: str = ""
    ) -> Inserted:
        rebuilt.extend(rebuild(store, self))
        return insert(self, new, idempotency_key=idempotency_key)

    monkeypatch.setattr(PartitionedQueue, "insert_submission", after_a_rebuild)

    body = {**contents, "chunk_size": 2}
    if "inline" in contents:
        body["prefix"] = f"{queue_name}/1"
    response = http.post("/submissions", json=body, headers={"idempotency-key": "k"})

    (outcome,) = rebuilt
    assert isinstance(outcome, Rebuilt)
    assert (response.status_code, response.json()["id"]) == (200, str(outcome.submission_id))
    assert store.exists(input_key(outcome.prefix, 0))


def test_a_prefix_belongs_to_one_submission(http: httpx.Client) -> None:
    """The second insert under a prefix is refused with 409."""
    body = {"prefix": "mine/1", "chunks_total": 1, "chunk_size": 10}
    http.post("/submissions", json=body)

    response = http.post("/submissions", json=body)

    assert response.status_code == 409
    assert response.json()["type"] == "urn:opsqueue:problem:prefix-taken"


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
        ({"chunk_size": 1, "operations": [], "codec": "json"}, "codec goes with prefix"),
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
