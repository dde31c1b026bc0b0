"""Problems of a store are found at the start, with a message that says what helps."""

from __future__ import annotations

import base64
import hashlib
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
from opsqueue.store.memory import MemoryStore
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


def s3_refusal(code: str, message: str = "") -> Reply:
    """Return S3's answer to a request that it refuses."""
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Reply(HTTPStatus.FORBIDDEN, text.encode())


@contextmanager
def canned_server(
    replies: dict[str, Reply], seen: list[tuple[dict[str, str], bytes]] | None = None
) -> Iterator[str]:
    """Answer each HTTP method the same way always; yield the server's address.

    Headers, their names in small letters, and bodies of requests are added to `seen`.
    """

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        if seen is not None:
            headers = {name.lower(): value for name, value in handler.headers.items()}
            seen.append((headers, body))
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
    """Return an address that is bound, so that it stays free, and that refuses connections."""
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


@pytest.mark.parametrize(
    ("code", "said", "helps"),
    [
        (
            "AccessDenied",
            "User: arn:aws:iam::1:user/u is not authorized to perform: kms:GenerateDataKey on it",
            "grant the credentials kms:GenerateDataKey",
        ),
        ("RequestTimeTooSkewed", "The difference is too large.", "clock is wrong; set it"),
        ("InvalidObjectState", "It is in GLACIER.", "restore it, and exclude"),
        ("NoSuchBucket", "No bucket.", "create it, or correct"),
        ("InvalidRequest", "Content-MD5 is missing.", "answered with an error"),
        ("QuotaExceeded", "Your quota is used up.", "answered with an error"),
    ],
)
def test_what_s3_itself_says_is_part_of_the_message(code: str, said: str, helps: str) -> None:
    """Its code and its text, with the help that fits both; never another right than the lacking."""
    with canned_server({"GET": s3_refusal(code, said)}) as endpoint:
        message = failure_of(quick_store(f"s3://bucket/p?endpoint_url={endpoint}"))

    assert f"({code}: {said})" in message
    assert helps in message
    assert "s3:PutObject" not in message


class LosesFirstAnswer(MemoryStore):
    """A store that reports the first object as existing, as after a lost answer."""

    has_lost = False

    def create(self, key: str, data: bytes) -> bool:
        created = super().create(key, data)
        if not self.has_lost:
            self.has_lost = True
            return False
        return created


def test_a_lost_answer_makes_no_store_a_bad_one(tmp_path: Path) -> None:
    """The stored object decides, since the answer may have been lost."""
    LosesFirstAnswer(str(tmp_path)).check()


def test_deletions_carry_the_checksum_that_older_stores_want() -> None:
    """Content-MD5, and no other, which some refuse; moto and Amazon take either."""
    seen: list[tuple[dict[str, str], bytes]] = []
    done = Reply(HTTPStatus.OK, b"<DeleteResult></DeleteResult>")
    with canned_server({"POST": done}, seen) as endpoint:
        store = quick_store(f"s3://bucket/p?endpoint_url={endpoint}")
        store.delete_objects(["41/0-in", "41/0-out"])
        store.close()

    ((headers, body),) = seen
    assert headers["content-md5"] == base64.b64encode(hashlib.md5(body).digest()).decode()  # noqa: S324 it is asked for
    assert not [name for name in headers if name.startswith("x-amz-checksum")]


def test_deletions_that_are_refused_say_which_and_why() -> None:
    """Other rights than s3:DeleteObject may lack, or none: a lock, for example."""
    refused = (
        b"<DeleteResult><Error><Key>p/a</Key><Code>InvalidRequest</Code>"
        b"<Message>Object is locked.</Message></Error></DeleteResult>"
    )
    with canned_server({"POST": Reply(HTTPStatus.OK, refused)}) as endpoint:
        store = quick_store(f"s3://bucket/p?endpoint_url={endpoint}")
        with pytest.raises(StoreUnavailableError, match=r"\(InvalidRequest: Object is locked\.\)$"):
            store.delete_objects(["a"])
        store.close()


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
