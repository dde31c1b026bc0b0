"""Malformed bodies, paths, parameters and headers cause problems with a reason, and no changes.

tests/system/test_malformed_requests.py tests malformed HTTP.
"""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opsqueue.model.chunk import Reservation
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import queue_names
from tests.opsqueue.queue_snapshot import raw_keys
from tests.opsqueue.steps import take_one

NINES = "9" * 401
DEEP = 100_000
JSON = {"content-type": "application/json"}
LINES = {"content-type": "application/x-ndjson"}
BYTES = {"content-type": "application/octet-stream"}

ANY_JSON: dict[str, bytes] = {
    "nothing": b"",
    "truncated": b'{"chunk_size":1,"operations":[1',
    "no-object": b"[1]",
    "no-utf-8": b'{"a":"\xff"}',
    "utf-16": "{}".encode("utf-16"),
    "byte-order-mark": b"\xef\xbb\xbf{}",
    "lone-surrogate": b'{"a":"\\ud800 "}',
    "encoded-surrogate": b'{"a":"\xed\xa0\x80"}',
    "nul-byte": b'{"a":"\x00"}',
    "not-a-number": b'{"chunk_size":NaN}',
    "deep-lists": b"[" * DEEP + b"]" * DEEP,
    "deep-objects": b'{"operations":' * DEEP,
    "unknown-field": b'{"operation":[]}',
}
INSERTS: dict[str, str] = {
    "deep": f'{{"chunk_size":1,"operations":{"[" * DEEP}{"]" * DEEP}}}',
    "float-without-end": '{"chunk_size":1,"operations":[1e400]}',
    "integer-of-401-digits": f'{{"chunk_size":1,"operations":[{NINES}]}}',
    "integer-of-65-bits": '{"chunk_size":1,"operations":[18446744073709551616]}',
    "chunk-size-1e400": '{"chunk_size":1e400,"operations":[]}',
    "chunk-size-of-401-digits": f'{{"chunk_size":{NINES},"operations":[1]}}',
    "chunk-size-minus-0": '{"chunk_size":-0,"operations":[1]}',
    "chunk-size-fraction": '{"chunk_size":1.5,"operations":[1]}',
    "chunk-size-true": '{"chunk_size":true,"operations":[1]}',
    "the-last-of-two-fields-counts": '{"chunk_size":1,"operations":[1],"chunk_size":0}',
    "chunks-of-401-digits": f'{{"chunk_size":1,"prefix":"p","chunks_total":{NINES}}}',
    "more-operations-than-counted": (
        '{"chunk_size":4294967295,"prefix":"p","chunks_total":100000000}'
    ),
    "failed-operations-1e400": '{"chunk_size":1,"operations":[],"max_failed_operations":1e400}',
    "failed-operations-1e308": '{"chunk_size":1,"operations":[],"max_failed_operations":1e308}',
    "metadata-no-base64": '{"chunk_size":1,"operations":[],"metadata":"%%%"}',
    "65-bits-of-metadata": (
        '{"chunk_size":1,"operations":[],"strategic_metadata":{"a":9223372036854775808}}'
    ),
    "empty-key-in-metadata": '{"chunk_size":1,"operations":[],"strategic_metadata":{"":1}}',
    "retention-of-63-bits": '{"chunk_size":1,"operations":[],"retention_ms":9223372036854775807}',
    "codec-without-name": '{"chunk_size":1,"prefix":"p","chunks_total":1,"codec":""}',
}
PREFIXES = [
    "",
    ".",
    "..",
    "../p",
    "p/../q",
    "p//q",
    "/p",
    "p/",
    "p/.",
    "%2e%2e/p",
    "p\\q",
    "p\x00q",
]
PREFIXES += ["p\n", "x" * 201, "é", "\u202e", ".opsqueue-tmp-1", "p/.hidden", "-p", "p?q", "C:\\p"]
PREFIXES += ["p:q", "{p}", "~", "p q", "s3://p", "٣"]
TOKENS = ["", "x", "0-0x", "9" * 20 + "-0", "1-" + "9" * 20, "-", "+", "*", "1-1\n", "\x00", "é"]
STRATEGIES: list[Any] = ["", "oldest", "Oldest(", "Oldest" * 9, "(" * 1_000, "OrElse(Oldest," * 140]
STRATEGIES += ["RateLimit(a, inf, 1)", "RateLimit(a, nan, 1)", "RateLimit(a, 1e400, 1)", {"a": 1}]
STRATEGIES += [f"SelectOnly(a, {NINES})", "PreferDistinct(a," * 110, "SelectOnly(a, 1e5)", {}]
STRATEGIES += [{"SelectOnly": {"meta_key": "a", "value": 2**70}}, {"Oldest": {"self": 1}}]
STRATEGIES += [{"OrElse": {"first": 5, "fallback": []}}, {"PreferDistinct": {"meta_key": ["a"]}}]
QUEUES = [
    "%2e%2e",
    "..%2fq",
    "%7Bq%7D",
    "q%0a",
    "q%00",
    "%C3%A9",
    "x" * 101,
    "-",
    "q%20",
    "oq:q",
    "*",
]
IDS = ["-1", "1e5", "x", "%00", "9" * 19, "9" * 20, "+1", "%201", "0x1"]


