"""Tests of handlers in one process, without a server: on fakeredis and the memory store.

    from opsqueue.testing import local

    def test_increment():
        with local(app) as opsqueue:
            assert list(opsqueue.run_submission("numbers", [1, 2, 3], chunk_size=2)) == [2, 3, 4]

The scripts, codecs and executor are those of production; only the processes are missing. Nothing
runs in the background: a request for results does the work, and back-offs pass without waiting.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from opsqueue.exceptions import IncorrectUsageError
from opsqueue.handlers.app import Opsqueue
from opsqueue.handlers.execute import Done, Failed, GivenBack, execute
from opsqueue.model.chunk import Lost
from opsqueue.model.submission import Submission, SubmissionId
from opsqueue.producer.client import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.cluster import Client
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore, open_store

try:
    import pytest
except ImportError:  # pytest is optional; without it only the fixture is missing
    pytest = None  # type: ignore[assignment]

_WORKER = "local"


class LocalOpsqueue:
    """An app with its queues, store and worker, all in this process; see `local`."""

    def __init__(self, app: Opsqueue, client: Client, store: ObjectStore) -> None:
        self._app = app
        self.client = client
        self._skipped_ms = 0
        self.store = store
        self.api = RedisBackend(client, queue_of=self._queue_that_works)

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
        return ProducerClient.over(self.api, self.store, queue=queue)

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
            SubmissionFailedError: a chunk failed its last attempt; it has the traceback.
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
            reserved = on.reserve_chunks(_WORKER, strategy=handler.strategy)
            if not reserved.chunks:
                if reserved.next_due_in_ms is None or reserved.is_paused:
                    break
                self._skipped_ms += reserved.next_due_in_ms
                continue
            (chunk,) = reserved.chunks

            def is_revoked(token: str = chunk.token) -> bool:
                return token in on.heartbeat(_WORKER, tokens=[token]).revoked  # type: ignore[list-item]

            ran += 1
            match execute(chunk, handler, self.store, is_revoked=is_revoked, worker=_WORKER):
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
            if any(isinstance(outcome, Lost) for outcome in outcomes):
                message = f"another worker took chunk {chunk}: call `work` in one thread at a time"
                raise IncorrectUsageError(message)
        return ran

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


@contextmanager
def local(app: Opsqueue) -> Iterator[LocalOpsqueue]:
    """Run an app's handlers in this process, on a fresh fakeredis and a fresh memory store.

    The app's hooks for the start and stop of a worker run at the beginning and at the end.

    Raises:
        IncorrectUsageError: fakeredis is not installed.
    """
    try:
        import fakeredis  # noqa: PLC0415 an extra
    except ImportError as exc:
        message = "opsqueue.testing needs fakeredis: install opsqueue-redis[dev]"
        raise IncorrectUsageError(message) from exc
    server = fakeredis.FakeServer(server_type="valkey")
    client = fakeredis.FakeRedis(server=server, protocol=2)
    store = open_store(f"memory://local-{secrets.token_hex(8)}")
    try:
        for hook in app.start_hooks:
            hook()
        yield LocalOpsqueue(app, client, store)
        for hook in app.stop_hooks:
            hook()
    finally:
        store.close()
        client.close()


if pytest is not None:

    @pytest.fixture
    def opsqueue_local(opsqueue_app: Opsqueue) -> Iterator[LocalOpsqueue]:
        """Yield `local(app)` for the app that your fixture `opsqueue_app` returns."""
        with local(opsqueue_app) as running:
            yield running
