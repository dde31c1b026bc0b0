"""Object stores: bytes by key, in S3, GCS, a folder or this process's memory.

`open_store(url)` chooses the store by the URL's scheme. Every store implements `ObjectStore` and
passes the same conformance suite. The modules of the cloud stores do all of their I/O through the
vendor's SDK. They are imported only for a URL of theirs, so an SDK that is not used is not needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opsqueue.exceptions import NewObjectStoreClientError
from opsqueue.store.base import (
    ObjectStore,
    Readable,
    StoredObject,
    input_key,
    manifest_key,
    output_key,
    parse_store_url,
    with_options,
)

if TYPE_CHECKING:
    from opsqueue.store.base import StoreUrl

__all__ = [
    "ObjectStore",
    "Readable",
    "StoredObject",
    "input_key",
    "manifest_key",
    "open_store",
    "output_key",
    "with_options",
]


def open_store(url: str) -> ObjectStore:
    """Open the object store of a URL; nothing is written yet, see `ObjectStore.check`.

    | URL                    | store            | options                 |
    |------------------------|------------------|-------------------------|
    | `file:///abs/dir`      | a folder         | `durable` (true)        |
    | `memory://NAME`        | this process     |                         |
    | `s3://bucket/prefix`   | S3 or compatible | `endpoint_url`, `region`|
    | `gs://bucket/prefix`   | GCS              | `endpoint_url`          |

    Options follow as `?name=value&name=value`. Credentials never stand in the URL: each SDK finds
    them in its usual places (environment, profile, role of the machine).

    Raises:
        NewObjectStoreClientError: the URL can't be used, or its extra is not installed.
        StoreUnavailableError: only from GCS, which looks up its credentials at once.

    """
    parsed = parse_store_url(url)
    # Each store is imported when it is opened: the SDKs are optional, and slow to import.
    match parsed.scheme:
        case "file":
            from opsqueue.store.local import open_local_store  # noqa: PLC0415

            return open_local_store(parsed)
        case "memory":
            from opsqueue.store.memory import MemoryStore  # noqa: PLC0415

            return MemoryStore("/".join(filter(None, (parsed.place, parsed.path))))
        case "s3":
            try:
                from opsqueue.store.s3 import open_s3_store  # noqa: PLC0415
            except ImportError as exc:
                raise _missing_extra(parsed, "s3") from exc
            return open_s3_store(parsed)
        case _:
            try:
                from opsqueue.store.gcs import open_gcs_store  # noqa: PLC0415
            except ImportError as exc:
                raise _missing_extra(parsed, "gcs") from exc
            return open_gcs_store(parsed)


def _missing_extra(url: StoreUrl, extra: str) -> NewObjectStoreClientError:
    return NewObjectStoreClientError(
        f'no object store for "{url}": install opsqueue-redis[{extra}]'
    )
