"""The consumer's client: takes chunks, has them worked on by a callback, stores what comes out.

For programs that bring their own processes; `opsqueue-worker` brings pools, time limits and more.
Decisions are here, I/O is the store's and that of a `ConsumerQueue`, also the seam for tests.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from opsqueue.common import DEFAULT_SERIALIZATION_FORMAT, SerializationFormat
from opsqueue.consumer.backends import ConsumerQueue
from opsqueue.consumer.held import REPORT_WITHIN_S, Connected, InHand
from opsqueue.contents.codec import RAW, Codec, open_codec, readable_codecs
from opsqueue.contents.formats import codec_of_format
from opsqueue.exceptions import (
    EncodingError,
    IncorrectUsageError,
    InvalidArgumentError,
    StoreUnavailableError,
)
from opsqueue.handlers.app import Chunk, Handler, Kind
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
"""Fewer than the pending chunks that one heartbeat looks at (heartbeat.lua)."""
logger = logging.getLogger("opsqueue.consumer")
_REDIS: Final = ("redis://", "rediss://", "unix://", "redis+", "rediss+")
OpCallback = Callable[[Any], Any]
ChunkCallback = Callable[[Sequence[Any], Chunk], Sequence[Any]]
RawCallback = Callable[[Chunk], bytes]
_RANDOM, _NEWEST = Random(), Newest()


@dataclass
class _Worker:
    """One process's part of a consumer: a worker with its own name, connections and threads."""

    name: str
    connected: Connected
    hand: InHand
    resources: ExitStack
    has_begun: bool = False


