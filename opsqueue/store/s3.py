"""A store in S3 or a compatible service, through boto3.

S3's own `If-None-Match: *` keeps the first object of a key. The SDK retries (standard mode) what S3
and the network ask to have retried. Only two things are retried here, because the SDK doesn't: a
conflict of two conditional creates, and a download that broke off midway.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from contextlib import contextmanager
from datetime import UTC
from http import HTTPStatus
from itertools import islice
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  botocore's: no subclass of Python's
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from opsqueue.exceptions import (
    NewObjectStoreClientError,
    ObjectNotFoundError,
    ObjectUnusableError,
    StoreUnavailableError,
)
from opsqueue.model.backoff import RetryBackoff
from opsqueue.model.process import PerProcess
from opsqueue.store.base import (
    STORE_ID_KEY,
    StoredObject,
    check_conditional_create,
    check_key,
    check_store_id,
    deletable_folder_of,
    folder_of,
    is_only_one_object,
    is_own_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

    from opsqueue.exceptions import (
        OpsqueueError,
    )
    from opsqueue.store.base import StoreUrl

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
MAX_CONNECTIONS = 64
MAX_ATTEMPTS = 5

# S3's answers for an object that may not be read or decrypted; other answers concern the store.
_OF_ONE_OBJECT = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN})

_DELETED_AT_ONCE = 1_000
_CONFLICT_ATTEMPTS = 6
_CONFLICT_BACKOFF = RetryBackoff(first_s=0.05, max_s=0.8)
_DOWNLOAD_ATTEMPTS = 3

_CREDENTIALS_HELP = (
    "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile or the machine's role, and "
    "the region"
)
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)

_CREDENTIALS_REFUSED = f"refused the credentials ({{said}}): {_CREDENTIALS_HELP}"
_ACCESS_DENIED = (
    "denied access ({said}): check the credentials, and grant them s3:ListBucket on the bucket "
    "and s3:GetObject, s3:PutObject, s3:DeleteObject on its objects"
)
_NO_BUCKET = "has no bucket {bucket!r} at {place} ({said}): create it, or correct the store's URL"
_TOO_BUSY = "is overloaded ({said}): try again later"
_NO_CONDITIONS = "does not support a request ({said}): it needs conditional creates (If-None-Match)"

# S3's error code -> what happened and what helps. HEAD has no body, so its codes are the status.
_REFUSALS: dict[str, str] = {
    "NoSuchBucket": _NO_BUCKET,
    "404": _NO_BUCKET,
    "AccessDenied": _ACCESS_DENIED,
    "Forbidden": _ACCESS_DENIED,
    "403": _ACCESS_DENIED,
    "AuthorizationHeaderMalformed": _CREDENTIALS_REFUSED,
    "ExpiredToken": _CREDENTIALS_REFUSED,
    "InvalidAccessKeyId": _CREDENTIALS_REFUSED,
    "InvalidToken": _CREDENTIALS_REFUSED,
    "SignatureDoesNotMatch": _CREDENTIALS_REFUSED,
    "RequestTimeTooSkewed": (
        "refused a request ({said}): this machine's clock is wrong; set it, by NTP for example"
    ),
    "InvalidObjectState": (
        "has archived an object ({said}): restore it, and exclude the store's prefix from the "
        "lifecycle rules that move objects to an archive"
    ),
    "PermanentRedirect": "is in another region ({said}): give ?region=… or AWS_REGION",
    "NotImplemented": _NO_CONDITIONS,
    "501": _NO_CONDITIONS,
    "SlowDown": _TOO_BUSY,
    "ServiceUnavailable": _TOO_BUSY,
    "503": _TOO_BUSY,
}
_OTHER_REFUSAL = "answered with an error from {place} ({said})"

# Amazon's messages name the action that was denied, also of other services: "is not authorized to
# perform: kms:GenerateDataKey on resource: …".
_NOT_ALLOWED = re.compile(r"not authorized to perform:? ([a-z0-9-]+:[A-Za-z]+)")
_MESSAGE_AT_MOST = 500


def open_s3_store(url: StoreUrl, *, attempts: int = MAX_ATTEMPTS) -> S3Store:
    """Open the bucket of an `s3://bucket/prefix` URL; nothing is sent yet.

    The endpoint is the URL's `endpoint_url`, else AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, else
    Amazon's. boto3 finds region and credentials in its usual places.

    Args:
        url: as returned by `parse_store_url`.
        attempts: the most requests that the SDK sends for one call, including the first.

    Raises:
        NewObjectStoreClientError: boto3 can't make a client: endpoint, region or profile.

    """
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=MAX_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": attempts},
        # Many compatible stores don't know the checksums that boto3 adds since 1.36.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )

    def connected() -> S3Client:
        try:
            # Our own session: boto3's default one is shared, and creating clients there is unsafe.
            client = boto3.session.Session().client(
                "s3",
                endpoint_url=url.options.get("endpoint_url"),
                region_name=url.options.get("region"),
                config=config,
            )
        except (BotoCoreError, ValueError) as exc:
            message = f'no object store for "{url}": {exc}'
            raise NewObjectStoreClientError(message) from exc
        client.meta.events.register("before-call.s3.DeleteObjects", _with_md5)
        return client

    return S3Store(connected, url=str(url), bucket=url.place, prefix=url.path)


def _with_md5(params: dict[str, Any], **_: object) -> None:
    """Add the checksum that every store accepts to a request.

    Amazon accepts this or one of its newer ones, of which boto3 since 1.36 only sends a CRC32.
    Older MinIO, Ceph and others require this one.
    """
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()
    params["context"].pop("checksum", None)


class S3Store:
    """Objects in a bucket, below a prefix."""

    def __init__(
        self, connected: Callable[[], S3Client], *, url: str, bucket: str, prefix: str
    ) -> None:
        """Make this process's client; a forked child makes its own. `prefix` has no outer slashes.

        Raises any exception that `connected` raises.
        """
        self.url = url
        self.store_id = ""
        self._clients = PerProcess(connected)
        self._clients.get()
        # The SDK's pool would open more connections than it keeps, and warn about each.
        self._connections = PerProcess(lambda: BoundedSemaphore(MAX_CONNECTIONS))
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""

    def get(self, key: str) -> bytes:
        """Return an object's content; see `ObjectStore.get`."""
        return self._get(key)

    def get_range(self, key: str, start: int, size_bytes: int) -> bytes:
        """Return a part of an object's content; see `ObjectStore.get_range`."""
        return self._get(key, f"bytes={start}-{start + size_bytes - 1}")

    def create(self, key: str, data: bytes) -> bool:
        """Store an object unless the key is taken; see `ObjectStore.create`."""
        name = self._root + check_key(key)
        with self._border():
            for attempt in range(1, _CONFLICT_ATTEMPTS + 1):
                try:
                    with self._connections.get():
                        self._client.put_object(
                            Bucket=self._bucket, Key=name, Body=data, IfNoneMatch="*"
                        )
                except ClientError as exc:
                    if _code_of(exc) in ("PreconditionFailed", "412"):
                        return False
                    # Another create of this key is running, and S3 wants the request repeated to
                    # learn its result. The pause is random, so that contenders don't meet again.
                    is_last = attempt == _CONFLICT_ATTEMPTS
                    if _code_of(exc) != "ConditionalRequestConflict" or is_last:
                        raise
                    time.sleep(_CONFLICT_BACKOFF.pause_s(attempt))
                else:
                    return True
        raise AssertionError  # the last attempt returned or raised

    def exists(self, key: str) -> bool:
        """Return whether an object with this key exists."""
        name = self._root + check_key(key)
        with self._border():
            try:
                with self._connections.get():
                    self._client.head_object(Bucket=self._bucket, Key=name)
            except ClientError as exc:
                if _code_of(exc) in ("404", "NoSuchKey", "NotFound"):
                    return False
                raise
            return True

    def delete_prefix(self, prefix: str) -> int:
        """Delete a submission's objects, 1,000 a request; see `ObjectStore.delete_prefix`."""
        folder, count = self._root + deletable_folder_of(prefix), 0
        with self._border():
            for page in self._pages(folder, delimiter="/"):
                keys = (item["Key"] for item in page.get("Contents", []))
                if names := [key for key in keys if is_own_name(key.removeprefix(folder))]:
                    self._delete(names)
                    count += len(names)
        return count

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """Yield the keys of a folder; see `ObjectStore.list_prefix`."""
        folder = self._root + folder_of(prefix)
        with self._border():
            for page in self._pages(folder):
                for item in page.get("Contents", []):
                    yield item["Key"].removeprefix(self._root)

    def delete_objects(self, keys: Iterable[str]) -> None:
        """Delete objects, 1,000 a request; see `ObjectStore.delete_objects`."""
        names = (self._root + check_key(key) for key in keys)
        with self._border():
            while page := list(islice(names, _DELETED_AT_ONCE)):
                self._delete(page)

    def list_folders(self, prefix: str) -> Iterator[str]:
        """Yield the folders of a folder; see `ObjectStore.list_folders`."""
        folder = self._root + folder_of(prefix)
        with self._border():
            for page in self._pages(folder, delimiter="/"):
                for item in page.get("CommonPrefixes", []):
                    yield item["Prefix"].removeprefix(self._root).removesuffix("/")

    def list_objects(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects of a folder; see `ObjectStore.list_objects`."""
        with self._border():
            for page in self._pages(self._root + folder_of(prefix)):
                for item in page.get("Contents", []):
                    key = item["Key"].removeprefix(self._root)
                    yield StoredObject(key, item["Size"], item["LastModified"].astimezone(UTC))

    def check(self) -> None:
        """Check whether the bucket can be used; see `ObjectStore.check`."""
        with self._border():
            # A listing, not head_bucket: an answer to HEAD has no body with an error message.
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._root, MaxKeys=1)
        check_conditional_create(self)

    def close(self) -> None:
        """Close the connections, if they are this process's own."""
        self._clients.close(lambda client: client.close())

    @property
    def _client(self) -> S3Client:
        return self._clients.get()

    def _get(self, key: str, bytes_range: str = "") -> bytes:
        name = self._root + check_key(key)
        with self._border(missing_key=key):
            for _ in range(_DOWNLOAD_ATTEMPTS - 1):
                try:
                    return self._download(name, bytes_range)
                except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                    continue
            return self._download(name, bytes_range)

    def _download(self, name: str, bytes_range: str) -> bytes:
        with self._connections.get():
            return self._read(name, bytes_range)

    def _read(self, name: str, bytes_range: str) -> bytes:
        if not bytes_range:
            return self._client.get_object(Bucket=self._bucket, Key=name)["Body"].read()
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=name, Range=bytes_range)
        except ClientError as exc:
            # An empty object has no range at all, not even an empty one.
            if _code_of(exc) in ("InvalidRange", "416"):
                return b""
            raise
        return answer["Body"].read()

    def _delete(self, names: list[str]) -> None:
        answer = self._client.delete_objects(
            Bucket=self._bucket,
            Delete={"Objects": [{"Key": name} for name in names], "Quiet": True},
        )
        refused = answer.get("Errors", [])
        if refused:
            first = refused[0]
            said = _said(first.get("Code", ""), first.get("Message", ""))
            raise _not_deleted(self.url, len(refused), said)

    def _pages(self, folder: str, *, delimiter: str = "") -> Iterator[ListObjectsV2OutputTypeDef]:
        paginator = self._client.get_paginator("list_objects_v2")
        if delimiter:
            yield from paginator.paginate(Bucket=self._bucket, Prefix=folder, Delimiter=delimiter)
        else:
            yield from paginator.paginate(Bucket=self._bucket, Prefix=folder)

    @contextmanager
    def _border(self, *, missing_key: str | None = None) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError) as exc:
            if missing_key is not None and _is_missing_key(exc):
                if missing_key != STORE_ID_KEY:
                    check_store_id(self, self.store_id)
                raise ObjectNotFoundError(missing_key, self.url) from exc
            endpoint = self._client.meta.endpoint_url
            error = _translated(exc, self.url, self._bucket, endpoint)
            if missing_key is not None and self._is_of_object(exc, missing_key):
                message = f"{error} (only the object {missing_key!r}: others can be read)"
                raise ObjectUnusableError(message) from exc
            raise error from exc

    def _is_of_object(self, exc: Exception, key: str) -> bool:
        """Return whether a read failed because of one object: its key, class or owner."""
        if not isinstance(exc, ClientError) or key == STORE_ID_KEY:
            return False
        if _code_of(exc) == "InvalidObjectState":
            return True
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status in _OF_ONE_OBJECT and is_only_one_object(self)


