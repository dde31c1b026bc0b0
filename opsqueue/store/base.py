"""What every object store promises, how objects are named, and how store URLs are read.

Pure, except the checks of a store and its upgrade, which do their I/O through the store given.
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
"""The newest format of a store that this version knows; a store without a number has format 1."""

_MOST_FORMATS = 100

# S3 and GCS allow 1,024 bytes for a whole name; the rest is left for the store's own prefix.
MAX_KEY_BYTES = 800

# The local store's unfinished files start so: no key may, or an object could be taken for one.
TEMPORARY_PREFIX = ".opsqueue-tmp-"

STORE_ID_KEY = "opsqueue-store-id"
"""The marker: its content is the store's random id."""

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
    """An object as a listing shows it."""

    key: str
    size_bytes: int
    stored_at: datetime
    """On the store's clock, in UTC."""


class Readable(Protocol):
    """What objects are read from: a store, or what stands before one."""

    def get(self, key: str) -> bytes:
        """Return an object's whole content; see `ObjectStore.get`."""


@runtime_checkable
class HasAtHand(Readable, Protocol):
    """What has some of the objects already."""

    def at_hand(self, key: str) -> bytes | None:
        """Return an object's content if it is here; None: `get` has to ask for it."""


class ObjectStore(Protocol):
    """Bytes by key; objects never change once they are there.

    Keys are relative, folder-like texts such as `2026/41/7-in`. Every method may be called from
    several threads at once.

    Every method that does I/O raises StoreUnavailableError when the store refuses or does not
    answer, and InvalidArgumentError for a key that can't be one. ObjectUnusableError, which is a
    StoreUnavailableError, says that only the object is to blame.
    """

    store_id: str
    """The id that its marker must have, "" while none is known.

    With an id, an object that is missing is asked about twice: where the marker is missing too, or
    is another one, the store is unavailable (see `check_store_id`), and no folder is made for it.
    """

    @property
    def url(self) -> str:
        """Names the store in messages: no options, no credentials."""

    def get(self, key: str) -> bytes:
        """Return an object's whole content.

        Raises:
            ObjectNotFoundError: there is no such object.

        """

    def get_range(self, key: str, start: int, size_bytes: int) -> bytes:
        """Return up to `size_bytes` of an object's content from byte `start` on.

        Fewer bytes mean that the object ends there; b"" that it has no byte `start`. Nothing else
        of the object is transferred.

        Raises:
            ObjectNotFoundError: there is no such object.

        """

    def create(self, key: str, data: bytes) -> bool:
        """Store an object unless the key is taken: the first one stays, whole, for ever.

        Returns True if this call stored it, False if it was there already. False may also mean
        that this very call stored it: its first answer was lost on the way, and the SDK's retry
        met the object. So False says "it is there", never "somebody else made it".
        """

    def exists(self, key: str) -> bool:
        """Tell whether there is an object of this key."""

    def delete_prefix(self, prefix: str) -> int:
        """Delete the objects of the submission with this prefix; return how many.

        These are the objects right below `prefix/` whose names are ours (see `is_own_name`).
        Whatever else lies there, and all below its folders, is somebody else's and stays: one
        prefix may be above another.

        Takes memory for one page of keys. May be repeated after a failure. Objects created
        while it runs may stay. An empty prefix is refused.
        """

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """Yield the keys below `prefix/` in no particular order; "" yields all.

        Takes memory for one page of keys, except for the memory store.
        """

    def delete_objects(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are left out. May be repeated.

        `keys` is consumed lazily, with memory for a page of them.
        """

    def list_folders(self, prefix: str) -> Iterator[str]:
        """Yield the folders right below `prefix/`, without its objects; "" is the whole store.

        Their names are given from the store's root on: `a/b` for the folder `b` below `a`. In no
        particular order, with memory for one page, except for the memory store.
        """

    def list_objects(self, prefix: str) -> Iterator[StoredObject]:
        """Yield what `list_prefix` does, each with its size and age."""

    def check(self) -> None:
        """Find out at a program's start what would fail later.

        Writes, reads and deletes a small object of a random name, and makes sure that creating
        it a second time is refused: a store that ignores the condition would let a stalled
        worker replace results.

        Raises:
            StoreUnavailableError: the message says what happened and what helps.

        """

    def close(self) -> None:
        """Give connections back; the store can't be used afterwards. May be repeated."""


def input_key(prefix: str, index: int) -> str:
    """Return the key of a chunk's operations; `index` is the chunk's, 0-based."""
    return f"{prefix}/{index}-in"


def output_key(prefix: str, index: int) -> str:
    """Return the key of a chunk's results, and of the errors of its operations that failed."""
    return f"{prefix}/{index}-out"


def manifest_key(prefix: str) -> str:
    """Return the key of what a submission is, for the day that Redis has lost it."""
    return f"{prefix}/manifest"


def is_own_name(name: str) -> bool:
    """Return whether a submission's object may have this name in its folder.

    `manifest`, or a chunk's index and a kind, such as `7-in`: also kinds of later versions, so that
    nothing of theirs stays for ever.
    """
    return _OWN_NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A store's URL, read: `scheme://place/path?options`. As text it has no options."""

    scheme: str
    place: str
    path: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Give the URL as it may stand in a log."""
        slash = "/" if self.path and not self.path.startswith("/") else ""
        return f"{self.scheme}://{self.place}{slash}{self.path}"


def parse_store_url(url: str) -> StoreUrl:
    """Read a store's URL.

    The path of `file` stays absolute, those of the others lose their outer slashes.

    Raises:
        NewObjectStoreClientError: the message says which part is wrong and what would be right.

    """
    # The given text is quoted in no message that is raised before this: it may hold a password.
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
        raise _malformed(url, f"its scheme {parts.scheme!r} is none of {known}")
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
    """Put options, as the reference's clients take them, into a store's URL."""
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
    # The query is left out: an endpoint_url in it may hold a password.
    return NewObjectStoreClientError(f'no object store for "{url.partition("?")[0]}": {why}')


def check_key(key: str) -> str:
    """Return the key, if every store can hold it.

    All stores refuse the same keys, not only the local one, where `..` would lead outside: so
    that a queue can move from one store to another.

    Raises:
        InvalidArgumentError: empty, too long, absolute, with empty, `.` or `..` segments,
            control characters, or of the form of the local store's temporary files.

    """
    if not key:
        raise _bad_key(key, "it is empty")
    if _CONTROL_CHARACTER.search(key):
        raise _bad_key(key, "it has a control character")
    for segment in key.split("/"):
        if segment in ("", ".", ".."):
            raise _bad_key(key, f"it has the segment {segment!r}; it is relative, like 41/7-in")
        if segment.startswith(TEMPORARY_PREFIX):
            raise _bad_key(key, f"{TEMPORARY_PREFIX} is kept for unfinished files")
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
    """Return `prefix/`, which the keys of that folder start with; "" for the whole store."""
    return f"{check_key(prefix.rstrip('/'))}/" if prefix else ""


def deletable_folder_of(prefix: str) -> str:
    """Return `prefix/`, but refuse the whole store, which is no submission's folder."""
    if not prefix:
        message = "an empty prefix would name every object of the store: name a folder"
        raise InvalidArgumentError(message)
    return folder_of(prefix)


def check_format(store: ObjectStore) -> None:
    """Make sure that this version can read what the store holds.

    Objects never change, so a store's format is told by which objects `opsqueue-format-N` it has.

    Raises:
        FormatTooNewError: a newer version has raised its format.
        StoreUnavailableError: nothing is known.

    """
    if store.exists(_format_key(FORMAT + 1)):
        later = range(FORMAT + 2, FORMAT + _MOST_FORMATS)
        missing = (number for number in later if not store.exists(_format_key(number)))
        found = next(missing, later.stop) - 1
        raise FormatTooNewError(store.url, found, FORMAT, kind="store")


def upgrade_store(store: ObjectStore) -> int:
    """Raise the store's format to this version's, and return that.

    Raises:
        as `check_format`.

    """
    check_format(store)
    for number in range(2, FORMAT + 1):
        store.create(_format_key(number), b"")
    return FORMAT


def _format_key(number: int) -> str:
    return f"opsqueue-format-{number}"


def read_store_id(store: Readable, url: str) -> str:
    """Return the id in the store's marker, "" without one.

    Raises:
        StoreUnavailableError: also when the marker holds something else.

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
    """Give a store its marker, unless it has one, and return the id.

    Raises:
        FormatTooNewError: see `check_format`; nothing was written.
        StoreUnavailableError: it can't be written or read.

    """
    if found := read_store_id(store, store.url):
        return found
    check_format(store)
    store.create(STORE_ID_KEY, uuid.uuid4().hex.encode())
    return read_store_id(store, store.url)


def check_store_id(store: ObjectStore, expected: str) -> None:
    """Make sure that a store is still the one of this id; "" is any.

    Raises:
        StoreUnavailableError: an unmounted disk, an emptied bucket, or another store at its place.

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
    """Tell whether a failure is that of one object, since the store's marker can be read.

    Without a known id nothing can be told, and so the store is to blame.
    """
    if not store.store_id:
        return False
    try:
        return read_store_id(store, store.url) == store.store_id
    except StoreUnavailableError:
        return False


def check_conditional_create(store: ObjectStore) -> None:
    """Make sure, with a probe object, that the store keeps the first object of a key.

    Raises:
        FormatTooNewError: see `check_format`.
        StoreUnavailableError: it replaced it, or gave back other bytes; or any step failed.

    """
    folder = f"opsqueue-check-{uuid.uuid4().hex}"
    # As an object of a submission: so it is also seen whether those can be deleted.
    key = input_key(folder, 0)
    # What is stored decides, and not what was answered: the answer to the first may be lost, and
    # then the SDK's repetition meets the object.
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