class ConsumerClient:
    """Works on one queue's chunks; a callback at a time, on the thread that calls `run_…`.

    Args:
        opsqueue_url: the API's, http://host:3999, https://… or host:3999; or that of Redis,
            redis://…, rediss://…, unix://…, redis+sentinel://… or
            redis+cluster://….
        object_store_url: the object store, the one that producers have.
        object_store_options: pairs of names and values, as they could stand in its URL.
        queue: the queue's name.
        token: of the API, if it asks for one.
        name: of this consumer in lists of workers, unique among all.
        allow_pickle: let the codec `pickle` be used: it runs code of whoever can write to the
            store.
        reservation_ms: how long one chunk may take; after that others get it.
        heartbeat_interval_s: between signs of life, which a thread gives.
        heartbeat_timeout_s: after so long a silence this consumer is dead to the others, which take
            back what it held. Without it 30 s, over HTTP what the API says.

    Nothing is asked for before the first chunk. The first call raises ApiUnavailableError,
    RedisUnavailableError or StoreUnavailableError when it gets no answer; later ones wait until
    there is one again.

    A forked child that uses the client is a worker of its own, with another name (a given one has
    the process's id behind it), connections and heartbeat. What is in hand stays with the process
    that reserved it.

    Raises:
        InvalidArgumentError: of the arguments.
        NewObjectStoreClientError: the store's URL can't be used, or its extra is not installed.
    """

    def __init__(  # noqa: PLR0913 two URLs and what can be set
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
                    "count as dead when one sign of life is late"
                )
                raise InvalidArgumentError(message)
        store = open_store(with_options(object_store_url, object_store_options))

        def opened(worker: str, resources: ExitStack) -> Connected:
            if not opsqueue_url.startswith(_REDIS):
                # Only now: workers and consumers on Redis need no HTTP client, a slow import.
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
                    # As the producer's: inputs would be missing in another store than the API's.
                    check_store_id(store, client.store_id)
                    store.store_id = client.store_id

                return Connected(on, url=client.url, check=check, timeout_ms=timeout_ms)
            try:
                # Only now: a consumer over HTTP needs no Redis client.
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
        """Make a client of parts that are there already; `close` leaves them to the caller.

        Nobody sweeps: what dead consumers held is for others to take back.
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
        # Also when the program ends without a close: what is held is free at once.
        self._closer = weakref.finalize(self, _close, self._workers, close)

    @property
    def name(self) -> str:
        """The worker's name; another one in each forked child."""
        return self._workers.get().name

    @property
    def _hand(self) -> InHand:
        return self._workers.get().hand

    def __repr__(self) -> str:
        """URLs without credentials, never the token."""
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
        """Call with each operation; what it returns is its result. Returns after `stop`.

        Takes and raises what `run_each_chunk` does.
        """
        self._run(op_callback, "operation", strategy, serialization_format)

    def run_each_chunk(
        self,
        chunk_callback: ChunkCallback,
        *,
        strategy: AnyStrategy = _RANDOM,
        serialization_format: SerializationFormat | None = None,
    ) -> None:
        """Call with the operations of each chunk and the chunk; it returns a result for each.

        An exception of the callback, or a CancelledError, fails the attempt, and the loop goes on.
        Ctrl-C gives the chunk back without using an attempt and is raised, wherever it strikes;
        other exceptions that end a program, such as SystemExit, fail the attempt and are raised.

        Args:
            chunk_callback: gets (operations, chunk).
            strategy: which chunk next.
            serialization_format: an object with dumps and loads, such as the module cbor2; None:
                the codec that is recorded with the submission, CBOR for raw chunks. It must write
                what that codec reads, else the attempt fails: nobody could read the results.

        Raises:
            ConnectionTroubleError: no answer at the first call of this client.
        """
        self._run(chunk_callback, "chunk", strategy, serialization_format)

    def run_each_chunk_raw(
        self, chunk_callback: RawCallback, *, strategy: AnyStrategy = _RANDOM
    ) -> None:
        """Call with each chunk, its content encoded; it returns the output's bytes.

        These are a list in the submission's codec, with a result for each operation, else the
        attempt fails; any bytes, where the codec is `raw`. Neither is compressed: that is done
        here, where the codec says so.

        Raises what `run_each_chunk` does.
        """
        self._run(chunk_callback, "raw", strategy)

    def stop(self) -> None:
        """Let `run_…` return after the chunk in hand; may be called by signal handlers.

        Who waits for a chunk notices within a second or so; over HTTP within ten.
        """
        self._hand.is_stopping.set()

    def _run(
        self,
        callback: Callable[..., Any],
        kind: Kind,
        strategy: AnyStrategy,
        serialization_format: SerializationFormat | None = None,
    ) -> None:
        if not callable(callback):
            message = f"the callback is {shown(callback)}: give a function"
            raise InvalidArgumentError(message)
        given = None if serialization_format is None else codec_of_format(serialization_format)

        def codec_of(name: str) -> Codec:
            if given is not None:
                return given.as_in(name)
            if name == RAW.name:
                return codec_of_format(DEFAULT_SERIALIZATION_FORMAT)
            return open_codec(name, allow_pickle=self._allow_pickle)

        handler = Handler(
            queue=self.queue,
            function=callback,
            kind=kind,
            takes_chunk=kind == "chunk",
            codec_of=codec_of,
        )
        hand = self._hand
        if given is not None:
            hand.also_reads(given.plain_name)
        self._begin()
        while not hand.is_stopping.is_set():
            for reservation in hand.reserve(1, strategy):
                with hand.given_back_if_interrupted([reservation]):
                    is_void = hand.is_void(reservation.token)
                    report = execute(
                        reservation, handler, self._store, is_void=is_void, worker=self.name
                    )
                    hand.settle(reservation, report)
                    if isinstance(report, Failed) and report.ends_program is not None:
                        raise report.ends_program

    # Single steps

    def reserve_chunks(self, max: int = 1, strategy: AnyStrategy = _NEWEST) -> list[Chunk]:  # noqa: A002 the reference's name
        """Wait for chunks and take up to `max`, at most 1,000, with their contents.

        Each is to be given to `complete_chunk`, `fail_chunk` or `release_chunk`. Chunks whose input
        is missing have failed an attempt; chunks whose output was there are completed; neither is
        given. After `stop` the list can be empty.

        Raises:
            InvalidArgumentError: max is below 1, or this consumer holds thousands already.
            ConnectionTroubleError: no answer at the first call of this client.
        """
        if max < 1:
            message = f"max is {max}: give 1 or more"
            raise InvalidArgumentError(message)
        limit = min(max, MAX_BATCH)
        if (held := len(self._hand.tokens())) + limit > MAX_HELD:
            message = f"{held:,} chunks are in hand, {MAX_HELD:,} can be: report some first"
            raise InvalidArgumentError(message)
        self._begin()
        chunks: list[Chunk] = []
        while not chunks and not self._hand.is_stopping.is_set():
            reservations = self._hand.reserve(limit, strategy)
            with self._hand.given_back_if_interrupted(reservations):
                for fetched in self._hand.fetch(reservations, self._store):
                    reservation = fetched.reservation
                    try:
                        chunk = chunk_of(fetched, self._hand.is_void(reservation.token))
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
        """Store the output of a chunk in hand, unless there is one, and report the chunk as done.

        It is not compressed: that is done here, where the submission's codec says so.

        A chunk that was lost meanwhile stays with whoever has it: that is logged, not raised. So is
        a second report of the same chunk.

        Raises:
            ChunkNotFoundError: this consumer never held it.
            EncodingError: the output is not in the submission's codec, or has not a result for each
                operation; nothing is stored, and the chunk is still in hand.
            StoreUnavailableError: the output could not be stored; the chunk was released.
            ConnectionTroubleError: no answer for a minute.
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
        """Report that the attempt at a chunk in hand failed, with a text that says why.

        Raises what `complete_chunk` does, for the same reasons.
        """
        reservation = self._hand.named(submission_id, chunk_index, submission_prefix)
        if reservation is not None:
            told = ChunkFailure.told(type="", message=failure)
            report = Failed(token=reservation.token, failure=told)
            self._hand.settle(reservation, report, within_s=REPORT_WITHIN_S)

    def release_chunk(
        self, submission_id: SubmissionId, chunk_index: ChunkIndex | int, *, delay_ms: int = 0
    ) -> None:
        """Give a chunk in hand back without using an attempt, free at once or after a delay.

        Raises what `complete_chunk` does, for the same reasons.
        """
        reservation = self._hand.named(submission_id, chunk_index, None)
        if reservation is not None:
            report = GivenBack(token=reservation.token, reason="asked for", delay_ms=delay_ms)
            self._hand.settle(reservation, report, within_s=REPORT_WITHIN_S)

    def close(self) -> None:
        """Give back what is held, sign off and let connections go; may be repeated."""
        if (worker := self._workers.made) is not None:
            worker.hand.is_stopping.set()
        self._closer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # What these are made of

    def _begin(self) -> None:
        """Find out once that somebody answers and the store can be used, and begin to beat."""
        worker = self._workers.get()
        if not worker.has_begun:
            worker.connected.check()
            self._store.check()
            worker.hand.start()
            if worker.connected.sweeper is not None:
                worker.connected.sweeper.start()
            worker.has_begun = True


def _close(workers: PerProcess[_Worker], close: Callable[[], None]) -> None:
    try:
        workers.close(lambda worker: worker.resources.close())
    finally:
        close()
