"""The manifest: a description of a submission, stored with its chunks, in case Redis loses it.

It is written after the chunks and before the insert, and deleted with everything else below the
prefix. Small submissions, whose chunks are in Redis, have none. All I/O goes through the store.
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
    """The end of the upload, by the uploader's clock."""
    submission: InsertBody
    idempotency_key: str = ""
    """The key of its insert, so that a repeated insert finds the restored submission."""

    def to_new_submission(self) -> NewSubmission:
        """Return the submission to insert.

        Raises:
            InvalidArgumentError: a value is out of range.
            EncodingError: it lacks the place of its chunks, or its key is invalid.
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
    """Store the manifest of a submission whose chunks are stored; small and empty ones have none.

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
    """Read the manifest of a submission.

    Raises:
        ObjectNotFoundError: there is none.
        EncodingError: it can't be read, because it is damaged or of a later version.
        StoreUnavailableError.
    """
    data = store.get(manifest_key(prefix))
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        message = f"the manifest can't be read ({exc}): damaged, or of a later version"
        raise EncodingError(message) from exc
