"""Chunks for consumers in any language: reserving with a long poll, reporting, and heartbeats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import falcon
import msgspec

from opsqueue.contents.output import Encoded
from opsqueue.exceptions import OpsqueueError, SubmissionNotFoundError
from opsqueue.http.bodies import (
    AliveBody,
    ChunkBody,
    CompleteBody,
    DoneBody,
    FailBody,
    HeartbeatBody,
    OutcomesBody,
    ProblemType,
    ReleaseBody,
    ReserveBody,
    ReservedBody,
    SharedBody,
)
from opsqueue.model.chunk import CompleteOutcome, Dropped, Lost, ReleaseOutcome, Reservation, Token
from opsqueue.model.names import checked_worker_in_path
from opsqueue.model.submission import SubmissionState
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore, input_key
from opsqueue.store.parallel import DEFAULT_AT_ONCE
from opsqueue.strategy import read_strategy
from opsqueue_api.http.auth import Need
from opsqueue_api.http.body import decode, read_body
from opsqueue_api.http.long_polls import LongPolls
from opsqueue_api.http.operation import Content, operation
from opsqueue_api.http.parameters import write
from opsqueue_api.http.problem import ProblemError, invalid, too_large
from opsqueue_api.http.settings import Limits
from opsqueue_api.http.streams import has_closed
from opsqueue_api.resources.chunk_contents import (
    ChunkInput,
    ChunkOutput,
    operations_of,
    sent_output,
    stored_failures,
    stored_output,
)
from opsqueue_api.resources.metrics import ChunkDurations
from opsqueue_api.resources.queues import QueueOf

MAX_INFO_BYTES: Final = 4_096
_SMALL_BYTES: Final = 1024 * 1024
"""Limit of bodies without contents; more than 10,000 tokens fit into it."""

_RESERVE: Final = msgspec.json.Decoder(ReserveBody)
_COMPLETE: Final = msgspec.json.Decoder(CompleteBody)
_FAIL: Final = msgspec.json.Decoder(FailBody)
_RELEASE: Final = msgspec.json.Decoder(ReleaseBody)
_HEARTBEAT: Final = msgspec.json.Decoder(HeartbeatBody)


@dataclass(frozen=True, slots=True)
class ReserveChunks:
    """`.../chunks/reserve`."""

    queue_of: QueueOf
    store: ObjectStore
    long_polls: LongPolls
    timeout_ms: int
    """Heartbeat timeout of workers that do not send their own."""
    limits: Limits

    @operation(body=(Content(ReserveBody),), answers=ReservedBody)
    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """Reserve chunks, at once or as soon as there are any; the answer may have none."""
        on = self.queue_of(queue)
        body = decode(read_body(req, limit_bytes=_SMALL_BYTES), _RESERVE)
        strategy = read_strategy(body.strategy)
        is_gone = partial(has_closed, req.env.get("gunicorn.socket"))
        with self.long_polls.room_for(body.wait) as wait_s:
            reserved = on.reserve_when_free(
                checked_worker_in_path(body.worker),
                limit=body.max,
                reservation_ms=body.reservation_ms,
                strategy=strategy,
                heartbeat_timeout_ms=body.heartbeat_timeout_ms or self.timeout_ms,
                wait_s=wait_s,
                is_gone=lambda: self.long_polls.is_stopping() or is_gone(),
                repeats_metadata=not body.share_metadata,
            )
        chunk_of = self._with_operations() if body.include_operations else ChunkBody.of
        chunks = [chunk_of(chunk) for chunk in reserved.chunks]
        shared: list[SharedBody] | msgspec.UnsetType = msgspec.UNSET
        if body.share_metadata:
            chunks = [chunk.without_shared() for chunk in chunks]
            sources = {chunk.source.submission_id: chunk.source for chunk in reserved.chunks}
            shared = [SharedBody.of(source) for source in sources.values()]
        write(
            resp,
            ReservedBody(
                chunks=chunks,
                is_paused=reserved.is_paused,
                next_due_in_ms=reserved.next_due_in_ms,
                shared=shared,
            ),
        )

    def _with_operations(self) -> Callable[[Reservation], ChunkBody]:
        """Return a function that makes the bodies of one answer's chunks, with operations."""
        limit_bytes = left_bytes = self.limits.chunk_bytes

        def chunk_of(chunk: Reservation) -> ChunkBody:
            nonlocal left_bytes
            # Never an error of the whole answer: the chunks are reserved and must be reported to
            # the client.
            try:
                if left_bytes <= 0:
                    message = (
                        f"the operations of this answer have reached the API's limit of "
                        f"{limit_bytes:,} bytes (max-chunk-bytes): get these from input_url"
                    )
                    raise too_large(message)
                data = chunk.input
                if data is None:
                    data = self.store.get(input_key(chunk.source.prefix, chunk.chunk_index))
                count = chunk.source.operations_in(chunk.chunk_index)
                found = operations_of(chunk.source.codec, data, count, limit_bytes)
            except (ProblemError, OpsqueueError) as exc:
                return ChunkBody.of(chunk, operations=None, problem=str(exc))
            left_bytes -= len(bytes(found))
            return ChunkBody.of(chunk, operations=found)

        return chunk_of


