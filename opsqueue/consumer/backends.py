"""The back end of a consumer: an interface that Redis and the HTTP API implement.

`Queue` (opsqueue/queue) implements it on Redis, `HttpChunkQueue` (in http_api.py) on the API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from opsqueue.model.answers import Alive, Reserved, WorkerSeen
from opsqueue.model.chunk import (
    ChunkFailure,
    CompleteOutcome,
    FailOutcome,
    ReleaseOutcome,
    Token,
)
from opsqueue.strategy import AnyStrategy


class ConsumerQueue(Protocol):
    """The chunks of one queue; see the methods of `Queue`.

    Every method raises a ConnectionTroubleError if there is no answer. The operation may have taken
    effect nevertheless; it is safe to repeat it.
    """

    @property
    def name(self) -> str:
        """The queue's name."""

    def reserve_when_free(
        self,
        worker: str,
        *,
        limit: int,
        reservation_ms: int,
        strategy: AnyStrategy,
        heartbeat_timeout_ms: int | None,
        wait_s: float,
        is_gone: Callable[[], bool],
    ) -> Reserved:
        """Reserve up to `limit` chunks; wait up to `wait_s` for the first, or less.

        Where that is possible, `is_gone` is called about once a second; if it returns True, nothing
        more is reserved.
        """

    def complete_chunks(
        self,
        tokens: Sequence[Token],
        *,
        operations_failed: Mapping[Token, int],
        outputs: Mapping[Token, bytes],
    ) -> list[CompleteOutcome]:
        """Report chunks as done, with the number of their operations that failed.

        Each chunk's output has been stored, unless it is in `outputs`, see
        `Source.inline_output_bytes`.
        """

    def fail_chunk(
        self, token: Token, failure: ChunkFailure, /, *, is_final: bool = False
    ) -> FailOutcome:
        """Report that an attempt failed; with `is_final` the chunk is not tried again."""

    def release_chunks(
        self, tokens: Sequence[Token], *, delay_ms: int = 0, reason: str = ""
    ) -> list[ReleaseOutcome]:
        """Release chunks without using an attempt; `reason` is shown with their submissions."""

    def heartbeat(
        self, worker: str, *, tokens: Iterable[Token], info: bytes, timeout_ms: int | None
    ) -> Alive:
        """Send a heartbeat with the reservations that the worker holds; return the revoked ones."""

    def list_workers(self) -> Sequence[WorkerSeen]:
        """List the queue's registered workers, the most recently seen first."""

    def retire_worker(self, worker: str) -> None:
        """Remove a worker; the chunks that it still holds are released."""
