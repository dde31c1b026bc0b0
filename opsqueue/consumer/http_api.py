"""The HTTP API as `ChunkApi`: which requests answer what; `http/client.py` makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast
from urllib.parse import quote

import msgspec

from opsqueue.exceptions import InvalidArgumentError, WrongAnswerError
from opsqueue.http.chunk_wire import (
    AliveBody,
    AnyOutcome,
    CompleteBody,
    DoneBody,
    FailBody,
    FailedBody,
    HeartbeatBody,
    OutcomesBody,
    ReleaseBody,
    ReserveBody,
    ReservedBody,
)
from opsqueue.http.client import (
    CALL_PATIENCE,
    JSON_TYPE,
    Body,
    HttpClient,
    Patience,
    Transport,
    queue_path,
)
from opsqueue.model.answers import Alive
from opsqueue.model.chunk import (
    ChunkFailure,
    CompleteOutcome,
    FailOutcome,
    ReleaseOutcome,
    Reservation,
    Token,
)
from opsqueue.model.names import checked_worker
from opsqueue.strategy import AnyStrategy

_ONCE = Patience(repeats=0)
"""Who waits, or beats, asks again by itself."""


class HttpChunkApi(HttpClient):
    """The chunks of one queue over HTTP.

    Args:
        api_url: http://host:port, https://…, or host:port alone.
        queue: whose chunks.
        worker: the name under which they are held.
        token: sent as a bearer token.
        timeout_ms: after so long a silence the worker is dead; None: as the API says.
        transport: for tests, such as `httpx.WSGITransport(app)`.

    Raises:
        InvalidArgumentError: of the arguments.
    """

    def __init__(
        self,
        api_url: str,
        queue: str,
        worker: str,
        *,
        token: str | None = None,
        timeout_ms: int | None = None,
        transport: Transport | None = None,
    ) -> None:
        """Connect to nothing yet."""
        if "/" in checked_worker(worker):
            message = f"worker name {worker!r}: over HTTP it can't have a slash"
            raise InvalidArgumentError(message)
        self._queue = queue
        self._worker = worker
        self._timeout_ms = timeout_ms
        self._chunks = f"{queue_path(queue)}/chunks"
        self._worker_path = f"{queue_path(queue)}/workers/{quote(worker, safe='')}"
        super().__init__(api_url, token=token, transport=transport)

    def check(self) -> None:
        """See `ChunkApi`."""
        self._ask_version()

    def reserve(
        self,
        *,
        limit: int,
        reservation_ms: int,
        strategy: AnyStrategy,
        wait_s: float,
        is_gone: Callable[[], bool],  # noqa: ARG002 a request under way can't be taken back
    ) -> Sequence[Reservation]:
        """See `ChunkApi`."""
        body = ReserveBody(
            worker=self._worker,
            max=limit,
            reservation_ms=reservation_ms,
            strategy=str(strategy),
            wait=wait_s,
            heartbeat_timeout_ms=self._timeout_ms,
        )
        # Not repeated here: after a lost answer chunks are held unnoticed until a heartbeat frees
        # them, and more of them must not pile up within a second.
        reserved = self._post(
            f"{self._chunks}/reserve", body, ReservedBody, wait_s=wait_s, patience=_ONCE
        )
        return [chunk.to_reservation(self._queue) for chunk in reserved.chunks]

    def complete(
        self, token: Token, *, operations_failed: int = 0, output: bytes | None = None
    ) -> CompleteOutcome:
        """See `ChunkApi`."""
        encoded = msgspec.UNSET if output is None else output
        done = DoneBody(token=token, operations_failed=operations_failed, output=encoded)
        body = CompleteBody(chunks=[done])
        return cast(CompleteOutcome, self._report("complete", body, [token])[0])

    def fail(self, token: Token, failure: ChunkFailure) -> FailOutcome:
        """See `ChunkApi`."""
        body = FailBody(chunks=[FailedBody.of(token, failure)])
        return cast(FailOutcome, self._report("fail", body, [token])[0])

    def release(self, tokens: Sequence[Token], *, delay_ms: int = 0) -> list[ReleaseOutcome]:
        """See `ChunkApi`."""
        body = ReleaseBody(tokens=list(tokens), delay_ms=delay_ms)
        return cast("list[ReleaseOutcome]", self._report("release", body, tokens))

    def heartbeat(self, tokens: Sequence[Token], info: bytes) -> Alive:
        """See `ChunkApi`."""
        body = HeartbeatBody(
            tokens=list(tokens), info=msgspec.json.decode(info), timeout_ms=self._timeout_ms
        )
        path = f"{self._worker_path}/heartbeat"
        alive = self._post(path, body, AliveBody, patience=_ONCE).to_alive()
        if not alive.void <= set(tokens):
            raise self._wrong_tokens(path)
        return alive

    def retire(self) -> None:
        """See `ChunkApi`."""
        response = self._send("DELETE", self._worker_path)
        if not response.is_success:
            raise self._error(response, self._queue, None)

    def _report(self, verb: str, body: msgspec.Struct, tokens: Sequence[Token]) -> list[AnyOutcome]:
        path = f"{self._chunks}/{verb}"
        outcomes = self._post(path, body, OutcomesBody).outcomes
        if [outcome.token for outcome in outcomes] != list(tokens):
            raise self._wrong_tokens(path)
        return [outcome.to_outcome() for outcome in outcomes]

    def _wrong_tokens(self, path: str) -> WrongAnswerError:
        return self._wrong_answer("POST", path, "it is about other chunks")

    def _post(
        self,
        path: str,
        body: msgspec.Struct,
        answer: type[Body],
        *,
        wait_s: float = 0,
        patience: Patience = CALL_PATIENCE,
    ) -> Body:
        response = self._send(
            "POST",
            path,
            patience=patience,
            body_wait_s=wait_s,
            content=self._encoded(body),
            headers=JSON_TYPE,
        )
        return self._read(response, answer, self._queue)