@dataclass(frozen=True, slots=True)
class CompleteChunks:
    """`.../chunks/complete`."""

    queue_of: QueueOf
    store: ObjectStore
    limits: Limits
    durations: ChunkDurations

    @operation(
        body=(Content(CompleteBody),),
        answers=OutcomesBody,
        problems=(ProblemType.OUTPUT_REFUSED, ProblemType.NOT_JSON, ProblemType.INVALID_ARGUMENT),
    )
    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """Complete chunks, after storing the outputs in the request.

        Each chunk needs a readable output with a result or an error for each operation: `results`
        or `output` here, or an output that is stored already. An output that is stored already is
        kept. If a chunk has no output, the whole request is refused, and all of its chunks stay
        reserved.
        """
        on = self.queue_of(queue)
        body = decode(read_body(req, limit_bytes=self.limits.body_bytes), _COMPLETE)
        tokens = [Token(done.token) for done in body.chunks]
        # By what the token holds, not by what the consumer says of it.
        held = on.get_reservations(tokens)
        stored = self._store_outputs(on, body, held)
        failed = {token: count for token, count in stored.items() if count is not None}
        # A chunk without a readable output was dropped with its submission, but a retry may have
        # continued that since then. So the chunk is released.
        unread = [token for token, count in stored.items() if count is None]
        outcomes = dict(zip(unread, map(_given_back, on.release_chunks(unread)), strict=True))
        others = [token for token in tokens if token not in outcomes]
        completed = on.complete_chunks(others, operations_failed=failed)
        self.durations.count(queue, held, zip(others, completed, strict=True))
        following = iter(completed)
        write(
            resp,
            OutcomesBody.of(tokens, [outcomes.get(token) or next(following) for token in tokens]),
        )

    def _store_outputs(
        self, on: Queue, body: CompleteBody, held: Mapping[Token, Reservation]
    ) -> dict[Token, int | None]:
        """Store the outputs in the request; return how many operations failed in each.

        The number is None for a chunk whose output can't be read and whose submission has ended.
        """
        # A lost chunk is ignored, since it is another worker's. Of two reports of one chunk the
        # first counts.
        reports: dict[str, tuple[Reservation, DoneBody]] = {}
        for done in body.chunks:
            chunk = held.get(Token(done.token))
            if chunk is not None:
                reports.setdefault(str(chunk), (chunk, done))
        if not reports:
            return {}
        chunks = [chunk for chunk, _ in reports.values()]
        with ThreadPoolExecutor(min(DEFAULT_AT_ONCE, len(reports))) as pool:
            # All are checked before any is stored, and all are stored before any is reported.
            outputs = list(pool.map(lambda one: self._checked(on, *one), reports.values()))
            counts = pool.map(partial(self._stored, on), chunks, outputs)
            return {chunk.token: count for chunk, count in zip(chunks, counts, strict=True)}

    def _checked(self, on: Queue, chunk: Reservation, done: DoneBody) -> Encoded | int | None:
        """Return the reported output, or how many operations failed in the stored one."""
        with _unless_ended(on, chunk):
            if done.has_contents:
                return sent_output(done, chunk, self.limits.chunk_bytes)
            return stored_failures(self.store, chunk)
        return None

    def _stored(self, on: Queue, chunk: Reservation, output: Encoded | int | None) -> int | None:
        if not isinstance(output, Encoded):
            return output
        with _unless_ended(on, chunk):
            return stored_output(self.store, chunk, output)
        return None


def _given_back(outcome: ReleaseOutcome) -> CompleteOutcome:
    return outcome if isinstance(outcome, Dropped) else Lost()


@contextmanager
def _unless_ended(on: Queue, chunk: Reservation) -> Iterator[None]:
    """Suppress problems of a submission that has ended, since its chunks are dropped anyway."""
    try:
        yield
    except ProblemError:
        with suppress(SubmissionNotFoundError):
            submission = on.get_submission(chunk.source.submission_id)
            if submission.state is SubmissionState.IN_PROGRESS:
                raise


