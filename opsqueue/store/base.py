"""The interface of all object stores, the names of objects, and the parsing of store URLs.

Pure, except the checks of a store and its upgrade, which do their I/O through the store passed in.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from opsqueue.exceptions import (
    FormatTooNewError,
    InvalidArgumentError,
    NewObjectStoreClientError,
    ObjectNotFoundError,
    StoreUnavailableError,
)
from opsqueue.model.checks import is_host

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

FORMAT = 1
"""The newest store format that this version knows; a store without a number has format 1."""

_MOST_FORMATS = 100

# S3 and GCS allow 1,024 bytes for a whole name; the rest is left for the store's own prefix.
MAX_KEY_BYTES = 800

# The local store's unfinished files start with it. No key may, or an object could look like one.
TEMPORARY_PREFIX = ".opsqueue-tmp-"

STORE_ID_KEY = "opsqueue-store-id"
"""The key of the marker: its content is the store's random id."""

_STORE_ID = re.compile(r"[0-9a-f]{32}")

_KNOWN_OPTIONS: dict[str, tuple[str, ...]] = {
    "file": ("durable",),
    "memory": (),
    "s3": ("endpoint_url", "region"),
    "gs": ("endpoint_url",),
}
_OPTION_AFTER_SEMICOLON = re.compile(
    f";({'|'.join(sorted({name for names in _KNOWN_OPTIONS.values() for name in names}))})="
)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_OWN_NAME = re.compile(r"manifest|(0|[1-9][0-9]{0,9})-[a-z]+")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as listed."""

    key: str
    size_bytes: int
    stored_at: datetime
    """An instant on the store's clock, in UTC."""


class Readable(Protocol):
    """A source of objects: a store, or an object in front of one."""

    def get(self, key: str) -> bytes:
        """Return an object's whole content; see `ObjectStore.get`."""


@runtime_checkable
class HasAtHand(Readable, Protocol):
    """A source that already has some of the objects."""

    def at_hand(self, key: str) -> bytes | None:
        """Return an object's content if it is here; None: `get` has to request it."""


