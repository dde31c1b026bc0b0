"""A store in Google Cloud Storage, through google-cloud-storage.

GCS's own `ifGenerationMatch=0` keeps the first object of a key. The SDK retries retryable failures
for up to `retry_s`; nothing is retried here. Objects above 8 MB are sent as resumable uploads, for
which GCS keeps the condition too (fake-gcs-server, used in tests, keeps it for smaller ones only).
"""

from __future__ import annotations

from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from google.api_core.exceptions import (
    BadRequest,
    Forbidden,
    GoogleAPIError,
    NotFound,
    PreconditionFailed,
    RequestRangeNotSatisfiable,
    RetryError,
    Unauthorized,
)
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import (
    DefaultCredentialsError,
    GoogleAuthError,
    InvalidOperation,
    RefreshError,
)
from google.cloud import storage
from google.cloud.storage.exceptions import (
    DataCorruption,
    InvalidResponse,
)
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.adapters import HTTPAdapter
from requests.exceptions import RequestException

from opsqueue.exceptions import ObjectNotFoundError, ObjectUnusableError, StoreUnavailableError
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
from opsqueue.store.parallel import for_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opsqueue.exceptions import OpsqueueError
    from opsqueue.store.base import StoreUrl

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
MAX_CONNECTIONS = 64
RETRY_S = 20.0

_TIMEOUTS_S = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
_SDK_ERRORS = (
    DataCorruption,
    GoogleAPIError,
    GoogleAuthError,
    InvalidResponse,
    RequestException,
)
_MESSAGE_AT_MOST = 500
_CREDENTIALS_HELP = (
    "check GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or the "
    "machine's service account"
)


def open_gcs_store(url: StoreUrl, *, retry_s: float = RETRY_S) -> GcsStore:
    """Open the bucket of a `gs://bucket/prefix` URL; nothing is sent to the bucket yet.

    The endpoint is the URL's `endpoint_url`, else STORAGE_EMULATOR_HOST, else Google's. The first
    two are for emulators and are used without credentials.

    Args:
        url: as returned by `parse_store_url`.
        retry_s: how long the SDK repeats a failed call.

    Raises:
        StoreUnavailableError: no credentials were found.

    """
    endpoint = url.options.get("endpoint_url")
    anonymous = AnonymousCredentials() if endpoint else None  # type: ignore[no-untyped-call]

    def connected() -> storage.Client:
        try:
            client = storage.Client(
                # No project: it is needed only to create and list buckets.
                project=None,
                credentials=anonymous,
                client_options={"api_endpoint": endpoint} if endpoint else None,
            )
        except GoogleAuthError as exc:
            raise _translated(exc, str(url), url.place) from exc
        # The SDK's own pool has 10 connections. We have more threads, so it would discard
        # connections and warn about it. There is no public setting for this.
        for scheme in ("https://", "http://"):
            client._http.mount(scheme, HTTPAdapter(pool_maxsize=MAX_CONNECTIONS))  # noqa: SLF001
        return client

    return GcsStore(connected, url=str(url), bucket=url.place, prefix=url.path, retry_s=retry_s)


