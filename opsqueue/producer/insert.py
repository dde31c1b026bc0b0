"""How a submission gets in: its operations stored as chunks, then told to the API.

Contents go to the object store directly; the API hears only of where they are. What was stored for
nothing is deleted again. I/O is the store's and that of a `SubmissionApi`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from opsqueue.contents.chunks import (
    check_inline_bytes,
    discard,
    discard_unless_owned,
    store_operations,
)
from opsqueue.contents.codec import Codec
from opsqueue.exceptions import IncorrectUsageError, InvalidArgumentError
from opsqueue.http.manifest import store_manifest
from opsqueue.model.new_submission import NewSubmission, is_idempotency_key
from opsqueue.model.process import Origin
from opsqueue.model.submission import SubmissionId
from opsqueue.producer.backends import SubmissionApi
from opsqueue.store import ObjectStore
from opsqueue.tracing import current_carrier, spans


class SubmissionInserter:
    """Hands submissions in; may be used from several threads.

    Args:
        api: told of each; stays the caller's.
        store: where chunks go; stays the caller's.
        at_once: objects uploaded in parallel.
        inline_bytes: chunks that are at most this large together, encoded, go through the API.
    """

    def __init__(
        self,
        api: SubmissionApi,
        store: ObjectStore,
        *,
        at_once: int,
        inline_bytes: int,
    ) -> None:
        """Ask nothing yet."""
        self._api = api
        self._store = store
        self._at_once = at_once
        self._inline_bytes = check_inline_bytes(inline_bytes)
        self._has_reached_api = False

    def insert(
        self,
        queue: str,
        empty: NewSubmission,
        ops: Iterable[Any],
        codec: Codec,
        idempotency_key: str | None,
    ) -> SubmissionId:
        """Store operations under the prefix of a submission that has none yet, and hand it in.

        Raises:
            as `ProducerClient.insert_submission`.
        """
        if idempotency_key is not None and not is_idempotency_key(idempotency_key):
            message = (
                f"idempotency key {idempotency_key[:80]!r}: 1 to 255 printable ASCII characters"
            )
            raise InvalidArgumentError(message)
        with spans.send(queue) as span:
            origin = Origin()
            self._reach_api()
            with spans.store_inputs():
                stored = store_operations(
                    self._store,
                    ops,
                    prefix=empty.prefix,
                    chunk_size=empty.chunk_size,
                    codec=codec,
                    inline_bytes=self._inline_bytes,
                    at_once=self._at_once,
                )
            origin.check("a submission", "end the child that the iterable of operations has forked")
            new = replace(
                empty,
                chunks_total=stored.chunks_total,
                operations_total=stored.operations_total,
                inline=stored.inline,
                # A retry of somebody without a trace stays in that of the first.
                trace_context=current_carrier() or empty.trace_context,
            )
            # With a key of our own where none is given, so that a repeated request is safe.
            key = idempotency_key or uuid.uuid4().hex
            self._store_manifest(queue, new, key)
            submission_id = self._insert(queue, new, key)
            span.note(
                spans.sent(
                    submission_id,
                    chunks_total=new.chunks_total,
                    operations_total=new.operations_total,
                    is_inline=new.inline is not None,
                )
            )
        return submission_id

    def _reach_api(self) -> None:
        """Find out that nobody listens before an hour of uploads, not after; only once."""
        if not self._has_reached_api:
            self._api.version()
            self._has_reached_api = True

    def _store_manifest(self, queue: str, new: NewSubmission, idempotency_key: str) -> None:
        try:
            store_manifest(self._store, queue, new, idempotency_key)
        except BaseException:
            self._discard(new)
            raise

    def _insert(self, queue: str, new: NewSubmission, idempotency_key: str) -> SubmissionId:
        try:
            submission = self._api.insert(queue, new, idempotency_key)
        except IncorrectUsageError:
            # Only a refusal: after a lost answer a submission may be using these objects.
            owner = self._discard_unless_owned(queue, new)
            if owner is None:
                raise
            return owner
        if submission.prefix == new.prefix:
            return submission.id
        return self._discard_unless_owned(queue, new) or submission.id

    def _discard_unless_owned(self, queue: str, new: NewSubmission) -> SubmissionId | None:
        def owner_of(prefix: str) -> SubmissionId | None:
            try:
                return self._api.lookup_prefix(queue, prefix)
            except IncorrectUsageError:  # refused, as the insert
                return None

        return discard_unless_owned(self._store, new, owner_of)

    def _discard(self, new: NewSubmission) -> None:
        if new.inline is None:
            discard(self._store, new.prefix)
