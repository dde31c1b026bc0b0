"""The insert of a submission: store its chunks, then add it to the queue.

`ProducerClient` and the API share this code. If the insert is refused, the stored chunks are
deleted again. All I/O goes through the object store and a `ProducerQueue`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from opsqueue.contents.chunks import (
    check_inline_bytes,
    discard,
    discard_unless_owned,
    store_operations,
)
from opsqueue.contents.codec import Codec, is_raw
from opsqueue.contents.fingerprint import OperationsDigest, inline_digest
from opsqueue.exceptions import IncorrectUsageError, InvalidArgumentError
from opsqueue.http.manifest import store_manifest
from opsqueue.model.answers import Inserted
from opsqueue.model.checks import shown
from opsqueue.model.names import check_own_prefix
from opsqueue.model.new_submission import NewSubmission, fits_inline
from opsqueue.model.process import Origin
from opsqueue.model.submission import SubmissionId
from opsqueue.producer.backends import ProducerQueue
from opsqueue.store import ObjectStore, input_key
from opsqueue.store.base import check_format
from opsqueue.store.parallel import DEFAULT_AT_ONCE, create_many
from opsqueue.tracing import spans


def check_is_operations(ops: object) -> None:
    """Refuse values that are not iterable, or whose items are hardly meant as operations.

    Raises:
        InvalidArgumentError: the message has what was probably meant.
    """
    kind = type(ops)
    if isinstance(ops, str | bytes | bytearray | memoryview):
        message = f"{shown(ops)} would be one operation per character: give a list of operations"
    elif isinstance(ops, Mapping):
        message = (
            f"ops is a {kind.__name__}, whose keys would be the operations: give "
            "ops.items(), ops.values(), or [ops] for one operation"
        )
    elif _is_data_frame(kind):
        message = (
            f"ops is a {kind.__name__}, whose columns or their names would be the operations: give "
            "its rows, such as ops.to_dict('records') of pandas, ops.to_dicts() of polars or "
            "ops.to_pylist() of pyarrow"
        )
    elif not any(hasattr(kind, name) for name in ("__iter__", "__aiter__", "__getitem__")):
        message = f"ops is {shown(ops)}: give an iterable, such as a list of operations"
    else:
        return
    raise InvalidArgumentError(message)


def _is_data_frame(kind: type) -> bool:
    """Return whether a type is a data frame, such as those of pandas, polars and pyarrow."""
    # Not group_by: database queries have it, too, and their items are rows.
    marks = ("__dataframe__", "groupby", "collect_schema")
    return hasattr(kind, "columns") and any(hasattr(kind, mark) for mark in marks)


class SubmissionInserter:
    """Inserts submissions into one queue; safe to use from several threads.

    Args:
        queue: the queue.
        store: the object store for the chunks; it is not closed here.
        at_once: how many objects are uploaded in parallel.
        inline_bytes: submissions whose encoded chunks are at most this large together go to the
            queue only.
    """

    def __init__(
        self,
        queue: ProducerQueue,
        store: ObjectStore,
        *,
        at_once: int = DEFAULT_AT_ONCE,
        inline_bytes: int,
    ) -> None:
        """Make no request yet."""
        self._queue = queue
        self._store = store
        self._at_once = at_once
        self._inline_bytes = check_inline_bytes(inline_bytes)

    def insert(
        self,
        empty: NewSubmission,
        operations: Iterable[Any],
        codec: Codec,
        idempotency_key: str,
        *,
        is_compared: bool = False,
    ) -> Inserted:
        """Store operations under the prefix of a submission that has none yet, and insert it.

        With the codec `raw`, each item is a whole chunk and counts as `chunk_size` operations.

        Args:
            empty: the submission, without its operations.
            operations: consumed once.
            codec: of the chunks.
            idempotency_key: remembered by the queue.
            is_compared: the operations arrive as JSON; a repetition must have the same ones.

        Raises:
            The errors of `store_operations` and `ProducerQueue.insert_submission`.
        """
        origin = Origin()
        digest = OperationsDigest() if is_compared and idempotency_key else None
        operations_an_item = empty.chunk_size if is_raw(codec.name) else 1
        with spans.store_inputs():
            stored = store_operations(
                self._store,
                operations if digest is None else digest.of(operations),
                prefix=empty.prefix,
                chunk_size=empty.chunk_size // operations_an_item,
                codec=codec,
                inline_bytes=self._inline_bytes,
                at_once=self._at_once,
            )
        origin.check("a submission", "end the child that the iterable of operations has forked")
        new = replace(
            empty,
            chunks_total=stored.chunks_total,
            operations_total=stored.operations_total * operations_an_item,
            inline=stored.inline,
            contents_digest="" if digest is None else str(digest),
        )
        return self._insert_stored(new, idempotency_key, is_prefix_fresh=True)

    def insert_encoded(self, new: NewSubmission, idempotency_key: str) -> Inserted:
        """Insert a submission whose chunks its producer has stored, or sends along encoded.

        Chunks sent along are stored first if they are too large for this side's `inline_bytes`.

        Raises:
            InvalidArgumentError: its prefix has another form.
            PrefixTakenError: another submission has its prefix.
            The errors of `ProducerQueue.insert_submission`.
        """
        check_own_prefix(new.prefix, self._queue.name)
        if (
            new.inline is None
            or fits_inline(new.inline, self._inline_bytes)
            # The prefix is taken: nothing may be stored there, not even the manifest that an upload
            # lacks. The queue accepts a repetition with a known key and refuses anything else.
            or self._queue.lookup_prefix(new.prefix) is not None
        ):
            return self._queue.insert_submission(new, idempotency_key=idempotency_key)
        check_format(self._store)
        items = ((input_key(new.prefix, index), data) for index, data in enumerate(new.inline))
        create_many(self._store, items)
        digest = inline_digest(new.codec, new.inline) if idempotency_key else ""
        stored = replace(new, inline=None, contents_digest=digest)
        return self._insert_stored(stored, idempotency_key, is_prefix_fresh=False)

    def _insert_stored(
        self, new: NewSubmission, idempotency_key: str, *, is_prefix_fresh: bool
    ) -> Inserted:
        """Insert a submission whose chunks were stored here; delete them if it is not inserted.

        If a submission has a prefix that was generated here, it is this very submission: an earlier
        request inserted it, and its answer was lost. A prefix that a client chose may belong to
        another submission.
        """
        try:
            store_manifest(self._store, self._queue.name, new, idempotency_key)
        except BaseException:
            if new.inline is None:
                discard(self._store, new.prefix)
            raise
        try:
            inserted = self._queue.insert_submission(new, idempotency_key=idempotency_key)
        except IncorrectUsageError:
            # Only after a refusal: after a lost answer a submission may be using these objects.
            owner = self._discard_unless_owned(new)
            if owner is None or not is_prefix_fresh:
                raise
            return Inserted(id=owner, is_new=False)
        if inserted.submission is not None and inserted.submission.prefix == new.prefix:
            return inserted
        owner = self._discard_unless_owned(new)
        return inserted if owner is None else Inserted(id=owner, is_new=False)

    def _discard_unless_owned(self, new: NewSubmission) -> SubmissionId | None:
        def owner_of(prefix: str) -> SubmissionId | None:
            try:
                return self._queue.lookup_prefix(prefix)
            except IncorrectUsageError:  # refused like the insert
                return None

        return discard_unless_owned(self._store, new, owner_of)