class GcsStore:
    """Objects in a bucket, below a prefix."""

    def __init__(
        self,
        connected: Callable[[], storage.Client],
        *,
        url: str,
        bucket: str,
        prefix: str,
        retry_s: float,
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
        self._bucket_name = bucket
        self._root = f"{prefix}/" if prefix else ""
        self._retry = DEFAULT_RETRY.with_timeout(retry_s)

    def get(self, key: str) -> bytes:
        """Return an object's content; see `ObjectStore.get`."""
        blob = self._bucket.blob(self._root + check_key(key))
        with self._border(missing_key=key), self._connections.get():
            data: bytes = blob.download_as_bytes(timeout=_TIMEOUTS_S, retry=self._retry)
            return data

    def get_range(self, key: str, start: int, size_bytes: int) -> bytes:
        """Return a part of an object's content; see `ObjectStore.get_range`."""
        blob = self._bucket.blob(self._root + check_key(key))
        with self._border(missing_key=key), self._connections.get():
            try:
                data: bytes = blob.download_as_bytes(
                    start=start,
                    end=start + size_bytes - 1,
                    # The SDK only has a checksum of the whole object.
                    checksum=None,
                    timeout=_TIMEOUTS_S,
                    retry=self._retry,
                )
            except RequestRangeNotSatisfiable:
                return b""  # an empty object has no range at all
            return data

    def create(self, key: str, data: bytes) -> bool:
        """Store an object unless the key is taken; see `ObjectStore.create`."""
        blob = self._bucket.blob(self._root + check_key(key))
        with self._border(), self._connections.get():
            try:
                blob.upload_from_string(
                    data,
                    content_type="application/octet-stream",
                    if_generation_match=0,
                    timeout=_TIMEOUTS_S,
                    retry=self._retry,
                )
            except PreconditionFailed:
                return False
            return True

    def exists(self, key: str) -> bool:
        """Return whether an object with this key exists."""
        blob = self._bucket.blob(self._root + check_key(key))
        with self._border(), self._connections.get():
            return bool(blob.exists(timeout=_TIMEOUTS_S, retry=self._retry))

    def delete_prefix(self, prefix: str) -> int:
        """Delete a submission's objects, 16 at a time; see `ObjectStore.delete_prefix`."""
        folder = self._root + deletable_folder_of(prefix)
        names = (blob.name for blob in self._blobs(folder, "name", delimiter="/"))
        # Parallel requests instead of the SDK's batches: a batch has at most 100 keys, is not
        # retried, and emulators don't support it.
        return for_each(
            self._delete, (name for name in names if is_own_name(name.removeprefix(folder)))
        )

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """Yield the keys of a folder; see `ObjectStore.list_prefix`."""
        for name in self._names(self._root + folder_of(prefix)):
            yield name.removeprefix(self._root)

    def delete_objects(self, keys: Iterable[str]) -> None:
        """Delete objects, 16 at a time; see `ObjectStore.delete_objects`."""
        for_each(self._delete, (self._root + check_key(key) for key in keys))

    def list_folders(self, prefix: str) -> Iterator[str]:
        """Yield the folders of a folder; see `ObjectStore.list_folders`."""
        with self._border():
            blobs = self._client.list_blobs(
                self._bucket,
                prefix=self._root + folder_of(prefix),
                delimiter="/",
                fields="prefixes,nextPageToken",
                timeout=_TIMEOUTS_S,
                retry=self._retry,
            )
            for _ in blobs.pages:
                # The iterator accumulates the prefixes of all pages; take those of each page.
                for name in blobs.prefixes:
                    yield name.removeprefix(self._root).removesuffix("/")
                blobs.prefixes.clear()

    def list_objects(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects of a folder; see `ObjectStore.list_objects`."""
        for blob in self._blobs(self._root + folder_of(prefix), "name,size,timeCreated"):
            yield StoredObject(blob.name.removeprefix(self._root), blob.size, blob.time_created)

    def check(self) -> None:
        """Check whether the bucket can be used; see `ObjectStore.check`."""
        next(self._names(self._root), None)
        check_conditional_create(self)

    def close(self) -> None:
        """Close the connections, if they are this process's own."""
        self._clients.close(lambda client: client.close())

    @property
    def _client(self) -> storage.Client:
        return self._clients.get()

    @property
    def _bucket(self) -> storage.Bucket:
        return self._client.bucket(self._bucket_name)

    def _names(self, folder: str) -> Iterator[str]:
        for blob in self._blobs(folder, "name"):
            yield blob.name

    def _blobs(self, folder: str, fields: str, *, delimiter: str = "") -> Iterator[storage.Blob]:
        with self._border():
            yield from self._client.list_blobs(
                self._bucket,
                prefix=folder,
                delimiter=delimiter or None,
                fields=f"items({fields}),nextPageToken",
                timeout=_TIMEOUTS_S,
                retry=self._retry,
            )

    def _delete(self, name: str) -> None:
        with self._border(), self._connections.get():
            try:
                self._bucket.blob(name).delete(timeout=_TIMEOUTS_S, retry=self._retry)
            except NotFound:
                return  # another clean-up deleted it, or the answer before a retry was lost

    @contextmanager
    def _border(self, *, missing_key: str | None = None) -> Iterator[None]:
        try:
            yield
        except _SDK_ERRORS as exc:
            if missing_key is not None and isinstance(exc, NotFound):
                if missing_key != STORE_ID_KEY:
                    check_store_id(self, self.store_id)
                raise ObjectNotFoundError(missing_key, self.url) from exc
            error = _translated(exc, self.url, self._bucket_name)
            if missing_key is not None and self._is_of_object(exc, missing_key):
                message = f"{error} (only the object {missing_key!r}: others can be read)"
                raise ObjectUnusableError(message) from exc
            raise error from exc

    def _is_of_object(self, exc: Exception, key: str) -> bool:
        """Return whether a read failed because of one object: checksum, key or owner."""
        if isinstance(exc, DataCorruption):
            return True
        is_refused = isinstance(exc, Forbidden | BadRequest) and key != STORE_ID_KEY
        return is_refused and is_only_one_object(self)


def _translated(exc: Exception, url: str, bucket: str) -> OpsqueueError:
    if isinstance(exc, RetryError) and isinstance(exc.cause, Exception):
        exc = exc.cause  # it has the error of each attempt, and not only "retried for 20 s"
    said = str(exc)[:_MESSAGE_AT_MOST]
    match exc:
        case NotFound():
            text = f"has no bucket {bucket!r} ({said}): create it, or correct the store's URL"
        # InvalidOperation: after a 401 the SDK refreshes, which anonymous credentials can't.
        case Unauthorized() | RefreshError() | InvalidOperation():
            text = f"refused the credentials ({said}): {_CREDENTIALS_HELP}"
        case Forbidden():
            text = (
                f"denied access ({said}): check the credentials, and grant them Storage Object "
                "User (roles/storage.objectUser) on the bucket"
            )
        case DefaultCredentialsError():
            text = f"has no credentials to use: {_CREDENTIALS_HELP}"
        case RequestException():
            request = getattr(exc, "request", None)
            parts = urlsplit(request.url or "") if request is not None else None
            place = f" at {parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts else ""
            text = f"can't be reached{place} ({type(exc).__name__}): check endpoint and network"
        case _:
            text = f"answered with an error ({type(exc).__name__}: {exc})"
    return StoreUnavailableError(f"{url} {text}")
