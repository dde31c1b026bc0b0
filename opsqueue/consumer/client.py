"""The consumer's client: reserves chunks, calls a callback with them and stores the outputs.

It is for programs that bring their own processes; `opsqueue-worker` has pools, time limits and
more. All I/O goes through the object store and a `ConsumerQueue`, which is also the seam for tests.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, Self

from opsqueue.common import DEFAULT_SERIALIZATION_FORMAT, SerializationFormat
from opsqueue.consumer.backends import ConsumerQueue
from opsqueue.consumer.held import REPORT_WITHIN_S, Connected, InHand
from opsqueue.contents.codec import Codec, is_raw, open_codec, readable_codecs
from opsqueue.contents.formats import codec_of_format
from opsqueue.exceptions import (
    EncodingError,
    IncorrectUsageError,
    InvalidArgumentError,
    StoreUnavailableError,
)
from opsqueue.handlers.app import Chunk, Handler, Kind
from opsqueue.handlers.callables import is_async, is_generator, is_in_loop, name_of
from opsqueue.handlers.execute import (
    Failed,
    GivenBack,
    Ran,
    checked_output,
    chunk_of,
    execute,
    packed_output,
    save,
)
from opsqueue.model.checks import shown
from opsqueue.model.chunk import MAX_BATCH, ChunkFailure
from opsqueue.model.extras import missing
from opsqueue.model.process import Origin, PerProcess, new_worker_name, worker_info
from opsqueue.model.submission import ChunkIndex, SubmissionId
from opsqueue.model.version import __version__
from opsqueue.store import ObjectStore, open_store, with_options
from opsqueue.store.base import check_store_id
from opsqueue.strategy import AnyStrategy, Newest, Random

MAX_HELD: Final = 9_000
"""Fewer than the tokens that a heartbeat over HTTP may name."""
logger = logging.getLogger("opsqueue.consumer")
_REDIS: Final = ("redis://", "rediss://", "unix://", "redis+", "rediss+")
OpCallback = Callable[[Any], Any]
ChunkCallback = Callable[[Sequence[Any], Chunk], Sequence[Any] | Awaitable[Sequence[Any]]]
RawCallback = Callable[[Chunk], bytes | Awaitable[bytes]]
_RANDOM, _NEWEST = Random(), Newest()


@dataclass
class _Worker:
    """A consumer in one process: a worker with its own name, connections and threads."""

    name: str
    connected: Connected
    hand: InHand
    resources: ExitStack
    has_begun: bool = False


class ConsumerClient:
    """A client that works on the chunks of one queue.

    It runs one callback at a time, on the thread that calls `run_…`.

    Args:
        opsqueue_url: the URL of the API, http://host:3999, https://… or host:3999; or that of
            Redis, redis://…, rediss://…, unix://…, redis+sentinel://… or redis+cluster://….
        object_store_url: the object store, the same one that producers use.
        object_store_options: pairs of names and values, as in the query of its URL.
        queue: the queue's name.
        token: the API's token, if it requires one.
        name: this consumer's name in lists of workers; no other worker may have it.
        allow_pickle: allow the codec `pickle`. Reading pickled data runs code of anybody who can
            write to the store.
        reservation_ms: how long one chunk may take; after that other workers get it.
        heartbeat_interval_s: the time between heartbeats, which a thread sends.
        heartbeat_timeout_s: after this long without a heartbeat the consumer counts as dead, and
            its chunks are reclaimed. The default is 30 s, or the API's setting over HTTP.

    The client makes no request before the first chunk. The first call raises ApiUnavailableError,
    RedisUnavailableError or StoreUnavailableError if there is no answer; later calls wait until
    there is one again.

    A forked child that uses the client becomes a worker of its own, with its own connections and
    heartbeat and another name: a given name is followed by the process's id. Reserved chunks stay
    with the process that reserved them.

    Raises:
        InvalidArgumentError: an argument is invalid.
        NewObjectStoreClientError: the store's URL can't be used, or its extra is not installed.
    """

    def __init__(  # noqa: PLR0913 two URLs and the options
        self,
        opsqueue_url: str,
        object_store_url: str,
        *,
        object_store_options: Sequence[tuple[str, str]] = (),
        queue: str = "default",
        token: str | None = None,
        name: str | None = None,
        allow_pickle: bool = False,
        reservation_ms: int = 600_000,
        heartbeat_interval_s: float = 5.0,
        heartbeat_timeout_s: float | None = None,
    ) -> None:
        timeout_ms = None
        if heartbeat_timeout_s is not None:
            timeout_ms = int(heartbeat_timeout_s * 1000)
            if heartbeat_timeout_s < 2 * heartbeat_interval_s:
                message = (
                    f"heartbeat_timeout_s {heartbeat_timeout_s:g} is less than two times "
                    f"heartbeat_interval_s {heartbeat_interval_s:g}: a healthy consumer would "
                    "count as dead when one heartbeat is late"
                )
                raise InvalidArgumentError(message)
        store = open_store(with_options(object_store_url, object_store_options))

        def opened(worker: str, resources: ExitStack) -> Connected:
            if not opsqueue_url.startswith(_REDIS):
                # A slow import, which workers and consumers on Redis don't need.
                from opsqueue.consumer.http_api import (  # noqa: PLC0415 as above
                    HttpChunkQueue,
                    worker_in_path,
                )
                from opsqueue.http.client import HttpClient  # noqa: PLC0415 as above

                worker_in_path(worker)
                client = HttpClient(opsqueue_url, token=token)
                resources.callback(client.close)
                on = HttpChunkQueue(client, queue)

                def check() -> None:
                    client.version()
                    # As in the producer: inputs would be missing in another store than the API's.
                    check_store_id(store, client.store_id)
                    store.store_id = client.store_id

                return Connected(on, url=client.url, check=check, timeout_ms=timeout_ms)
            try:
                # Imported here since a consumer over HTTP needs no Redis client.
                from opsqueue.consumer.redis_api import connected  # noqa: PLC0415 as above
            except ModuleNotFoundError as exc:
                if text := missing(exc, "redis", by=f"a consumer of {queue} on Redis"):
                    raise IncorrectUsageError(text) from exc
                raise

            return connected(
                opsqueue_url,
                queue,
                worker,
                timeout_ms=timeout_ms,
                store=store,
                resources=resources,
            )

        origin = Origin()

        def worker_name() -> str:
            if name is None:
                return new_worker_name("consumer-")
            return name if origin.is_here() else f"{name}-{os.getpid()}"

        with ExitStack() as unless_made:
            unless_made.callback(store.close)
            self._assemble(
                opened,
                store,
                worker_name=worker_name,
                queue=queue,
                allow_pickle=allow_pickle,
                reservation_ms=reservation_ms,
                heartbeat_interval_s=heartbeat_interval_s,
                close=store.close,
            )
            unless_made.pop_all()

    @classmethod
    def over(
        cls,
        queue: ConsumerQueue,
        store: ObjectStore,
        *,
        name: str = "consumer",
        allow_pickle: bool = False,
        reservation_ms: int = 600_000,
        heartbeat_interval_s: float = 5.0,
    ) -> Self:
        """Create a client from an existing queue and store; `close` does not close them.

        It runs no sweeper, so that another program must reclaim the chunks of dead consumers.
        """
        origin = Origin()

        def given(_worker: str, _resources: ExitStack) -> Connected:
            origin.check("this consumer's queue", "make a queue and a ConsumerClient in the child")
            return Connected(queue, url=repr(queue), check=lambda: None)

        self = cls.__new__(cls)
        self._assemble(
            given,
            store,
            worker_name=lambda: name,
            queue=queue.name,
            allow_pickle=allow_pickle,
            reservation_ms=reservation_ms,
            heartbeat_interval_s=heartbeat_interval_s,
            close=lambda: None,
        )
        return self

    def _assemble(
        self,
        connected: Callable[[str, ExitStack], Connected],
        store: ObjectStore,
        *,
        worker_name: Callable[[], str],
        queue: str,
        allow_pickle: bool,
        reservation_ms: int,
        heartbeat_interval_s: float,
        close: Callable[[], None],
    ) -> None:
        if reservation_ms < 1 or heartbeat_interval_s <= 0:
            message = (
                f"reservation_ms is {reservation_ms}, heartbeat_interval_s {heartbeat_interval_s}: "
                "both must be above 0"
            )
            raise InvalidArgumentError(message)

        def make() -> _Worker:
            worker = worker_name()
            with ExitStack() as resources:
                found = connected(worker, resources)
                hand = InHand(
                    found.queue,
                    worker=worker,
                    timeout_ms=found.timeout_ms,
                    info=worker_info(
                        version=__version__,
                        pool="consumer",
                        concurrency=1,
                        queues=[queue],
                        codecs=readable_codecs(allow_pickle=allow_pickle),
                    ),
                    interval_s=heartbeat_interval_s,
                    reservation_ms=reservation_ms,
                    on_due=found.on_due,
                )
                if found.sweeper is not None:
                    resources.callback(found.sweeper.stop)
                resources.callback(hand.close)
                return _Worker(worker, found, hand, resources.pop_all())

        self.queue = queue
        self._store = store
        self._allow_pickle = allow_pickle
        self._workers = PerProcess(make)
        self._workers.get()
        # Also if the program ends without a close, so that held chunks are released at once.
        self._closer = weakref.finalize(self, _close, self._workers, close)

    @property
    def name(self) -> str:
        """The worker's name, which differs in each forked child."""
        return self._workers.get().name

    @property
    def _hand(self) -> InHand:
        return self._workers.get().hand

    def __repr__(self) -> str:
        """Show the URLs without credentials, and never the token."""
        url = self._workers.get().connected.url
        return f"ConsumerClient({url!r}, {self._store.url!r}, queue={self.queue!r})"

    # Callbacks

    def run_each_op(
        self,
        op_callback: OpCallback,
        *,
        strategy: AnyStrategy = _RANDOM,
        serialization_format: SerializationFormat | None = None,
    ) -> None:
        """Call a function with each operation and store what it returns, until `stop`.

        The arguments and errors are those of `run_each_chunk`.
        """
        self._run(op_callback, "operation", strategy, serialization_format)

    def run_each_chunk(
        self,
        chunk_callback: ChunkCallback,
        *,
        strategy: AnyStrategy = _RANDOM,
        serialization_format: SerializationFormat | None = None,
    ) -> None:
        """Call a function with each chunk and its operations, until `stop`.

        The function, plain or `async def`, returns a list with a result for each operation. If it
        raises an exception or a CancelledError, the attempt fails, and the loop goes on. Ctrl-C
        releases the chunk without using an attempt, wherever it strikes, and is raised. Other
        exceptions that end a program, such as SystemExit, fail the attempt and are raised.

        Args:
            chunk_callback: called with (operations, chunk).
            strategy: selects the next chunk.
            serialization_format: an object with dumps and loads, such as the module cbor2. None
                uses the codec that is recorded with the submission, or CBOR for raw chunks. The
                recorded codec must be able to read what this format writes; otherwise the attempt
                fails, since nobody could read the results.

        Raises:
            ConnectionTroubleError: there is no answer at the first call of this client.
        """
        self._run(chunk_callback, "chunk", strategy, serialization_format)

    def run_each_chunk_raw(
        self, chunk_callback: RawCallback, *, strategy: AnyStrategy = _RANDOM
    ) -> None:
        """Call a function with each chunk, whose content stays encoded, until `stop`.

        The function returns the output as bytes: a list in the submission's codec, with a result
        for each operation, or any bytes if the codec is `raw`. Otherwise the attempt fails. Content
        and output are not compressed; the client compresses the output if the codec requires it.

        The errors are those of `run_each_chunk`.
        """
        self._run(chunk_callback, "raw", strategy)

    def stop(self) -> None:
        """Make `run_…` return after the current chunk; safe to call in signal handlers.

        A call that waits for a chunk notices it within about a second; over HTTP within ten.
        """
        self._hand.is_stopping.set()

    def _run(
        self,
        callback: Callable[..., Any],
        kind: Kind,
        strategy: AnyStrategy,
        serialization_format: SerializationFormat | None = None,
    ) -> None:
        _check_callback(callback)
        given = None if serialization_format is None else codec_of_format(serialization_format)

        def codec_of(name: str) -> Codec:
            if given is not None:
                return given.as_in(name)
            if is_raw(name):
                return codec_of_format(DEFAULT_SERIALIZATION_FORMAT).as_in(name)
            return open_codec(name, allow_pickle=self._allow_pickle)

        handler = Handler(
            queue=self.queue,
            function=callback,
            kind=kind,
            takes_chunk=kind == "chunk",
            is_async=is_async(callback),
            codec_of=codec_of,
        )
        hand = self._hand
        if given is not None:
            hand.also_reads(given.plain_name)
        self._begin()
        while not hand.is_stopping.is_set():
            for reservation in hand.reserve(1, strategy):
                with hand.given_back_if_interrupted([reservation]):
                    is_revoked = hand.is_revoked(reservation.token)
                    report = execute(
                        reservation, handler, self._store, is_revoked=is_revoked, worker=self.name
                    )
                    hand.settle(reservation, report)
                    if isinstance(report, Failed) and report.ends_program is not None:
                        raise report.ends_program

    # Single steps

    def reserve_chunks(self, max: int = 1, strategy: AnyStrategy = _NEWEST) -> list[Chunk]:  # noqa: A002 the reference's name
        """Wait for chunks and reserve up to `max` of them, at most 1,000, with their contents.

        Report each with `complete_chunk`, `fail_chunk` or `release_chunk`. Chunks whose input is
        missing are reported as failed here, and chunks whose output is stored already as
        completed; neither are returned. After `stop` the list can be empty.

        Raises:
            InvalidArgumentError: max is below 1, or this consumer would hold more than MAX_HELD.
            ConnectionTroubleError: there is no answer at the first call of this client.
        """
        if max < 1:
            message = f"max is {max}: give 1 or more"
            raise InvalidArgumentError(message)
        limit = min(max, MAX_BATCH)
        if (held := len(self._hand.tokens())) + limit > MAX_HELD:
            message = f"{held:,} chunks are reserved, the limit is {MAX_HELD:,}: report some first"
            raise InvalidArgumentError(message)
        self._begin()
        chunks: list[Chunk] = []
        while not chunks and not self._hand.is_stopping.is_set():
            reservations = self._hand.reserve(limit, strategy)
            with self._hand.given_back_if_interrupted(reservations):
                for fetched in self._hand.fetch(reservations, self._store):
                    reservation = fetched.reservation
                    try:
                        chunk = chunk_of(fetched, self._hand.is_revoked(reservation.token))
                    except EncodingError as exc:
                        failure = ChunkFailure.of(exc)
                        self._hand.settle(
                            reservation, Failed(token=reservation.token, failure=failure)
                        )
                    else:
                        chunks.append(chunk)
        return chunks

    def complete_chunk(
        self,
        submission_id: SubmissionId,
        submission_prefix: str | None,
        chunk_index: ChunkIndex | int,
        output_content: bytes,
    ) -> None:
        """Store the output of a reserved chunk, unless it has one, and report the chunk as done.

        Pass the output uncompressed; it is compressed here if the submission's codec requires it.

        If the chunk was lost meanwhile, or was reported before, a warning is logged and nothing is
        raised. A lost chunk stays with the worker that has it now.

        Raises:
            ChunkNotFoundError: this consumer never held it.
            EncodingError: the output is not in the submission's codec, or lacks a result for an
                operation. Nothing is stored, and the chunk stays reserved.
            StoreUnavailableError: the output could not be stored; the chunk was released.
            ConnectionTroubleError: there was no answer for a minute.
        """
        reservation = self._hand.named(submission_id, chunk_index, submission_prefix)
        if reservation is None:
            return
        try:
            output = checked_output(packed_output(output_content, reservation), reservation)
        except EncodingError as exc:
            try:
                # Programs written for 0.1.0 compress it themselves.
                output = checked_output(output_content, reservation)
            except EncodingError:
                raise exc from None
        operations = reservation.source.operations_in(reservation.chunk_index)
        report = save(Ran(reservation, output, operations, 0.0), self._store)
        self._hand.settle(reservation, report, within_s=REPORT_WITHIN_S)
        match report:
            case GivenBack(reason=why):
                message = f"the output of chunk {reservation} is not stored, it was released: {why}"
                raise StoreUnavailableError(message)
            case Failed(failure=failure):
                message = f"the output of chunk {reservation} is not stored: {failure.message}"
                raise InvalidArgumentError(message)

    def fail_chunk(
        self,
        submission_id: SubmissionId,
        submission_prefix: str | None,
        chunk_index: ChunkIndex | int,
        failure: str,
    ) -> None:
        """Report that the attempt at a reserved chunk failed, with a text that says why.

        The errors are those of `complete_chunk`.
        """
        reservation = self._hand.named(submission_id, chunk_index, submission_prefix)
        if reservation is not None:
            reported = ChunkFailure.reported(type="", message=failure)
            report = Failed(token=reservation.token, failure=reported)
            self._hand.settle(reservation, report, within_s=REPORT_WITHIN_S)

    def release_chunk(
        self, submission_id: SubmissionId, chunk_index: ChunkIndex | int, *, delay_ms: int = 0
    ) -> None:
        """Release a reserved chunk without using an attempt; it is ready at once or after a delay.

        The errors are those of `complete_chunk`.
        """
        reservation = self._hand.named(submission_id, chunk_index, None)
        if reservation is not None:
            report = GivenBack(token=reservation.token, reason="asked for", delay_ms=delay_ms)
            self._hand.settle(reservation, report, within_s=REPORT_WITHIN_S)

    def close(self) -> None:
        """Release the reserved chunks, retire and close the connections; may be called again."""
        if (worker := self._workers.made) is not None:
            worker.hand.is_stopping.set()
        self._closer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Private

    def _begin(self) -> None:
        """Check the connection and the store, and start the heartbeat; only once."""
        worker = self._workers.get()
        if not worker.has_begun:
            worker.connected.check()
            self._store.check()
            worker.hand.start()
            if worker.connected.sweeper is not None:
                worker.connected.sweeper.start()
            worker.has_begun = True


def _check_callback(callback: object) -> None:
    """Raise the error for a callback that can't work."""
    if not callable(callback):
        message = f"the callback is {shown(callback)}: give a function"
        raise InvalidArgumentError(message)
    if is_generator(callback):
        message = (
            f"the callback {name_of(callback)} has a `yield`: calling it returns a generator "
            "and runs nothing; return the result instead"
        )
        raise InvalidArgumentError(message)
    if is_async(callback) and is_in_loop():
        message = (
            f"the callback {name_of(callback)} is an `async def`, for which this call runs a "
            "loop of its own, and this thread has a running one: call it in another thread, "
            "such as by `await asyncio.to_thread(…)`"
        )
        raise IncorrectUsageError(message)


def _close(workers: PerProcess[_Worker], close: Callable[[], None]) -> None:
    try:
        workers.close(lambda worker: worker.resources.close())
    finally:
        close()