def _code_of(exc: ClientError) -> str:
    return exc.response.get("Error", {}).get("Code", "")


def _is_missing_key(exc: Exception) -> bool:
    return isinstance(exc, ClientError) and _code_of(exc) in ("NoSuchKey", "404")


def _said(code: str, message: str) -> str:
    """Join the store's own words: only they distinguish two causes of one code."""
    if not message or message == code:
        return code or "no code"
    return f"{code or 'no code'}: {message[:_MESSAGE_AT_MOST]}"


def _not_deleted(url: str, count: int, said: str) -> StoreUnavailableError:
    helps = f": grant {_action_in(said) or 's3:DeleteObject'}" if "AccessDenied" in said else ""
    return StoreUnavailableError(f"{url} refused to delete {count:,} objects ({said}){helps}")


def _action_in(message: str) -> str:
    found = _NOT_ALLOWED.search(message)
    return found[1] if found else ""


def _translated(
    exc: ClientError | BotoCoreError, url: str, bucket: str, endpoint: str
) -> OpsqueueError:
    parts = urlsplit(endpoint)  # an endpoint from the environment may contain a password
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if isinstance(exc, ClientError):
        code = _code_of(exc)
        said = _said(code, exc.response.get("Error", {}).get("Message", ""))
        if action := _action_in(said):
            text = f"denied access ({said}): grant the credentials {action}"
        else:
            template = _REFUSALS.get(code, _OTHER_REFUSAL)
            text = template.format(bucket=bucket, place=place, said=said)
    elif isinstance(exc, _NO_CREDENTIALS):
        text = f"has no credentials to use ({exc}): {_CREDENTIALS_HELP}"
    elif isinstance(exc, (ConnectionError, HTTPClientError)):
        text = f"can't be reached at {place} ({type(exc).__name__}): check endpoint and network"
    else:
        text = f"can't be used ({type(exc).__name__}: {exc})"
    return StoreUnavailableError(f"{url} {text}")