@dataclass(frozen=True, slots=True)
class FailChunks:
    """`.../chunks/fail`."""

    queue_of: QueueOf
    limits: Limits
    durations: ChunkDurations

    @operation(body=(Content(FailBody),), answers=OutcomesBody)
    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """Fail chunks, which uses an attempt of each."""
        on = self.queue_of(queue)
        body = decode(read_body(req, limit_bytes=self.limits.body_bytes), _FAIL)
        tokens = [Token(failed.token) for failed in body.chunks]
        failures = [failed.to_failure() for failed in body.chunks]
        held = on.get_reservations(tokens)
        outcomes = on.fail_chunks(list(zip(tokens, failures, strict=True)), is_final=body.is_final)
        self.durations.count(queue, held, zip(tokens, outcomes, strict=True))
        write(resp, OutcomesBody.of(tokens, outcomes))


@dataclass(frozen=True, slots=True)
class ReleaseChunks:
    """`.../chunks/release`."""

    queue_of: QueueOf

    @operation(body=(Content(ReleaseBody),), answers=OutcomesBody)
    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """Release chunks without using an attempt."""
        on = self.queue_of(queue)
        body = decode(read_body(req, limit_bytes=_SMALL_BYTES), _RELEASE)
        tokens = [Token(token) for token in body.tokens]
        released = on.release_chunks(tokens, delay_ms=body.delay_ms, reason=body.reason)
        write(resp, OutcomesBody.of(tokens, released))


@dataclass(frozen=True, slots=True)
class WorkerHeartbeat:
    """`.../workers/{worker}/heartbeat`."""

    queue_of: QueueOf
    timeout_ms: int
    """Heartbeat timeout of workers that do not send their own."""

    @operation(body=(Content(HeartbeatBody),), answers=AliveBody)
    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str, worker: str) -> None:
        """Record a worker's heartbeat and return its reservations that were revoked."""
        on = self.queue_of(queue)
        body = decode(read_body(req, limit_bytes=_SMALL_BYTES), _HEARTBEAT)
        info = msgspec.json.encode(body.info)
        if len(info) > MAX_INFO_BYTES:
            message = f"info has {len(info):,} bytes, more than the limit of {MAX_INFO_BYTES:,}"
            raise invalid(message)
        tokens = [Token(token) for token in body.tokens]
        timeout_ms = self.timeout_ms if body.timeout_ms is None else body.timeout_ms
        checked_worker_in_path(worker)
        alive = on.heartbeat(worker, tokens=tokens, info=info, timeout_ms=timeout_ms)
        write(resp, AliveBody.of(alive))


@dataclass(frozen=True, slots=True)
class OneWorker:
    """`.../workers/{worker}`."""

    queue_of: QueueOf

    @operation(answers={204: None})
    def on_delete(
        self, _req: falcon.Request, resp: falcon.Response, queue: str, worker: str
    ) -> None:
        """Remove a worker after an orderly shutdown, and release the chunks it holds.

        The answer is 204 even if the worker is not known.
        """
        self.queue_of(queue).retire_worker(checked_worker_in_path(worker))
        resp.status = falcon.HTTP_204


def add_routes(
    route: Callable[..., None],
    queue_of: QueueOf,
    store: ObjectStore,
    limits: Limits,
    long_polls: LongPolls,
    timeout_ms: int,
    durations: ChunkDurations,
) -> None:
    """Add the routes that consumers need below a queue's path."""
    chunks = "/v1/queues/{queue}/chunks"
    worker = "/v1/queues/{queue}/workers/{worker}"
    contents = "/v1/queues/{queue}/submissions/{submission_id}/chunks/{index}"
    needs = Need.CONSUME
    reserve = ReserveChunks(queue_of, store, long_polls, timeout_ms, limits)
    route(f"{chunks}/reserve", reserve, POST=needs)
    route(f"{chunks}/complete", CompleteChunks(queue_of, store, limits, durations), POST=needs)
    route(f"{chunks}/fail", FailChunks(queue_of, limits, durations), POST=needs)
    route(f"{chunks}/release", ReleaseChunks(queue_of), POST=needs)
    route(worker, OneWorker(queue_of), DELETE=needs)
    route(f"{worker}/heartbeat", WorkerHeartbeat(queue_of, timeout_ms), POST=needs)
    route(f"{contents}/input", ChunkInput(queue_of, store, limits), GET=needs)
    route(f"{contents}/output", ChunkOutput(queue_of, store, limits), PUT=needs)
