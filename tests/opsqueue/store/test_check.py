"""What is wrong with a store is found at the start, and said with what helps."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

import pytest

from opsqueue.exceptions import StoreUnavailableError
from opsqueue.model.backoff import RetryBackoff
from opsqueue.store import open_store
from opsqueue.store.base import parse_store_url
from opsqueue.store.gcs import open_gcs_store
from opsqueue.store.s3 import open_s3_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opsqueue.store import ObjectStore


class Reply(NamedTuple):
    """What the canned server answers to one HTTP method."""

    status: HTTPStatus
    body: bytes = b""
    content_type: str = "application/xml"


NO_OBJECTS = Reply(HTTPStatus.OK, b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")


def s3_refusal(code: str) -> Reply:
    """Return S3's answer to a request that it refuses."""
    return Reply(HTTPStatus.FORBIDDEN, f"<Error><Code>{code}</Code></Error>".encode())


@contextmanager
def canned_server(replies: dict[str, Reply]) -> Iterator[str]:
    """Answer each HTTP method the same way always; yield the server's address."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        reply = replies.get(handler.command, Reply(HTTPStatus.METHOD_NOT_ALLOWED))
        handler.send_response(reply.status)
        handler.send_header("Content-Type", reply.content_type)
        handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        handler.wfile.write(reply.body)

    def be_quiet(*_: object) -> None:
        pass

    methods = dict.fromkeys(("do_GET", "do_PUT", "do_POST", "do_DELETE", "do_HEAD"), answer)
    # HTTP/1.1: boto3 waits a second for the "100 Continue" that 1.0 does not have.
    settings = {"log_message": be_quiet, "protocol_version": "HTTP/1.1"}
    handler = type("Canned", (BaseHTTPRequestHandler,), {**methods, **settings})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def dead_endpoint() -> Iterator[str]:
    """Give an address that is bound, so that nobody else takes it, and refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def quick_store(url: str) -> ObjectStore:
    """Open a store that does not retry, for endpoints that never answer well."""
    parsed = parse_store_url(url)
    if parsed.scheme == "s3":
        return open_s3_store(parsed, attempts=1)
    return open_gcs_store(parsed, retry_s=0.001)


def failure_of(store: ObjectStore) -> str:
    """Return what a failing check says."""
    with pytest.raises(StoreUnavailableError) as caught:
        store.check()
    store.close()
    return str(caught.value)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_missing_bucket_is_named(scheme: str, request: pytest.FixtureRequest) -> None:
    """The message says which bucket, and to create it."""
    endpoint = request.getfixturevalue({"s3": "s3_endpoint", "gs": "gcs_endpoint"}[scheme])
    store = quick_store(f"{scheme}://no-such-bucket/p?endpoint_url={endpoint}")

    message = failure_of(store)

    assert message.startswith(f"{scheme}://no-such-bucket/p has no bucket 'no-such-bucket'")
    assert "create it" in message


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_an_endpoint_without_listener_is_named(scheme: str, dead_endpoint: str) -> None:
    """The message says the address, and to check endpoint and network."""
    store = quick_store(f"{scheme}://bucket/p?endpoint_url={dead_endpoint}")

    message = failure_of(store)

    assert f"{scheme}://bucket/p can't be reached at {dead_endpoint}" in message
    assert "check endpoint and network" in message


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_refused_s3_credentials_are_said_to_be(code: str) -> None:
    """The message says where credentials come from."""
    with canned_server({"GET": s3_refusal(code)}) as endpoint:
        message = failure_of(quick_store(f"s3://bucket/p?endpoint_url={endpoint}"))

    assert f"s3://bucket/p refused the credentials ({code})" in message
    assert "AWS_ACCESS_KEY_ID" in message


def test_missing_s3_rights_are_listed() -> None:
    """AccessDenied leads to the four rights that are needed."""
    with canned_server({"GET": s3_refusal("AccessDenied")}) as endpoint:
        message = failure_of(quick_store(f"s3://bucket/p?endpoint_url={endpoint}"))

    assert "denied access (AccessDenied)" in message
    assert "s3:PutObject" in message


@pytest.mark.parametrize(
    ("status", "says", "helps"),
    [
        (HTTPStatus.UNAUTHORIZED, "refused the credentials", "GOOGLE_APPLICATION_CREDENTIALS"),
        (HTTPStatus.FORBIDDEN, "denied access", "roles/storage.objectUser"),
    ],
)
def test_refused_gcs_credentials_are_said_to_be(status: HTTPStatus, says: str, helps: str) -> None:
    """401 leads to the credentials, 403 to the role that is needed."""
    body = json.dumps({"error": {"code": int(status), "message": "no"}}).encode()
    with canned_server({"GET": Reply(status, body, "application/json")}) as endpoint:
        message = failure_of(quick_store(f"gs://bucket/p?endpoint_url={endpoint}"))

    assert f"gs://bucket/p {says}" in message
    assert helps in message


def test_missing_s3_credentials_are_said_to_be(
    monkeypatch: pytest.MonkeyPatch, dead_endpoint: str
) -> None:
    """With none anywhere the message says where they could be."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = quick_store(f"s3://bucket/p?endpoint_url={dead_endpoint}")

    message = failure_of(store)

    assert "s3://bucket/p has no credentials to use" in message
    assert "AWS_ACCESS_KEY_ID" in message


def test_missing_gcs_credentials_are_said_to_be() -> None:
    """Google's SDK looks for them when the store is opened."""
    with pytest.raises(StoreUnavailableError, match="gs://bucket/p has no credentials") as caught:
        open_store("gs://bucket/p")

    assert "gcloud auth application-default login" in str(caught.value)


def test_an_s3_that_ignores_conditions_is_found() -> None:
    """A server that says yes to every PUT would let a late worker replace results."""
    replies = {"GET": NO_OBJECTS, "PUT": Reply(HTTPStatus.OK)}
    with canned_server(replies) as endpoint:
        message = failure_of(quick_store(f"s3://bucket/p?endpoint_url={endpoint}"))

    assert "s3://bucket/p does not keep the first object of a key" in message
    assert "If-None-Match" in message


def test_an_s3_in_endless_conflict_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conflicts of conditional creates are retried, but not for ever."""
    no_pauses = RetryBackoff(first_s=0, max_s=0)
    monkeypatch.setattr("opsqueue.store.s3._CONFLICT_BACKOFF", no_pauses)
    conflict = Reply(HTTPStatus.CONFLICT, b"<Error><Code>ConditionalRequestConflict</Code></Error>")
    with canned_server({"PUT": conflict}) as endpoint:
        store = quick_store(f"s3://bucket/p?endpoint_url={endpoint}")

        with pytest.raises(StoreUnavailableError, match="ConditionalRequestConflict"):
            store.create("a", b"x")

    store.close()


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    """Root may write anywhere, so a file stands where the folder should."""
    (tmp_path / "file").touch()
    store = open_store(f"file://{tmp_path}/file/store")

    message = failure_of(store)

    assert message.startswith(f"file://{tmp_path}/file/store can't be used (Not a directory)")
    assert "remove it, or name another folder" in message
