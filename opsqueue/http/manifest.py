"""What a submission is, beside its chunks in the store: for the day that Redis has lost it.

Written when the chunks are stored and before the insert, deleted with everything else below the
prefix. Small submissions, whose chunks are in Redis, have none. The I/O is the store's.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from opsqueue.exceptions import EncodingError
from opsqueue.http.bodies import InsertBody
from opsqueue.model.new_submission import NewSubmission, is_idempotency_key
from opsqueue.store import ObjectStore, manifest_key


class Manifest(Struct, frozen=True, kw_only=True):
    """The object `PREFIX/manifest`, as JSON."""

    queue: str
    created: datetime
    """When the upload ended, on the clock of who uploaded."""
    submission: InsertBody
    idempotency_key: str = ""
    """With which it was to be inserted: a repeated insert finds what was restored."""

    def to_new_submission(self) -> NewSubmission:
        """Give what was to be inserted.

        Raises:
            InvalidArgumentError: a value is out of range.
            EncodingError: it does not say where its chunks are, or its key can't be one.
        """
        body = self.submission
        if self.idempotency_key and not is_idempotency_key(self.idempotency_key):
            message = "the manifest's idempotency key is not 1 to 255 printable ASCII characters"
            raise EncodingError(message)
        if not (
            isinstance(body.prefix, str)
            and isinstance(body.chunks_total, int)
            and isinstance(body.operations_total, int)
            and isinstance(body.codec, str)
        ):
            message = "the manifest lacks prefix, chunks_total, operations_total or codec"
            raise EncodingError(message)
        return body.to_new_submission(
            prefix=body.prefix,
            chunks_total=body.chunks_total,
            operations_total=body.operations_total,
            codec=body.codec,
        )


_DECODER = msgspec.json.Decoder(Manifest)


def store_manifest(
    store: ObjectStore, queue: str, new: NewSubmission, idempotency_key: str = ""
) -> None:
    """Store what a submission is, whose chunks are stored; nothing of a small or empty one.

    Raises:
        StoreUnavailableError: the store refuses or does not answer.
    """
    if new.inline is not None or not new.chunks_total:
        return
    manifest = Manifest(
        queue=queue,
        created=datetime.now(UTC),
        submission=InsertBody.of(new),
        idempotency_key=idempotency_key,
    )
    store.create(manifest_key(new.prefix), msgspec.json.encode(manifest))


def read_manifest(store: ObjectStore, prefix: str) -> Manifest:
    """Read what a submission is.

    Raises:
        ObjectNotFoundError: there is none.
        EncodingError: it can't be read: damaged, or of a later version.
        StoreUnavailableError.
    """
    data = store.get(manifest_key(prefix))
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        message = f"the manifest can't be read ({exc}): damaged, or of a later version"
        raise EncodingError(message) from exc
