"""Reading the contents of small submissions: from Redis first, then from the store.

A submission whose encoded inputs are few and small together is inserted with them, and its chunks
are reserved with them. Its small outputs are sent with the reports. Larger outputs are in the
store, as for every other submission. All I/O goes through the given queue and store.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, Protocol

from opsqueue.model.submission import SubmissionState

if TYPE_CHECKING:
    from opsqueue.model.submission import Submission, SubmissionId
    from opsqueue.store.base import Readable

Kind = Literal["inputs", "outputs"]
"""The kinds of contents."""

_KINDS: Final[Mapping[str, Kind]] = {"in": "inputs", "out": "outputs"}


class InlineOf(Protocol):
    """A function that reads a submission's contents in Redis: all of a kind, or one chunk's."""

    def __call__(
        self, submission_id: SubmissionId, kind: Kind, index: int | None = None
    ) -> Mapping[int, bytes]:
        """Return encoded contents by chunk."""


class InlineFirst:
    """The objects of a small submission, by the keys that they would have in the store.

    Args:
        submission: the submission, in the state in which it was read.
        store: the store with the objects that are not in Redis.
        inline_of: reads contents from Redis. It is called once for each kind, with the first read.
            While the submission runs it is called for each output, which may be new.
    """

    def __init__(self, submission: Submission, store: Readable, inline_of: InlineOf) -> None:
        self._submission = submission
        self._store = store
        self._inline_of = inline_of
        self._lock = threading.Lock()
        self._found: dict[Kind, Mapping[int, bytes]] = {}

    def get(self, key: str) -> bytes:
        """Return an object's content; see `ObjectStore.get`."""
        kind, index = _parsed(key)
        if self._is_growing(kind):
            data = self._inline_of(self._submission.id, kind, index).get(index)
        else:
            data = self._look_up(kind, index)
        return self._store.get(key) if data is None else data

    def at_hand(self, key: str) -> bytes | None:
        """Return an object's content; see `HasAtHand.at_hand`. Reads all of a kind at once."""
        kind, index = _parsed(key)
        return None if self._is_growing(kind) else self._look_up(kind, index)

    def _is_growing(self, kind: Kind) -> bool:
        return kind == "outputs" and self._submission.state is not SubmissionState.COMPLETED

    def _look_up(self, kind: Kind, index: int) -> bytes | None:
        id_ = self._submission.id
        with self._lock:
            if kind not in self._found:
                self._found[kind] = self._inline_of(id_, kind)
            return self._found[kind].get(index)


def _parsed(key: str) -> tuple[Kind, int]:
    index, _, suffix = key.rpartition("/")[2].partition("-")
    return _KINDS[suffix], int(index)


def reader_of(submission: Submission, store: Readable, inline_of: InlineOf) -> Readable:
    """Return a reader for a submission's objects, wherever they are; it makes no request yet."""
    return InlineFirst(submission, store, inline_of) if submission.is_inline else store
