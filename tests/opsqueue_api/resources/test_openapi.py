"""/openapi.json agrees with the routes and with their answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import falcon.inspect
import httpx
import msgspec
import pytest
import redis
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from opsqueue.http.json_form import decoder_of
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore
from opsqueue_api.app import App, create_app
from opsqueue_api.http.tokens import parse_tokens
from opsqueue_api.resources.openapi_schemas import EXAMPLES
from tests.opsqueue_api.clients import client_of


@pytest.fixture
def client(fake_client: redis.Redis) -> redis.Redis:
    return fake_client


@pytest.fixture
def app(client: redis.Redis, store: ObjectStore) -> App:
    # Stopping: so that streams end at once, as do those who wait.
    return create_app(client, store, is_stopping=lambda: True)


@pytest.fixture
def document(app: App) -> dict[str, Any]:
    with client_of(app) as http:
        found: dict[str, Any] = http.get("/openapi.json").json()
    return found


def test_the_document_has_what_is_routed_and_nothing_else(
    app: App, document: dict[str, Any]
) -> None:
    """Path by path, method by method, as Falcon itself lists them."""
    routed = {
        (route.path, method.method)
        for route in falcon.inspect.inspect_routes(app)
        for method in route.methods
        if not method.internal
    }

    told = {(path, name.upper()) for path, of in document["paths"].items() for name in of}

    assert routed == told


def test_every_route_declares_what_it_takes_and_answers(document: dict[str, Any]) -> None:
    """One without `@operation` has no answer but problems."""
    for path, methods in document["paths"].items():
        for method, entry in methods.items():
            good = [status for status in entry["responses"] if status < "300"]
            assert good, f"{method} {path} lacks @operation"
            assert entry["summary"]


def test_a_body_of_operations_lacks_what_goes_with_a_prefix(document: dict[str, Any]) -> None:
    """Those are refused beside operations."""
    stored, operations = (
        document["components"]["schemas"][name]["properties"].keys()
        for name in ("InsertStored", "InsertOperations")
    )

    assert stored - operations == {"prefix", "chunks_total", "operations_total", "codec", "inline"}
    assert operations - stored == {"operations"}


def test_names_of_operations_are_unique(document: dict[str, Any]) -> None:
    """Generators of clients name methods by them."""
    ids = [e["operationId"] for methods in document["paths"].values() for e in methods.values()]

    assert len(ids) == len(set(ids))


def test_tokens_are_told_where_they_are_asked_for(
    client: redis.Redis, store: ObjectStore, document: dict[str, Any]
) -> None:
    """Optional without tokens; with them 401 and 403 are among the answers."""
    app = create_app(client, store, tokens=parse_tokens(f"lead:{'x' * 32}:admin"))
    with client_of(app) as http:
        asking = http.get("/openapi.json").json()["paths"]["/v1/queues"]["get"]
        health = http.get("/openapi.json").json()["paths"]["/healthz"]["get"]

    assert document["paths"]["/v1/queues"]["get"]["security"] == [{"bearer": ["admin"]}, {}]
    assert asking["security"] == [{"bearer": ["admin"]}]
    assert {"401", "403"} <= asking["responses"].keys()
    assert health["security"] == []


@pytest.mark.parametrize("kind", EXAMPLES)
def test_examples_are_what_they_are_examples_of(kind: type) -> None:
    """By the decoder that reads such a body."""
    for value in EXAMPLES[kind].values():
        decoder_of(kind).decode(msgspec.json.encode(value))


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/submissions?sate=failed", "it takes state, meta, created_from"),
        ("?x=1", "it takes none"),
        (f"/submissions/{7:019}?wiat=1", "it takes wait"),
        ("/submissions?state=", "use one of"),
    ],
)
def test_an_unknown_query_parameter_is_refused(http: httpx.Client, path: str, says: str) -> None:
    """Naming those that there are: a typing error must not be taken for consent."""
    response = http.get(path)

    assert response.status_code == 422
    assert says in response.json()["detail"]


def test_parameters_of_ndjson_are_refused_with_json(http: httpx.Client) -> None:
    """They would be passed over."""
    response = http.post("/submissions?chunk_size=2", json={"operations": [1], "chunk_size": 1})

    assert response.status_code == 422
    assert "chunk_size" in response.json()["detail"]


@schemathesis.serializer("application/x-ndjson", "application/octet-stream")
def as_text(_ctx: object, value: Any) -> bytes:
    return str(value).encode()


BOUNDS = settings(
    max_examples=int(os.environ.get("OPSQUEUE_TEST_EXAMPLES", "4")),
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


# Its WSGI transport asks for gzip and does not read it.
_PLAIN = {"accept-encoding": "identity"}


def failure_of(operation: Any, all_there: list[dict[str, str]]) -> str:
    """Send requests as the document says, and others; return "" if the answers agree with it.

    Valid requests also use existing ids.
    """
    # JSON Schema can't say what fields of a body must hold together (back-off, numbers of chunks
    # and operations), nor what a strategy's text is, and takes 7.0 for an integer. It can't say
    # either that follow=true and partial=true exclude each other, or that a key has one value.
    is_free = operation.body or operation.label.endswith(("/results", "/submissions", "-ids"))
    excluded: list[Any] = [positive_data_acceptance] if is_free else []

    @BOUNDS
    @given(st.one_of([operation.as_strategy(generation_mode=mode) for mode in GenerationMode]))
    def ask(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(excluded_checks=excluded, headers=_PLAIN)
        if case.meta and case.meta.generation.mode is GenerationMode.POSITIVE:
            for there in all_there if case.path_parameters else []:
                case.path_parameters |= {name: there[name] for name in case.path_parameters}
                # How results that are followed end when the process stops.
                with suppress(ConnectionAbortedError):
                    case.call_and_validate(excluded_checks=excluded, headers=_PLAIN)

    try:
        ask()
    except FailureGroup as exc:
        return f"{operation.label}: {exc}"
    return ""


def test_schemathesis_finds_nothing(
    app: App, http: httpx.Client, queue: Queue, work: Callable[..., int], document: dict[str, Any]
) -> None:
    """No 5xx; statuses, types and bodies as told; what is wrong refused, what is right taken.

    Of every operation, and of submissions that have completed and that have not.
    """
    body = {"operations": [1, 2], "chunk_size": 1}
    completed = http.post("/submissions", json=body).json()["id"]
    work(lambda x: x)
    running = http.post("/submissions", json=body).json()["id"]
    there = {"queue": queue.name, "worker": "w1", "index": "1", "file": "main.js"}
    all_there = [{**there, "submission_id": id_} for id_ in (running, completed)]
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    # A text that is longer than its schema allows may be longer than a body may be.
    schema.config.checks.negative_data_rejection.expected_statuses += ["413"]

    operations = [cast("Any", result).ok() for result in schema.get_all_operations()]

    told = {f"{name.upper()} {path}" for path, of in document["paths"].items() for name in of}
    # The document that schemathesis has just read is the one thing that it does not ask for.
    assert told - {"GET /openapi.json"} == {operation.label for operation in operations}
    assert [text for each in operations if (text := failure_of(each, all_there))] == []