@pytest.fixture
def client(real_client: redis.Redis) -> redis.Redis:
    return real_client


@pytest.fixture
def chunk(http: httpx.Client, queue: Queue) -> Reservation:
    """A chunk that a consumer has reserved, of a submission of two."""
    http.post("/submissions", json={"operations": [1, 2], "chunk_size": 1})
    return take_one(queue)


Refused = Callable[..., None]


@pytest.fixture
def refused(http: httpx.Client, queue: Queue, client: redis.Redis, chunk: Reservation) -> Refused:
    """Sends a request and checks the properties that all refusals have in common."""
    before = raw_keys(client, queue.name)

    def ask(path: str, *, method: str = "POST", **request: Any) -> None:
        answer = http.request(method, path, **request)

        assert 400 <= answer.status_code < 500, (path, request, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == answer.status_code
        assert len(problem["detail"]) > 10
        assert "Traceback" not in answer.text
        assert 'File "' not in answer.text
        assert before == raw_keys(client, queue.name), (path, request)

    return ask


@pytest.mark.parametrize("body", ANY_JSON.values(), ids=ANY_JSON)
def test_a_body_that_is_no_json_or_of_no_use_is_refused_everywhere(
    refused: Refused, chunk: Reservation, body: bytes
) -> None:
    """By whatever takes JSON."""
    id_ = chunk.source.submission_id
    for path in ("/submissions", "/chunks/reserve", "/chunks/complete", "/chunks/fail"):
        refused(path, content=body, headers=JSON)
    refused("/chunks/release", content=body, headers=JSON)
    refused("/workers/w1/heartbeat", content=body, headers=JSON)
    refused(f"/submissions/{id_}", method="PATCH", content=body, headers=JSON)


@pytest.mark.parametrize("escape", [b"\\ud800", b"\\uDBFF"])
def test_a_lone_surrogate_in_a_body_is_called_so(http: httpx.Client, escape: bytes) -> None:
    """To the decoder it looks like the end of the data."""
    body = b'{"chunk_size": 1, "operations": ["' + escape + b'"]}'

    answer = http.post("/submissions", content=body, headers=JSON)

    assert answer.status_code == 400
    assert "lone surrogate" in answer.json()["detail"]


@pytest.mark.parametrize("body", INSERTS.values(), ids=INSERTS)
def test_a_submission_that_can_not_be_meant_is_refused(refused: Refused, body: str) -> None:
    """Numbers beyond all bounds, above all."""
    refused("/submissions", content=body.encode(), headers=JSON)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_leads_nowhere_but_into_the_store(refused: Refused, prefix: str) -> None:
    """Not upwards, not to a hidden file, not to two names for the same folder."""
    body = {"chunk_size": 1, "chunks_total": 1, "prefix": prefix}

    refused("/submissions", json=body)
    refused("/submissions", json={**body, "inline": ["kQE="]})


def test_a_queue_name_is_no_path_and_no_hash_tag(http: httpx.Client, client: redis.Redis) -> None:
    """All keys of a queue begin with it: it can't name another's."""
    body = {"operations": [1], "chunk_size": 1}
    before = queue_names(client)

    for name in QUEUES:
        url = f"http://api/v1/queues/{name}"
        answers = [http.get(url), http.post(f"{url}/submissions", json=body)]
        answers += [http.post(f"{url}/pause"), http.get(f"{url}/events")]
        assert {400, 404} >= {answer.status_code for answer in answers}, name
        assert {"application/problem+json"} == {a.headers["content-type"] for a in answers}
    assert before == queue_names(client)


@pytest.mark.parametrize("text", IDS)
def test_an_id_that_is_none_is_not_found(refused: Refused, text: str) -> None:
    """Whatever is asked of it."""
    for path in ("", "/results", "/errors", "/events", "/progress", "/chunks", "/chunks/0/input"):
        refused(f"/submissions/{text}{path}", method="GET")
    for path in ("/cancel", "/retry", "/retry?only=failed"):
        refused(f"/submissions/{text}{path}")


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_that_is_none_is_refused(refused: Refused, chunk: Reservation, token: str) -> None:
    """Redis would refuse it in the middle of a report of several chunks."""
    id_ = chunk.source.submission_id

    refused("/chunks/complete", json={"chunks": [{"token": token}]})
    refused("/chunks/complete", json={"chunks": [{"token": token, "results": [1]}]})
    refused("/chunks/fail", json={"chunks": [{"token": token, "message": "m"}]})
    refused("/chunks/release", json={"tokens": [token]})
    path = f"/submissions/{id_}/chunks/0/output"
    refused(path, method="PUT", params={"token": token}, content=b"x", headers=BYTES)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_that_is_none_is_refused(refused: Refused, strategy: Any) -> None:
    """As text and as JSON."""
    refused("/chunks/reserve", json={"worker": "w2", "strategy": strategy})


@pytest.mark.parametrize("name", ["", "a b", "x" * 201, "é", "a\nb", "\x00"])
def test_a_worker_that_can_not_be_named_is_refused(refused: Refused, name: str) -> None:
    """It stands in log lines."""
    refused("/chunks/reserve", json={"worker": name})


OUTPUTS = {
    "results-too-few": '"results":[]',
    "results-of-401-digits": f'"results":[{NINES}]',
    "both": '"results":[1],"output":"AAAA"',
    "envelope-cut-off": '"output":"wU9RRVJSAQo="',
    "envelope-without-records": '"output":"wU9RRVJSAQoAAAAAAAAAAA=="',
    "failed-below-0": '"operations_failed":-1',
    "failed-beyond-counting": '"operations_failed":9007199254740993',
}


@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
def test_a_report_that_can_not_be_counted_is_refused_and_the_chunk_kept(
    refused: Refused, chunk: Reservation, output: str
) -> None:
    """It can be reported rightly after that."""
    text = f'{{"chunks":[{{"token":"{chunk.token}",{output}}}]}}'

    refused("/chunks/complete", content=text.encode(), headers=JSON)


@pytest.mark.parametrize(
    "query",
    [
        *("wait=1e400", "wait=nan", "wait=-0.1", "wait=", "wait=%00", "wait=%ff", "wait=x"),
        *("wait=1&wait=2x", "%ff=1", "a[]=1", "wait=" + "9" * 5_000, "x" * 3_000),
    ],
)
def test_a_wait_that_is_no_number_is_refused(
    refused: Refused, chunk: Reservation, query: str
) -> None:
    """Nor waited for."""
    id_ = chunk.source.submission_id

    refused(f"/submissions/{id_}?{query}", method="GET")


@pytest.mark.parametrize(
    "query",
    [
        *("limit=1e3", "limit=" + "9" * 5_000, "limit=0", "meta=a", "meta=:1", "meta=%ff:1"),
        *("meta=a:9223372036854775808", "meta=a:99999999999999999999", f"meta={'a' * 256}:1"),
        *("created_from=now", "created_from=2026-01-01", "after=9999999999999999999", "after=x"),
        *("state=x", "order=x", "&".join(f"meta=k{number}:1" for number in range(65))),
    ],
)
def test_a_filter_that_is_none_is_refused(refused: Refused, query: str) -> None:
    """Rather than passed over."""
    refused(f"/submissions?{query}", method="GET")


WHOLE = gzip.compress(b'{"operations":[1],"chunk_size":1}')
BOMB = gzip.compress(b"[" + b" " * 100_000_000)
GZIPS = {
    "nothing": b"",
    "garbage": b"garbage",
    "head-alone": WHOLE[:2],
    "cut-off": WHOLE[:-9],
    "without-its-sum": WHOLE[:-8],
    "wrong-sum": WHOLE[:-8] + b"\0" * 8,
    "more-behind-it": WHOLE + b"x",
    "twice": WHOLE + WHOLE,
}


@pytest.mark.parametrize("data", GZIPS.values(), ids=GZIPS)
def test_gzip_that_is_damaged_is_refused(refused: Refused, data: bytes) -> None:
    """A body and lines alike."""
    packed = {"content-encoding": "gzip"}

    refused("/submissions", content=data, headers=JSON | packed)
    refused("/submissions?chunk_size=1", content=data, headers=LINES | packed)
    refused("/chunks/complete", content=data, headers=JSON | packed)


def test_a_bomb_is_refused_before_it_fills_the_memory(refused: Refused) -> None:
    """100 kB that would be 100 MB."""
    packed = {"content-encoding": "gzip"}
    tracemalloc.start()

    refused("/submissions", content=BOMB, headers=JSON | packed)
    refused("/submissions?chunk_size=1", content=BOMB, headers=LINES | packed)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60_000_000


@pytest.mark.parametrize(
    "headers",
    [
        *({"content-type": "text/plain"}, {"content-type": ""}, {"content-type": "x/json"}),
        *({"content-encoding": "br"}, {"content-encoding": "gzip, gzip"}),
        *({"idempotency-key": ""}, {"idempotency-key": "x" * 256}, {"idempotency-key": "a\tb"}),
        *({"content-length": "-1"}, {"content-length": "abc"}, {"content-length": "9" * 30}),
    ],
)
def test_headers_that_can_not_be_meant_are_refused(
    refused: Refused, headers: dict[str, str]
) -> None:
    """Each by its name."""
    refused("/submissions", content=b'{"operations":[1],"chunk_size":1}', headers=JSON | headers)


@pytest.mark.parametrize(
    "headers",
    [
        *({"traceparent": "x" * 5_000}, {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"}),
        *({"tracestate": "=,;"}, {"baggage": "a=%ff%00," * 300}, {"x-request-id": "a b\t"}),
        *({"x-request-id": "x" * 500}, {"accept": "*/*;;;q=x"}, {"accept-encoding": "gzip;q=x,,;"}),
    ],
)
def test_headers_of_no_consequence_refuse_nothing(
    http: httpx.Client, headers: dict[str, str]
) -> None:
    """A trace that is none is no trace; an id that could forge a log line is replaced."""
    answer = http.post("/submissions", json={"operations": [1], "chunk_size": 1}, headers=headers)

    assert answer.status_code == 201
    assert answer.headers["x-request-id"] != headers.get("x-request-id")
    assert all(len(value) <= 1_000 for value in answer.json()["trace_context"].values())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["chunk_size", "operations", "prefix", "chunks_total", "operations_total", "inline"]
FIELDS += ["codec", "max_attempts", "max_failed_operations", "backoff", "metadata", "retention_ms"]
FIELDS += ["strategic_metadata", "trace_context", "delete_inputs_at_completion"]


def test_whatever_json_an_insert_is_given_is_taken_wholly_or_refused(
    http: httpx.Client, queue: Queue
) -> None:
    """Never a 500; what is taken can be read again."""

    @settings(
        max_examples=80,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3), st.booleans())
    def ask(fields: dict[str, Any], is_whole: bool) -> None:  # noqa: FBT001 drawn
        base = {"chunk_size": 1, "operations": [1]} if is_whole else {}
        # As it is: NaN and lone surrogates are what Python's own encoder lets through.
        body = json.dumps(base | fields).encode()
        answer = http.post("/submissions", content=body, headers=JSON)
        if answer.status_code == 201:
            assert queue.get_submission(answer.json()["id"]).chunks_total >= 0
        else:
            assert answer.status_code in (400, 413, 422)
            assert answer.headers["content-type"] == "application/problem+json"

    ask()
