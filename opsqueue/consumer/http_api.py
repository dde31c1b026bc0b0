"""The HTTP API as a consumer's back end: the request behind each method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast
from urllib.parse import quote

import msgspec

from opsqueue.exceptions import WrongAnswerError
from opsqueue.http.bodies import (
    AnyOutcome,
    CompleteBody,
    DoneBody,
    FailBody,
    FailedChunkBody,
    HeartbeatBody,
    OutcomesBody,
    ReleaseBody,
    ReserveBody,
    ReservedBody,
    WorkersBody,
)
from opsqueue.http.client import (
    CALL_PATIENCE,
    JSON_TYPE,
    Body,
    HttpClient,
    Patience,
    queue_path,
)
from opsqueue.model.answers import Alive, Reserved, WorkerSeen
from opsqueue.model.chunk import (
    MAX_REASON_CHARACTERS,
    ChunkFailure,
    CompleteOutcome,
    FailOutcome,
    ReleaseOutcome,
    Token,
    encodable,
)
from opsqueue.model.names import checked_worker_in_path
from opsqueue.strategy import AnyStrategy

_ONCE = Patience(repeats=0)
"""The patience of waits and heartbeats, which the caller repeats anyway."""


class HttpChunkQueue:
    """The chunks of one queue over HTTP."""

    def __init__(self, client: HttpClient, name: str) -> None:
        """Make no request yet."""
        self._path = queue_path(name)
        self._client = client
        self.name = name

    def reserve_when_free(
        self,
        worker: str,
        *,
        limit: int,
        reservation_ms: int,
        strategy: AnyStrategy,
        heartbeat_timeout_ms: int | None,
        wait_s: float,
        is_gone: Callable[[], bool],  # noqa: ARG002 a request can't be withdrawn
    ) -> Reserved:
        """See `ConsumerQueue`."""
        body = ReserveBody(
            worker=worker,
            max=limit,
            reservation_ms=reservation_ms,
            strategy=str(strategy),
            wait=wait_s,
            heartbeat_timeout_ms=heartbeat_timeout_ms,
            share_metadata=True,
        )
        # Not repeated here: after a lost answer chunks stay reserved, without our knowledge, until
        # a heartbeat frees them. Repetitions would add more of them within a second.
        reserved = self._post("chunks/reserve", body, ReservedBody, wait_s=wait_s, patience=_ONCE)
        return Reserved(
            chunks=reserved.to_reservations(self.name),
            is_paused=reserved.is_paused,
            next_due_in_ms=reserved.next_due_in_ms,
        )

    def complete_chunks(
        self,
        tokens: Sequence[Token],
        *,
        operations_failed: Mapping[Token, int],
        outputs: Mapping[Token, bytes],
    ) -> list[CompleteOutcome]:
        """See `ConsumerQueue`."""
        chunks = [
            DoneBody(
                token=token,
                operations_failed=operations_failed.get(token, 0),
                output=outputs.get(token, msgspec.UNSET),
            )
            for token in tokens
        ]
        body = CompleteBody(chunks=chunks)
        return cast("list[CompleteOutcome]", self._report("complete", body, tokens))

    def fail_chunk(
        self, token: Token, failure: ChunkFailure, /, *, is_final: bool = False
    ) -> FailOutcome:
        """See `ConsumerQueue`."""
        body = FailBody(chunks=[FailedChunkBody.reporting(token, failure)], is_final=is_final)
        return cast(FailOutcome, self._report("fail", body, [token])[0])

    def release_chunks(
        self, tokens: Sequence[Token], *, delay_ms: int = 0, reason: str = ""
    ) -> list[ReleaseOutcome]:
        """See `ConsumerQueue`."""
        reason = encodable(reason[:MAX_REASON_CHARACTERS])
        body = ReleaseBody(tokens=list(tokens), delay_ms=delay_ms, reason=reason)
        return cast("list[ReleaseOutcome]", self._report("release", body, tokens))

    def heartbeat(
        self, worker: str, *, tokens: Iterable[Token], info: bytes, timeout_ms: int | None
    ) -> Alive:
        """See `ConsumerQueue`."""
        tokens = list(tokens)
        body = HeartbeatBody(
            tokens=list(tokens), info=msgspec.json.decode(info), timeout_ms=timeout_ms
        )
        path = f"workers/{worker_in_path(worker)}/heartbeat"
        alive = self._post(path, body, Alive, patience=_ONCE)
        if not alive.revoked <= set(tokens):
            raise self._wrong_tokens(path)
        return alive

    def list_workers(self) -> Sequence[WorkerSeen]:
        """See `ConsumerQueue`."""
        response = self._client.send("GET", f"{self._path}/workers", patience=_ONCE)
        return self._client.read(response, WorkersBody, self.name).workers

    def retire_worker(self, worker: str) -> None:
        """See `ConsumerQueue`."""
        response = self._client.send("DELETE", f"{self._path}/workers/{worker_in_path(worker)}")
        if not response.is_success:
            raise self._client.error(response, self.name, None)

    def _report(self, verb: str, body: msgspec.Struct, tokens: Sequence[Token]) -> list[AnyOutcome]:
        path = f"chunks/{verb}"
        outcomes = self._post(path, body, OutcomesBody).outcomes
        if [outcome.token for outcome in outcomes] != list(tokens):
            raise self._wrong_tokens(path)
        return [outcome.to_outcome() for outcome in outcomes]

    def _wrong_tokens(self, path: str) -> WrongAnswerError:
        return self._client.wrong_answer("POST", f"{self._path}/{path}", "it is about other chunks")

    def _post(
        self,
        path: str,
        body: msgspec.Struct,
        answer: type[Body],
        *,
        wait_s: float = 0,
        patience: Patience = CALL_PATIENCE,
    ) -> Body:
        response = self._client.send(
            "POST",
            f"{self._path}/{path}",
            patience=patience,
            body_wait_s=wait_s,
            content=self._client.encoded(body),
            headers=JSON_TYPE,
        )
        return self._client.read(response, answer, self.name)


def worker_in_path(worker: str) -> str:
    """Return a worker's name quoted for a path, or raise InvalidArgumentError."""
    return quote(checked_worker_in_path(worker), safe="")
