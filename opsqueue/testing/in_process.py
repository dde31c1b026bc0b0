"""Tests of handlers in one process, without a server: on fakeredis and the memory store.

    from opsqueue.testing import local

    def test_increment():
        with local(app) as opsqueue:
            assert list(opsqueue.run_submission("numbers", [1, 2, 3], chunk_size=2)) == [2, 3, 4]

The scripts, codecs and executor are those of production; only the processes are missing. Nothing
runs in the background: a request for results does the work, and back-offs pass without waiting.
Handlers run in the main thread if that is the one that asks, and no loop runs in it (as in an
`async def` test or a notebook). Otherwise they run in a thread of their own.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from opsqueue.exceptions import IncorrectUsageError, raised_by_handlers
from opsqueue.handlers.app import Chunk, Handler, Hook, Observers, Opsqueue
from opsqueue.handlers.execute import (
    STORE_UNAVAILABLE_DELAY_MS,
    Done,
    Failed,
    Fetched,
    GivenBack,
    Invoke,
    Ran,
    Report,
    fetch,
    raise_ctrl_c,
    run,
    save,
)
from opsqueue.handlers.observe import KilledError
from opsqueue.model.chunk import ChunkFailure, Lost, Reservation
from opsqueue.model.raised import is_a
from opsqueue.model.submission import (
    Submission,
    SubmissionFilter,
    SubmissionId,
    SubmissionState,
)
from opsqueue.producer.client import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.cluster import Client
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore, open_store
from opsqueue.testing.faults import Fault, Faults, Where, enclosed
from opsqueue.testing.limits import Slot

_WORKER = "local"


class LocalOpsqueue:
    """An app with its queues, store and worker, all in this process; see `local`."""

    def __init__(
        self, app: Opsqueue, client: Client, store: ObjectStore, faults: Faults | None = None
    ) -> None:
        self._app = app
        self.client = client
        self._skipped_ms = 0
        self.store = store
        self.api = RedisBackend(client, queue_of=self._queue_that_works)
        self._faults = faults
        self._used: set[str] = set()
        self._idle: list[Slot] = []
        self._raised: dict[tuple[int, str, int], BaseException] = {}
        self._observers = Observers(
            of_chunks=[Hook(self._note_failure, "on_chunk_failure")],
            of_operations=[Hook(self._note_error, "on_operation_error")],
        )

    def _queue_that_works(self, name: str) -> Queue:
        self._app.handler_of(name)
        return _WorkingQueue(self, name)

    def queue(self, name: str) -> Queue:
        """Return a queue of the app, to inspect it or to make transitions by hand."""
        self._app.handler_of(name)
        return Queue(self.client, name, clock=self.now_ms)

    def producer(self, queue: str) -> ProducerClient:
        """Return a client like that of production code; waiting for a submission does its work.

        Raises:
            HandlerError: the app has no handler for the queue; the message lists its queues.
        """
        self._app.handler_of(queue)
        self._used.add(queue)
        if self._faults is None:
            return ProducerClient.over(self.api, self.store, queue=queue)
        # Everything through the store, or there would be no store errors.
        return ProducerClient.over(self.api, self.store, queue=queue, inline_bytes=0)

    def run_submission(
        self,
        queue: str,
        operations: Iterable[Any],
        *,
        chunk_size: int = 1,
        **options: Any,  # noqa: ANN401 the producer types them
    ) -> Iterator[Any]:
        """Submit operations, run them, and return the results in order.

        The options are those of `ProducerClient.run_submission`.

        Raises:
            SubmissionFailedError: a chunk failed its last attempt; its `__cause__` is the handler's
                own exception.
        """
        return self.producer(queue).run_submission(operations, chunk_size=chunk_size, **options)

    def work(self, queue: str, *, limit: int | None = None) -> int:
        """Run chunks of a queue until none is left, or `limit` of them; return how many ran.

        Chunks that wait for a back-off are run, too: the queue's clock is moved forward.
        """
        on = self.queue(queue)
        handler = self._app.handler_of(queue)
        ran = 0
        while limit is None or ran < limit:
            reserved = on.reserve_chunks(_WORKER, strategy=handler.strategy, alone=True)
            if not reserved.chunks:
                if reserved.next_due_in_ms is None or reserved.is_paused:
                    break
                self._skipped_ms += reserved.next_due_in_ms
                continue
            (chunk,) = reserved.chunks

            def is_revoked(token: str = chunk.token) -> bool:
                return token in on.heartbeat(_WORKER, tokens=[token]).revoked  # type: ignore[list-item]

            ran += 1
            try:
                report, fault = self._execute(on, chunk, handler, is_revoked)
            except KilledError:  # of the handler that waits here, and not of this one
                on.release_chunks([chunk.token])
                raise
            match report:
                case Done(token=token, operations_failed=failed, output=output):
                    outputs = None if output is None else {token: output}
                    outcomes: list[object] = list(
                        on.complete_chunks(
                            [token], operations_failed={token: failed}, outputs=outputs
                        )
                    )
                case Failed(token=token, failure=failure, is_final=is_final):
                    outcomes = [on.fail_chunk(token, failure, is_final=is_final)]
                case GivenBack(token=token, delay_ms=delay_ms):
                    outcomes = list(on.release_chunks([token], delay_ms=delay_ms))
            is_expired = fault is not None and fault.what == "expire"
            if not is_expired and any(isinstance(outcome, Lost) for outcome in outcomes):
                message = f"another worker took chunk {chunk}: call `work` in one thread at a time"
                raise IncorrectUsageError(message)
        return ran

    def _execute(
        self, on: Queue, chunk: Reservation, handler: Handler, is_revoked: Callable[[], bool]
    ) -> tuple[Report, Fault | None]:
        """Work on a chunk; return the report, and the fault that was injected."""
        fetched = fetch(chunk, self.store)
        if not isinstance(fetched, Fetched):
            return fetched, None
        fault = None if self._faults is None else self._faults.choose(fetched, handler)
        if report := self._inject(fault, "before", on, chunk):
            return report, fault
        ran = self._run(fetched, handler, fault, is_revoked)
        if not isinstance(ran, Ran):
            return ran, fault
        if report := self._inject(fault, "in", on, chunk):
            return report, fault
        report = save(ran, self.store, is_revoked=is_revoked)
        return self._inject(fault, "after", on, chunk) or report, fault

    def _inject(
        self, fault: Fault | None, where: Where, on: Queue, chunk: Reservation
    ) -> Report | None:
        """Inject a fault if this is its place; return the report that it leads to."""
        if fault is None or fault.where != where:
            return None
        match fault.what:
            case "kill" if where == "before":
                # A chunk that had not begun when its process died uses no attempt.
                return GivenBack(token=chunk.token, reason="its process ended")
            case "kill":
                return self._death(chunk)
            case "expire":
                self._skipped_ms += max(0, chunk.expires_at_ms - self.now_ms()) + 1
                on.reclaim_expired(_WORKER)
                # After the handler, the report of its output comes too late.
                reason = "its reservation expired"
                return None if where == "after" else GivenBack(token=chunk.token, reason=reason)
            case "store_error":
                # After the handler, the output is stored, and only the store's answer is lost.
                reason = f"the store does not work, because of {self._faults!r}"
                return GivenBack(
                    token=chunk.token, reason=reason, delay_ms=STORE_UNAVAILABLE_DELAY_MS
                )

    def _run(
        self,
        fetched: Fetched,
        handler: Handler,
        fault: Fault | None,
        is_revoked: Callable[[], bool],
    ) -> Ran | Report:
        chunk = fetched.reservation
        slot = self._slot()
        handler = replace(handler, observers=(*handler.observers, self._observers))
        invoke: Invoke = slot.invoker.call
        observed = handler
        if self._faults is not None:
            observed = self._faults.observed(handler, fault)

            def invoke_observed(
                handler: Handler, operations: list[object], chunk: Chunk
            ) -> Sequence[object]:
                return slot.invoker.call(handler, enclosed(operations), chunk)

            invoke = invoke_observed

        def run_it() -> Ran | Report:
            return run(fetched, observed, is_revoked=is_revoked, invoke=invoke, worker=_WORKER)

        began = time.monotonic()
        try:
            ran = slot.run(run_it, limit_s=handler.time_limit)
        except TimeoutError:
            slot.close()
            return self._overdue(chunk, handler, time.monotonic() - began)
        except KilledError:
            slot.close()
            raise
        self._idle.append(slot)
        if not isinstance(ran, Failed):
            return ran
        raise_ctrl_c(ran)
        if is_a(ran.ends_program, KilledError):
            return self._death(chunk)
        return ran

    def _slot(self) -> Slot:
        return self._idle.pop() if self._idle else Slot()

    def call(self, hook: Hook) -> None:
        """Call a hook of the start or the stop where handlers run."""
        slot = self._slot()
        slot.run(hook, limit_s=None)
        self._idle.append(slot)

    def close(self) -> None:
        """End the loops and threads in which handlers ran."""
        while self._idle:
            self._idle.pop().close()

    def check(self) -> None:
        """Finish the work that is left, and check that its results are complete.

        Raises:
            AssertionError: they are not, or a handler is not idempotent; see `Faults`.
        """
        if self._faults is None:
            return
        for name in sorted(self._used):
            self.work(name)
            producer = self.producer(name)
            for submission in producer.list_submissions(
                SubmissionFilter(state=SubmissionState.COMPLETED)
            ):
                outputs = producer.try_stream_completed_submission_chunks(submission.id)
                _check_is_whole(submission, outputs=sum(1 for _ in outputs))
        self._faults.check()

    def _death(self, chunk: Reservation) -> Failed:
        return self._ended(chunk, "WorkerChildDied", f"killed by {self._faults!r}")

    def _overdue(self, chunk: Reservation, handler: Handler, seconds: float) -> Failed:
        text = f"it ran for {seconds:.1f} s, its time limit is {handler.time_limit:g} s"
        return self._ended(chunk, "TimeLimitExceeded", text)

    def _ended(self, chunk: Reservation, type_: str, message: str) -> Failed:
        """Return the report of a process that ended, without an exception of the handler."""
        self._raised.pop((chunk.source.submission_id, "chunk", chunk.chunk_index), None)
        return Failed(token=chunk.token, failure=ChunkFailure(type=type_, message=message))

    def _note_failure(self, error: BaseException, chunk: Chunk) -> None:
        self._raised[chunk.submission_id, "chunk", chunk.chunk_index] = error

    def _note_error(
        self, error: BaseException, chunk: Chunk, index: int, _operation: object
    ) -> None:
        self._raised[chunk.submission_id, "operation", index] = error

    def raised(self, submission_id: int, kind: str, index: int) -> BaseException | None:
        """Return what a handler raised last, for a chunk or for an operation, see `exceptions`."""
        return self._raised.get((submission_id, kind, index))

    def now_ms(self) -> int:
        """Return the time of its queues in milliseconds since 1970; `work` skips back-offs."""
        return time.time_ns() // 1_000_000 + self._skipped_ms


class _WorkingQueue(Queue):
    """A queue whose chunks are run by the call that waits for a submission."""

    def __init__(self, local: LocalOpsqueue, name: str) -> None:
        super().__init__(local.client, name, clock=local.now_ms)
        self._work = partial(local.work, name)

    def wait_for_end(
        self,
        submission_id: SubmissionId,
        *,
        wait_s: float,
        **_options: Any,  # noqa: ANN401 options of waiting, which have no effect here
    ) -> Submission:
        """Return a submission; if `wait_s` is above 0, run all chunks first."""
        if wait_s > 0:
            self._work()
        return self.get_submission(submission_id)


def _check_is_whole(submission: Submission, *, outputs: int) -> None:
    chunks, operations = submission.chunks_total, submission.operations_total
    if (submission.chunks_done, submission.operations_done, outputs) != (
        chunks,
        operations,
        chunks,
    ):
        message = (
            f"queue {submission.queue!r}, submission {submission.id} is completed, with "
            f"{submission.chunks_done:,} of {chunks:,} chunks, {submission.operations_done:,} of "
            f"{operations:,} operations and {outputs:,} outputs: please report this defect"
        )
        raise AssertionError(message)


@contextmanager
def local(app: Opsqueue, *, faults: Faults | None = None) -> Iterator[LocalOpsqueue]:
    """Run an app's handlers in this process, on a fresh fakeredis and a fresh memory store.

    The app's hooks for the start and stop of a worker run at the beginning and at the end, and time
    limits are kept. A handler at its `time_limit` gets an exception that is no Exception, in place
    of the end of its process: what catches even that, or is in a call of C code that a signal does
    not end, goes on.

    Args:
        app: the app.
        faults: faults to inject. At the end all work is finished and checked, see `Faults`.

    Raises:
        IncorrectUsageError: fakeredis is not installed.
        AssertionError: with faults, a handler turned out not to be idempotent.
    """
    try:
        import fakeredis  # noqa: PLC0415 an extra
    except ImportError as exc:
        message = "opsqueue.testing needs fakeredis: install opsqueue-redis[dev]"
        raise IncorrectUsageError(message) from exc
    server = fakeredis.FakeServer(server_type="valkey")
    client = fakeredis.FakeRedis(server=server, protocol=2)
    with ExitStack() as resources:
        resources.callback(client.close)
        store = open_store(f"memory://local-{secrets.token_hex(8)}")
        resources.callback(store.close)
        if faults is not None:
            faults.start()
        running = LocalOpsqueue(app, client, store, faults)
        resources.callback(running.close)
        raised_by_handlers.append(running.raised)
        resources.callback(raised_by_handlers.remove, running.raised)
        for hook in app.start_hooks:
            running.call(hook)
        # All run, in their order, also if one raises, or the test itself.
        for hook in reversed(app.stop_hooks):
            resources.callback(running.call, hook)
        yield running
        running.check()
