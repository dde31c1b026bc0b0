"""The back end of a consumer: one interface to chunks, which Redis and the HTTP API implement.

`HttpChunkApi` (in http_api.py) asks the HTTP API; `QueueChunkApi` (in redis_api.py) asks Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from opsqueue.model.answers import Alive
from opsqueue.model.chunk import (
    ChunkFailure,
    CompleteOutcome,
    FailOutcome,
    ReleaseOutcome,
    Reservation,
    Token,
)
from opsqueue.strategy import AnyStrategy


class ChunkApi(Protocol):
    """The chunks of one queue in one worker's hands, in values.

    Every method raises an error of ConnectionTroubleError's kind when there is no answer: what was
    asked for may have happened, and may be asked for again.
    """

    @property
    def url(self) -> str:
        """Names who answers, without credentials."""

    def check(self) -> None:
        """Find out whether anybody answers, before the first chunk; may be repeated."""

    def reserve(
        self,
        *,
        limit: int,
        reservation_ms: int,
        strategy: AnyStrategy,
        wait_s: float,
        is_gone: Callable[[], bool],
    ) -> Sequence[Reservation]:
        """Reserve up to `limit` chunks; wait up to `wait_s` for the first, or less.

        Who can asks `is_gone` about once a second, and takes nothing any more when it is True.
        """

    def complete(
        self, token: Token, *, operations_failed: int = 0, output: bytes | None = None
    ) -> CompleteOutcome:
        """Report a chunk as done, with the errors of so many operations.

        Its output is stored, unless it comes along, see `Source.inline_output_bytes`.
        """

    def fail(self, token: Token, failure: ChunkFailure) -> FailOutcome:
        """Report that an attempt failed."""

    def release(self, tokens: Sequence[Token], *, delay_ms: int = 0) -> list[ReleaseOutcome]:
        """Release chunks without using an attempt."""

    def heartbeat(self, tokens: Sequence[Token], info: bytes) -> Alive:
        """Send a heartbeat with what the worker holds; return what of that is void."""

    def retire(self) -> None:
        """Sign off; what is still held is released."""
