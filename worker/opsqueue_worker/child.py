"""A child process: works on the chunks that its parent sends, one at a time.

Three threads overlap its three stages: one reads messages and fetches inputs, the main thread runs
the handler, one saves outputs and reports. Decoding and encoding happen on the main thread: what a
chunk's contents can do to a process, they do while that chunk is the one that runs.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from opsqueue import execution
from opsqueue.app import Opsqueue, load_app
from opsqueue.chunk import Reservation
from opsqueue.execution import Fetched, GivenBack, Ran, Report
from opsqueue.process import die_with_parent
from opsqueue.store import ObjectStore, open_store
from opsqueue_worker.logs import set_up_logging
from opsqueue_worker.messages import (
    Hello,
    Ready,
    Stop,
    Void,
    Work,
    message_of,
    read_from_parent,
    reservation_of,
    send,
)
from opsqueue_worker.status import Status

logger = logging.getLogger("opsqueue.worker")


@dataclass(slots=True)
class _Task:
    """A chunk that came, its input under way."""

    sequence: int
    reservation: Reservation
    input: Future[Fetched | Report]
    void: threading.Event = field(default_factory=threading.Event)


class Child:
    """The process's whole work; `run` returns when the parent says stop."""

    def __init__(
        self, connection: Connection, status: Status, app: Opsqueue, store: ObjectStore
    ) -> None:
        self._connection = connection
        self._status = status
        self._app = app
        self._store = store
        self._sending = threading.Lock()
        # One thread each: stages overlap with each other, not with themselves, and stay in order.
        self._fetcher = ThreadPoolExecutor(1, thread_name_prefix="fetch")
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._inbox: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._tasks: dict[str, _Task] = {}
        self._is_stopping = threading.Event()

    def run(self) -> None:
        """Serve until told to stop."""
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        self._send(Ready())
        while (task := self._inbox.get()) is not None:
            self._work_on(task)
        self._saver.shutdown()

    def _work_on(self, task: _Task) -> None:
        """The path of a chunk."""
        if self._is_stopping.is_set():
            self._report(task, GivenBack(token=task.reservation.token, reason="worker stops"))
            return
        fetched = task.input.result()
        if not isinstance(fetched, Fetched):
            self._report(task, fetched)
            return
        handler = self._app.handler_of(task.reservation.source.queue)
        self._status.begin(task.sequence)
        ran = execution.run(fetched, handler, is_void=task.void.is_set)
        self._status.end()
        if not isinstance(ran, Ran):
            self._report(task, ran)
            return
        self._saver.submit(self._save, task, ran)

    def _save(self, task: _Task, ran: Ran) -> None:
        self._report(task, execution.save(ran, self._store, is_void=task.void.is_set))

    def _report(self, task: _Task, report: Report) -> None:
        self._tasks.pop(task.reservation.token, None)
        self._send(message_of(report))

    def _send(self, message: object) -> None:
        with self._sending:
            send(self._connection, message)  # type: ignore[arg-type]

    def _listen(self) -> None:
        """Read what the parent says. When it is gone, so are we: others take over its chunks."""
        try:
            while True:
                match read_from_parent(self._connection.recv_bytes()):
                    case Work() as work:
                        self._accept(work)
                    case Void(tokens):
                        for token in tokens:
                            if task := self._tasks.get(token):
                                task.void.set()
                    case Stop():
                        self._is_stopping.set()
                        self._inbox.put(None)
                        return
                    case Hello():
                        message = "a second Hello"
                        raise AssertionError(message)
        except (EOFError, OSError):
            os._exit(1)

    def _accept(self, work: Work) -> None:
        reservation = reservation_of(work)
        task = _Task(
            work.sequence,
            reservation,
            self._fetcher.submit(execution.fetch, reservation, self._store),
        )
        self._tasks[reservation.token] = task
        self._inbox.put(task)


def main() -> None:
    """Run as `python -m opsqueue_worker.child SOCKET STATUS PARENT`: two descriptors, a pid."""
    # Ctrl-C and a TERM to the whole group are the parent's to handle: it tells us what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection, status, parent_pid = (
        Connection(int(sys.argv[1])),
        Status(int(sys.argv[2])),
        sys.argv[3],
    )
    die_with_parent(int(parent_pid))
    hello = read_from_parent(connection.recv_bytes())
    if not isinstance(hello, Hello):
        message = f"expected Hello, got {hello!r}"
        raise TypeError(message)
    set_up_logging(hello.log_level)
    Child(connection, status, load_app(hello.app), open_store(hello.store_url)).run()


if __name__ == "__main__":
    main()
