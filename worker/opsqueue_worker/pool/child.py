"""A child process: works on the chunks that its parent sends, and dies with its parent.

One thread reads messages and another sends them, further threads fetch inputs from the store and
save outputs there, and the executor runs the handler. Contents are decoded and encoded only in the
handler's stage: if a chunk's contents kill the process, that chunk is marked as the running one.
"""

from __future__ import annotations

import errno
import faulthandler
import io
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import NoReturn, TextIO

from opsqueue.exceptions import IncorrectUsageError, OpsqueueError
from opsqueue.handlers import execute as execution
from opsqueue.handlers.app import Opsqueue
from opsqueue.handlers.execute import Ran, Report
from opsqueue.model.chunk import Source
from opsqueue.model.process import die_with_parent, renew_in_children
from opsqueue.store import ObjectStore, open_store
from opsqueue.tracing.export import export_spans
from opsqueue_worker.app_import import import_app, keep_standard_streams, out_of_reach, own_stderr
from opsqueue_worker.ending import end_soon
from opsqueue_worker.logs import set_up_logging
from opsqueue_worker.pool.defect import ends_process
from opsqueue_worker.pool.executor import (
    Executor,
    Inbox,
    LoopExecutor,
    MainThreadExecutor,
    Task,
    ThreadsExecutor,
    Workbench,
    run_start_hooks,
    run_stop_hooks,
    save,
    timed,
)
from opsqueue_worker.pool.messages import (
    ChunkReport,
    Confirmed,
    Hello,
    NotStarted,
    Ready,
    Recall,
    Reports,
    Returned,
    Revoked,
    Stop,
    ToParent,
    Unfit,
    Work,
    message_of,
    read_from_parent,
    reservation_of,
    send,
)
from opsqueue_worker.pool.pool import NotStartedError
from opsqueue_worker.pool.status import Status

logger = logging.getLogger("opsqueue.worker")
STORE_THREADS = 8
"""Threads that fetch inputs from the store; as many again save outputs."""
REPORTS_AT_MOST = 500
"""Limit of the reports in one message."""


class Child:
    """The whole work of the process; `run` returns after the parent sent `Stop`."""

    def __init__(
        self,
        connection: Connection,
        hello: Hello,
        status: Status,
        app: Opsqueue,
        store: ObjectStore,
    ) -> None:
        self._connection = connection
        self._app = app
        self._store = store
        self._status = status
        self._outbox: queue.SimpleQueue[ChunkReport | Returned | Unfit | None] = queue.SimpleQueue()
        # Several threads even where one chunk runs at a time: a tiny chunk is finished long before
        # a bucket, or a disk that syncs, has answered. A thread starts when all others are busy.
        self._fetchers = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="fetch")
        self._savers = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="save")
        self._inbox: Inbox = queue.SimpleQueue()
        self._tasks: dict[str, Task] = {}
        self._source: Source | None = None
        self._is_stopping = threading.Event()
        bench = Workbench(
            app=app,
            store=store,
            status=status,
            worker=hello.worker,
            limit_bytes=hello.max_chunk_bytes,
            is_stopping=self._is_stopping,
            report=self._report,
            give_back=lambda task: self._give_back([task]),
            save=self._save_beside,
            retire=self._retire,
        )
        renew_in_children(self)
        self._executor: Executor
        match hello.pool:
            case "thread":
                self._executor = ThreadsExecutor(bench, hello.slots)
            case "async":
                self._executor = LoopExecutor(bench, hello.slots)
            case _:
                self._executor = MainThreadExecutor(bench)

    def start_afresh(self) -> None:
        """See `process.StartsAfresh`: what a handler forks can send its parent's parent nothing."""
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, self._connection.fileno(), inheritable=False)
        os.close(nothing)

    def run(self) -> None:
        """Work until the parent sends `Stop`."""
        # After the start hooks (see `main`), since an app may set up its own SDK there.
        export_spans("opsqueue-worker")
        threading.Thread(target=ends_process(self._listen), name="listen", daemon=True).start()
        self._send(Ready())
        speaking = threading.Thread(target=ends_process(self._speak), name="speak", daemon=True)
        speaking.start()
        self._executor.run(self._inbox)
        self._savers.shutdown()
        self._outbox.put(None)
        speaking.join()
        run_stop_hooks(self._app)
        end_soon(0)
        self._executor.close()

    def _retire(self, reason: str) -> None:
        # Not only when the parent asks for it: what waits here must not begin meanwhile.
        self._is_stopping.set()
        self._outbox.put(Unfit(reason))

    def _report(self, task: Task, report: Report) -> None:
        self._tasks.pop(task.reservation.token, None)
        self._outbox.put(message_of(timed(task, report)))

    def _give_back(self, tasks: Sequence[Task]) -> None:
        tokens = [task.reservation.token for task in tasks]
        for token in tokens:
            self._tasks.pop(token, None)
        self._outbox.put(Returned(tokens))

    def _save_beside(self, task: Task, ran: Ran) -> None:
        if ran.is_small:
            # Not behind others, which may wait for a broken store: this output needs no store.
            self._save(task, ran)
            return
        self._savers.submit(ends_process(self._save), task, ran)

    def _save(self, task: Task, ran: Ran) -> None:
        self._report(task, save(task, ran, self._store))

    def _send(self, message: ToParent) -> None:
        try:
            send(self._connection, message)
        except OSError as exc:
            # Either thread may notice it first.
            _end_without_parent(exc)

    def _speak(self) -> None:
        """Send reports, combining the waiting ones into one message.

        It runs in a separate thread because a report must not wait for the next chunk, which may
        run for any time. Where chunks are tiny the thread runs seldom and then sends many reports.
        """
        is_over = False
        while not is_over:
            drained = self._drained()
            is_over = drained[-1] is None
            self._status.note_memory()
            for message in drained:
                if isinstance(message, Unfit | Returned):
                    self._send(message)
            reports = [m for m in drained if not (m is None or isinstance(m, Unfit | Returned))]
            if reports:
                self._send(Reports(reports))

    def _drained(self) -> list[ChunkReport | Returned | Unfit | None]:
        """Wait for a report and return all waiting ones; None as the last means no more follow."""
        reports = [self._outbox.get()]
        while len(reports) < REPORTS_AT_MOST and not self._outbox.empty():
            reports.append(self._outbox.get())
        return reports

    def _listen(self) -> None:
        """Handle the parent's messages; end this process when the parent is gone.

        Other workers then take over its chunks.
        """
        try:
            while True:
                message = read_from_parent(self._connection.recv_bytes())
                keep_standard_streams()
                match message:
                    case Work() as work:
                        self._accept(work)
                    case Revoked() | Confirmed() as message:
                        self._tell_tasks(message)
                    case Recall():
                        self._give_back(self._waiting())
                    case Stop():
                        self._is_stopping.set()
                        self._give_back(self._waiting())
                        self._inbox.put(None)
                    case Hello():
                        defect = "a second Hello"
                        raise AssertionError(defect)
        except (EOFError, OSError) as exc:
            _end_without_parent(exc)

    def _tell_tasks(self, message: Revoked | Confirmed) -> None:
        match message:
            case Revoked(tokens):
                for token in tokens:
                    if task := self._tasks.get(token):
                        task.revoke()
            case Confirmed(good_until):
                for token, until in good_until.items():
                    if task := self._tasks.get(token):
                        task.good_until = until

    def _waiting(self) -> list[Task]:
        """Remove the chunks that no slot has taken yet from the inbox, and return them."""
        tasks = []
        with suppress(queue.Empty):
            while (task := self._inbox.get_nowait()) is not None:
                tasks.append(task)
            self._inbox.put(None)  # that of a `Stop` before
        return tasks

    def _accept(self, work: Work) -> None:
        self._source = work.source or self._source
        if self._source is None:
            message = "chunks without their submission"
            raise AssertionError(message)
        for chunk in work.chunks:
            reservation = reservation_of(chunk, self._source)
            if execution.is_fetched_from_store(reservation):
                fetching = self._fetchers.submit(execution.fetch, reservation, self._store)
                task = Task(chunk.sequence, reservation, fetching, chunk.good_until)
            else:
                fetched = execution.fetch(reservation, self._store)
                task = Task(chunk.sequence, reservation, fetched, chunk.good_until)
            self._tasks[reservation.token] = task
            self._inbox.put(task)


