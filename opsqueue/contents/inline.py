"""Where the contents of small submissions are read: in Redis first, then in the store.

A submission whose encoded inputs are few and small together is inserted with them, and its chunks
are handed out with them. Its small outputs come with the reports. What is larger lies in the store,
as for every other submission. The I/O is that of what is asked.
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
"""Of contents."""

_KINDS: Final[Mapping[str, Kind]] = {"in": "inputs", "out": "outputs"}


class InlineOf(Protocol):
    """What Redis has of a submission: all of a kind, or of one chunk."""

    def __call__(
        self, submission_id: SubmissionId, kind: Kind, index: int | None = None
    ) -> Mapping[int, bytes]:
        """Give encoded contents by chunk."""


class InlineFirst:
    """Objects of a small submission, by the keys that they would have in the store.

    Args:
        submission: as it was when it was looked at.
        store: has what Redis does not.
        inline_of: asked when the first is read, once a kind; while the submission runs, for each
            output anew, since it may have come in between.
    """

    def __init__(self, submission: Submission, store: Readable, inline_of: InlineOf) -> None:
        self._submission = submission
        self._store = store
        self._inline_of = inline_of
        self._lock = threading.Lock()
        self._found: dict[Kind, Mapping[int, bytes]] = {}

    def get(self, key: str) -> bytes:
        """Give an object's content; see `ObjectStore.get`."""
        kind, index = _parsed(key)
        if self._is_growing(kind):
            data = self._inline_of(self._submission.id, kind, index).get(index)
        else:
            data = self._look_up(kind, index)
        return self._store.get(key) if data is None else data

    def at_hand(self, key: str) -> bytes | None:
        """Give an object's content; see `HasAtHand.at_hand`. The first one asks Redis for all."""
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
    """Give what reads a submission's objects, wherever they are; asks nothing yet."""
    return InlineFirst(submission, store, inline_of) if submission.is_inline else store
