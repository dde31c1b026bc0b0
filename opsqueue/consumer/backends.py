"""The back end of a consumer: the queue's own interface, which Redis and the HTTP API implement.

`Queue` (opsqueue/queue) is Redis's implementation, `HttpChunkQueue` (in http_api.py) asks the API.
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

    Every method raises an error of ConnectionTroubleError's kind when there is no answer: what was
    asked for may have happened, and may be asked for again.
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

        Where that is possible, `is_gone` is asked about once a second; nothing is reserved any
        more when it is True.
        """

    def complete_chunks(
        self,
        tokens: Sequence[Token],
        *,
        operations_failed: Mapping[Token, int],
        outputs: Mapping[Token, bytes],
    ) -> list[CompleteOutcome]:
        """Report chunks as done, with the number of their operations that failed.

        Their output is stored, unless it comes along, see `Source.inline_output_bytes`.
        """

    def fail_chunk(
        self, token: Token, failure: ChunkFailure, /, *, is_final: bool = False
    ) -> FailOutcome:
        """Report that an attempt failed; with `is_final` there is no further one."""

    def release_chunks(
        self, tokens: Sequence[Token], *, delay_ms: int = 0, reason: str = ""
    ) -> list[ReleaseOutcome]:
        """Release chunks without using an attempt; `reason` is shown with their submissions."""

    def heartbeat(
        self, worker: str, *, tokens: Iterable[Token], info: bytes, timeout_ms: int | None
    ) -> Alive:
        """Send a heartbeat with what the worker holds; return what of that is revoked."""

    def list_workers(self) -> Sequence[WorkerSeen]:
        """List the queue's workers that have not gone, the ones seen last first."""

    def retire_worker(self, worker: str) -> None:
        """Sign off; what is still held is released."""