def _end_without_parent(exc: Exception) -> NoReturn:
    """End this process because the connection to the parent is gone, usually with the parent."""
    if isinstance(exc, OSError) and exc.errno == errno.EBADF:
        logger.critical(
            "process %d ends: its connection to the worker was closed here, as by "
            "os.closerange() in the app or in a handler",
            os.getpid(),
        )
    os._exit(1)


def _leave_signals_to_parent(log: TextIO) -> None:
    """Ignore Ctrl-C and signals to the whole process group: the parent sends `Stop` instead.

    USR1 prints the stacks to `log`.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # Not SIG_IGN, which is inherited: terminate() could not end programs that a handler starts.
    signal.signal(signal.SIGTERM, lambda *_: None)
    faulthandler.register(signal.SIGUSR1, file=log, all_threads=True)


def _log_defect(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    """Log what ends this process: the app may have closed `sys.stderr`."""
    logger.critical("a defect: this process ends", exc_info=(kind, exc, trace))


def main() -> None:
    """Run as `python -m opsqueue_worker.pool.child SOCKET STATUS PARENT`.

    SOCKET and STATUS are file descriptors, PARENT is a process id.
    """
    log = own_stderr()
    _leave_signals_to_parent(log)
    os.register_at_fork(after_in_child=partial(signal.signal, signal.SIGTERM, signal.SIG_DFL))
    socket, memory, parent_pid = (int(argument) for argument in sys.argv[1:])
    # The copies are not inherited. Otherwise a program that a handler starts and that outlives this
    # process would keep the socket open, and the parent would not notice the end of this process.
    socket, memory = out_of_reach(socket), out_of_reach(memory)
    die_with_parent(parent_pid)
    connection = Connection(socket)
    try:
        hello = read_from_parent(connection.recv_bytes())
    except (EOFError, OSError):
        return  # the worker ended while this process started
    if not isinstance(hello, Hello):
        message = f"expected Hello, got {hello!r}"
        raise TypeError(message)
    set_up_logging(hello.log_level, hello.log_format, log)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # It is a pipe to the parent: lines would wait in a buffer, and be lost if this is killed.
        sys.stdout.reconfigure(line_buffering=True)
    status = Status(memory, hello.slots)
    sys.excepthook = _log_defect
    try:
        app, store = import_app(hello.app), open_store(hello.store_url)
        for name in hello.must_serve:
            app.handler_of(name)
        run_start_hooks(app)
    except NotStartedError as exc:
        reason = NotStarted(str(exc), exc.is_usage)
    except OpsqueueError as exc:
        # The parent prints the reason.
        logger.debug("the cause", exc_info=exc.__cause__)
        reason = NotStarted(str(exc), isinstance(exc, IncorrectUsageError))
    else:
        _leave_signals_to_parent(log)  # a hook may have changed them
        store.store_id = hello.store_id
        Child(connection, hello, status, app, store).run()
        return
    end_soon(1)  # a hook may have started a thread that never ends
    try:
        send(connection, reason)
    except OSError as exc:
        _end_without_parent(exc)
    sys.exit(1)


if __name__ == "__main__":
    main()