class ObjectStore(Protocol):
    """Bytes by key; objects never change once they are stored.

    Keys are relative, folder-like texts such as `2026/41/7-in`. Every method may be called from
    several threads at once.

    Every method that does I/O raises StoreUnavailableError if the store refuses or does not
    answer, and InvalidArgumentError for an invalid key. ObjectUnusableError, a subclass of
    StoreUnavailableError, means that the fault is in that object only.
    """

    store_id: str
    """The id that its marker must have; "" while it is not known.

    With an id, a missing object leads to a second look, at the marker. If the marker is missing or
    has another id, the store is unavailable (see `check_store_id`), and no folder is made for it.
    """

    @property
    def url(self) -> str:
        """The store's name in messages, without options and credentials."""

    def get(self, key: str) -> bytes:
        """Return an object's whole content.

        Raises:
            ObjectNotFoundError: there is no such object.

        """

    def get_range(self, key: str, start: int, size_bytes: int) -> bytes:
        """Return up to `size_bytes` of an object's content from byte `start` on.

        Fewer bytes mean that the object ends there; b"" means that it has no byte `start`. Nothing
        else of the object is transferred.

        Raises:
            ObjectNotFoundError: there is no such object.

        """

    def create(self, key: str, data: bytes) -> bool:
        """Store an object unless the key is taken; the first object of a key is never replaced.

        Returns True if this call stored it, False if it already existed. False may also mean that
        this call itself stored it: the first answer was lost, and the SDK's retry found the object.
        So False means that the object exists, never that another caller created it.
        """

    def exists(self, key: str) -> bool:
        """Return whether an object with this key exists."""

    def delete_prefix(self, prefix: str) -> int:
        """Delete the objects of the submission with this prefix; return their number.

        These are the objects directly below `prefix/` whose names are ours (see `is_own_name`).
        All other objects there, and everything in its folders, belong to others and are kept: one
        prefix may be above another.

        Uses memory for one page of keys. May be repeated after a failure. Objects created while it
        runs may be kept. An empty prefix is refused.
        """

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """Yield the keys below `prefix/` in no particular order; "" yields all.

        Uses memory for one page of keys, except for the memory store.
        """

    def delete_objects(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are skipped. May be repeated.

        `keys` is consumed lazily, with memory for one page of them.
        """

    def list_folders(self, prefix: str) -> Iterator[str]:
        """Yield the folders directly below `prefix/`, without its objects; "" is the whole store.

        Their names start at the store's root: `a/b` for the folder `b` below `a`. The order is
        arbitrary. Uses memory for one page, except for the memory store.
        """

    def list_objects(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the same objects as `list_prefix`, with their sizes and ages."""

    def check(self) -> None:
        """Check at a program's start whether the store can be used as needed later.

        Writes, reads and deletes a small object with a random name, and makes sure that creating
        it a second time is refused: if a store ignored the condition, a stalled worker could
        replace results.

        Raises:
            StoreUnavailableError: the message has what happened and what helps.

        """

    def close(self) -> None:
        """Close connections; the store can't be used afterwards. May be repeated."""


def input_key(prefix: str, index: int) -> str:
    """Return the key of a chunk's operations; `index` is the chunk's, 0-based."""
    return f"{prefix}/{index}-in"


def output_key(prefix: str, index: int) -> str:
    """Return the key of a chunk's results, and of the errors of its operations that failed."""
    return f"{prefix}/{index}-out"


def manifest_key(prefix: str) -> str:
    """Return the key of a submission's manifest, from which it is restored if Redis loses it."""
    return f"{prefix}/manifest"


def is_own_name(name: str) -> bool:
    """Return whether a submission's object may have this name in its folder.

    Such names are `manifest`, and a chunk's index with a kind, such as `7-in`. Unknown kinds are
    included, so that objects of later versions are deleted, too.
    """
    return _OWN_NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A store's URL, parsed: `scheme://place/path?options`. Its text form has no options."""

    scheme: str
    place: str
    path: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the URL in a form that may be logged."""
        slash = "/" if self.path and not self.path.startswith("/") else ""
        return f"{self.scheme}://{self.place}{slash}{self.path}"


def parse_store_url(url: str) -> StoreUrl:
    """Parse a store's URL.

    The path of `file` stays absolute; those of the others lose their outer slashes.

    Raises:
        NewObjectStoreClientError: the message names the wrong part and a correct form.

    """
    # No message raised before this check quotes the given text: it may contain a password.
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        message = f"a store URL can't be read: {exc}"
        raise NewObjectStoreClientError(message) from exc
    if "@" in parts.netloc:
        message = (
            f"a store URL ({parts.scheme}://…) holds credentials: leave them out, they are "
            "taken from the environment, the SDK's profile or the machine's role"
        )
        raise NewObjectStoreClientError(message)
    if parts.scheme not in _KNOWN_OPTIONS:
        known = ", ".join(f"{scheme}://" for scheme in _KNOWN_OPTIONS)
        raise _malformed(url, f"its scheme {parts.scheme!r} is not one of {known}")
    if parts.fragment:
        raise _malformed(url, "'#' starts a fragment, which stores don't have: write %23")
    if _OPTION_AFTER_SEMICOLON.search(f"{parts.path}?{parts.query}"):
        raise _malformed(url, "options follow as ?name=value&name=value, not after ';'")
    path = unquote(parts.path)
    if _CONTROL_CHARACTER.search(path):
        raise _malformed(url, "its path has a control character")
    options = _options_of(url, parts.scheme, parts.query)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not path.startswith("/"):
            raise _malformed(url, "a folder is given by its absolute path, file:///abs/dir")
        return StoreUrl("file", "", path.rstrip("/") or "/", options)
    if parts.scheme in ("s3", "gs") and not _BUCKET.fullmatch(parts.netloc):
        wants = f"{parts.scheme}://bucket/prefix"
        raise _malformed(url, f"{parts.netloc!r} can't be a bucket's name, give {wants}")
    return StoreUrl(parts.scheme, parts.netloc, path.strip("/"), options)


def with_options(url: str, options: Iterable[tuple[str, str]]) -> str:
    """Add options, in the form that the reference's clients take, to a store's URL."""
    query = urlencode(list(options))
    return f"{url}{'&' if '?' in url else '?'}{query}" if query else url


def _options_of(url: str, scheme: str, query: str) -> dict[str, str]:
    known = _KNOWN_OPTIONS[scheme]
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _malformed(url, f"its option {twice!r} is given twice")
    for name, value in options.items():
        if name not in known:
            listed = ", ".join(known) or "none"
            raise _malformed(url, f"{name!r} is not an option of {scheme}:// (known: {listed})")
        if not value:
            raise _malformed(url, f"its option {name!r} is empty")
    endpoint = options.get("endpoint_url")
    if endpoint is not None:
        try:
            parts = urlsplit(endpoint)
        except ValueError as exc:
            raise _malformed(url, f"its endpoint_url can't be read: {exc}") from exc
        is_right = parts.scheme in ("http", "https") and is_host(parts.hostname or "")
        if not is_right or not parts.netloc or "@" in parts.netloc:
            raise _malformed(url, "its endpoint_url must be http://host:port without credentials")
    return options


def _malformed(url: str, why: str) -> NewObjectStoreClientError:
    # The query is left out: an endpoint_url in it may contain a password.
    return NewObjectStoreClientError(f'no object store for "{url.partition("?")[0]}": {why}')


def check_key(key: str) -> str:
    """Return the key if every store can hold it.

    All stores refuse the same keys, not only the local one, where `..` would lead outside. So a
    queue can move from one store to another.

    Raises:
        InvalidArgumentError: it is empty, too long or absolute; has an empty, `.` or `..` segment
            or control characters; or has the form of the local store's temporary files.

    """
    if not key:
        raise _bad_key(key, "it is empty")
    if _CONTROL_CHARACTER.search(key):
        raise _bad_key(key, "it has a control character")
    for segment in key.split("/"):
        if segment in ("", ".", ".."):
            raise _bad_key(key, f"it has the segment {segment!r}; it is relative, like 41/7-in")
        if segment.startswith(TEMPORARY_PREFIX):
            raise _bad_key(key, f"{TEMPORARY_PREFIX} is reserved for unfinished files")
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError as exc:
        raise _bad_key(key, "it is not valid Unicode") from exc
    if size_bytes > MAX_KEY_BYTES:
        raise _bad_key(key, f"it has {size_bytes:,} bytes, {MAX_KEY_BYTES} are allowed")
    return key


def _bad_key(key: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{key[:200]!r} can't be the key of an object: {why}")


def folder_of(prefix: str) -> str:
    """Return `prefix/`, with which the keys of that folder start; "" for the whole store."""
    return f"{check_key(prefix.rstrip('/'))}/" if prefix else ""


def deletable_folder_of(prefix: str) -> str:
    """Return `prefix/`, but refuse the whole store, which is not a submission's folder."""
    if not prefix:
        message = "an empty prefix would name every object of the store: name a folder"
        raise InvalidArgumentError(message)
    return folder_of(prefix)


def check_format(store: ObjectStore) -> None:
    """Make sure that this version can read the store's objects.

    Objects never change, so the objects `opsqueue-format-N` of a store tell its format.

    Raises:
        FormatTooNewError: a newer version has raised its format.
        StoreUnavailableError: the store did not answer, so its format is not known.

    """
    if store.exists(_format_key(FORMAT + 1)):
        later = range(FORMAT + 2, FORMAT + _MOST_FORMATS)
        missing = (number for number in later if not store.exists(_format_key(number)))
        found = next(missing, later.stop) - 1
        raise FormatTooNewError(store.url, found, FORMAT, kind="store")


def upgrade_store(store: ObjectStore) -> int:
    """Raise the store's format to this version's, and return that.

    Raises:
        OpsqueueError: see `check_format`.

    """
    check_format(store)
    for number in range(2, FORMAT + 1):
        store.create(_format_key(number), b"")
    return FORMAT


def _format_key(number: int) -> str:
    return f"opsqueue-format-{number}"


def read_store_id(store: Readable, url: str) -> str:
    """Return the id in the store's marker; "" if it has no marker.

    Raises:
        StoreUnavailableError: the store did not answer, or the marker does not hold an id.

    """
    try:
        found = store.get(STORE_ID_KEY).decode("ascii", "replace").strip()
    except ObjectNotFoundError:
        return ""
    if not _STORE_ID.fullmatch(found):
        message = f"{url} can't be used: its object {STORE_ID_KEY} holds no id: restore it"
        raise StoreUnavailableError(message)
    return found


def make_store_id(store: ObjectStore) -> str:
    """Create a store's marker, unless it has one, and return the id.

    Raises:
        FormatTooNewError: see `check_format`; nothing was written.
        StoreUnavailableError: the marker can't be written or read.

    """
    if found := read_store_id(store, store.url):
        return found
    check_format(store)
    store.create(STORE_ID_KEY, uuid.uuid4().hex.encode())
    return read_store_id(store, store.url)


def check_store_id(store: ObjectStore, expected: str) -> None:
    """Make sure that a store still has this id; "" matches any.

    Raises:
        StoreUnavailableError: an unmounted disk, an emptied bucket, or another store in its place.

    """
    if not expected or (found := read_store_id(store, store.url)) == expected:
        return
    what = f"is another store than before (id {found})" if found else "has lost its marker"
    message = (
        f"{store.url} {what}: the object {STORE_ID_KEY} must hold {expected}; is the disk mounted, "
        "and the bucket the right one? If its contents were moved or deleted on purpose, create "
        "that object with that content"
    )
    raise StoreUnavailableError(message)


def is_only_one_object(store: ObjectStore) -> bool:
    """Return whether a failure concerns one object only: the store's marker can be read.

    If no id is known, this can't be decided, and the store is assumed to be at fault.
    """
    if not store.store_id:
        return False
    try:
        return read_store_id(store, store.url) == store.store_id
    except StoreUnavailableError:
        return False


def check_conditional_create(store: ObjectStore) -> None:
    """Make sure, with a probe object, that the store never replaces the first object of a key.

    Raises:
        FormatTooNewError: see `check_format`.
        StoreUnavailableError: it replaced it or returned other bytes; or a step failed.

    """
    folder = f"opsqueue-check-{uuid.uuid4().hex}"
    # The key has the form of a submission's object, so this also tests that those can be deleted.
    key = input_key(folder, 0)
    # The stored content decides, not the answers: the answer to the first create may be lost, and
    # then the SDK's retry finds the object.
    store.create(key, b"first")
    try:
        store.create(key, b"second")
        found = store.get(key)
    except ObjectNotFoundError:
        found = b""
    finally:
        store.delete_prefix(folder)
    if found != b"first":
        message = (
            f"{store.url} does not keep the first object of a key: it ignores conditional "
            "creates (If-None-Match: *), so that a late worker could replace results; use a "
            "store that honours them, such as AWS S3, SeaweedFS, a current MinIO or GCS"
        )
        raise StoreUnavailableError(message)
    check_format(store)
