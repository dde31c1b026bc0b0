"""A pool without processes: chunks run on the worker's main thread, so that breakpoints work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence

from opsqueue.contents.codec import MAX_CHUNK_BYTES
from opsqueue.handlers.app import Opsqueue
from opsqueue.handlers.execute import Fetched, GivenBack, Report, fetch
from opsqueue.handlers.invoke import Invoker
from opsqueue.model.chunk import Token
from opsqueue.store import ObjectStore
from opsqueue_worker.pool.durations import Durations
from opsqueue_worker.pool.executor import (
    Task,
    Workbench,
    run_start_hooks,
    run_stop_hooks,
    save,
    timed,
    work_on,
)
from opsqueue_worker.pool.places import NO_PLACES, Places, Promise
from opsqueue_worker.pool.pool import Health, PoolCalls, Slots
from opsqueue_worker.pool.status import Status
from opsqueue_worker.pool.waiting import Clearance, PoolChunk, WaitingRoom

_TICK_S = 0.2

logger = logging.getLogger("opsqueue.worker")


class SoloPool:
    """Runs one chunk at a time in this process, where no hard time limit can be enforced.

    Inputs are fetched by the thread that submits the chunks, so that breakpoints see one thing at
    a time.
    """

    def __init__(
        self,
        app: Opsqueue,
        store: ObjectStore,
        *,
        prefetch: int,
        heartbeat_timeout_s: float,
        calls: PoolCalls,
        worker: str = "",
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
    ) -> None:
        self._app = app
        self._calls = calls
        self._lock = threading.Lock()
        self._places = Places(prefetch, Durations())
        self._room = WaitingRoom(timeout_s=heartbeat_timeout_s, releases_early=False)
        self._inputs: dict[Token, Fetched | Report] = {}
        self._running: tuple[PoolChunk, Task] | None = None
        self._has_run = False
        """True if the last `tick` has run a chunk."""
        self._invoker = Invoker()
        self._bench = Workbench(
            app=app,
            store=store,
            status=Status.new(1),
            worker=worker,
            limit_bytes=max_chunk_bytes,
            is_stopping=threading.Event(),
            report=self._report,
            give_back=self._take_back,
            save=lambda task, ran: self._report(task, save(task, ran, store)),
            # This process can't be replaced: the chunks go on beside what was left.
            retire=lambda reason: logger.warning("%s", reason),
        )

    @property
    def slots(self) -> Slots:
        """See `Pool`: it has one, which is the main thread."""
        return self

    def start(self) -> None:
        """See `Pool`."""
        run_start_hooks(self._app)

    def take_places(self, label: str, limit: int) -> Promise:
        """See `Slots`."""
        with self._lock:
            if self._bench.is_stopping.is_set():
                return NO_PLACES
            most = limit + self._places.in_hand
            return self._places.take(label, limit, slots=1, most=most)

    def whose_turn(self) -> str | None:
        """See `Slots`."""
        with self._lock:
            return self._places.whose_turn()

    def withdraw(self, label: str) -> None:
        """See `Slots`."""
        with self._lock:
            self._places.withdraw(label)

    def give_places_back(self, label: str, number: int) -> None:
        """See `Slots`."""
        with self._lock:
            self._places.give_back(label, number)

    def submit(self, chunks: Sequence[PoolChunk]) -> None:
        """See `Slots`."""
        inputs = {chunk.token: fetch(chunk.reservation, self._bench.store) for chunk in chunks}
        with self._lock:
            self._places.host(sum(chunk.is_suspect for chunk in chunks))
            is_refused = self._bench.is_stopping.is_set()
            if not is_refused:
                self._inputs |= inputs
                self._room.add(chunks)
        if is_refused:
            self._release(chunks, "worker stops")
        self._calls.on_change()

    def may_begin(self, tokens: Iterable[Token]) -> None:
        """See `Slots`."""
        with self._lock:
            for token in tokens:
                if chunk := self._room.find(token):
                    chunk.clearance = Clearance.GIVEN
        self._calls.on_change()

    def begun(self) -> list[Token]:
        """See `Slots`."""
        with self._lock:
            begun = [chunk.token for chunk in self._room if chunk.is_said_to_begin]
            return begun if self._running is None else [self._running[0].token, *begun]

    def confirm(self, label: str, at: float) -> None:
        """See `Slots`."""
        with self._lock:
            self._room.confirm(label, at)

    def drain(self, label: str) -> None:
        """See `Slots`."""
        with self._lock:
            self._places.drain(label)

    def revoke(self, tokens: Iterable[Token]) -> None:
        """See `Slots`."""
        with self._lock:
            waiting = []
            for token in tokens:
                if chunk := self._room.remove(token):
                    waiting.append(chunk)
                elif self._running is not None and self._running[0].token == token:
                    self._running[1].revoke()
        self._release(waiting, "its reservation was revoked")

    def tick(self) -> None:
        """Run one chunk, if there is one."""
        begin: list[Token] = []
        task = None
        with self._lock:
            overdue = self._room.take_overdue()
            for chunk in self._room:
                if not self._room.is_current(chunk):
                    continue
                if chunk.is_suspect and self._places.in_hand > 1:
                    continue
                if chunk.clearance is Clearance.NEEDED:
                    self._room.ask(chunk)
                    begin.append(chunk.token)
                    break  # one at a time, since one begins
                if chunk.clearance is Clearance.ASKED:
                    break
                self._room.remove(chunk.token)
                chunk.sequence += 1
                good_until = self._room.good_until(chunk)
                fetched = self._inputs[chunk.token]
                task = Task(chunk.sequence, chunk.reservation, fetched, good_until)
                self._running = (chunk, task)
                break
        self._release(overdue, "other workers may be idle")
        if begin:
            self._calls.on_begin(begin)
        self._has_run = task is not None
        if task is not None:
            work_on(self._bench, task, 0, self._invoker)

    def _report(self, task: Task, report: Report) -> None:
        chunk = self._end()
        if chunk is None:
            return  # `kill` has released it
        with self._lock:
            self._leave(chunk)
        self._calls.on_reports([timed(task, report)])

    def _take_back(self, task: Task) -> None:
        chunk = self._end()
        if chunk is None:
            return
        if task.is_revoked():
            self._release([chunk], "its reservation was revoked")
            return
        with self._lock:
            self._room.put_back([chunk])

    def _end(self) -> PoolChunk | None:
        with self._lock:
            running, self._running = self._running, None
        return None if running is None else running[0]

    def _leave(self, chunk: PoolChunk) -> None:
        self._inputs.pop(chunk.token, None)
        self._places.give_back(chunk.label, 1)
        self._places.dismiss(int(chunk.is_suspect))

    def _release(self, chunks: Sequence[PoolChunk], reason: str) -> None:
        if chunks:
            with self._lock:
                for chunk in chunks:
                    self._leave(chunk)
            self._calls.on_reports(
                [GivenBack(token=chunk.token, reason=reason) for chunk in chunks]
            )

    def retire_children(self) -> None:
        """Log that there are no children."""
        logger.warning("--pool solo has no children to replace: restart it to run new code")

    def dump_stacks(self) -> None:
        """Do nothing: there are no children."""

    def stop(self) -> None:
        """See `Pool`."""
        with self._lock:
            if self._bench.is_stopping.is_set():
                return
            self._bench.is_stopping.set()
            waiting = self._room.clear()
        self._release(waiting, "worker stops")
        run_stop_hooks(self._app)
        self._invoker.close()

    def kill(self) -> None:
        """Release all chunks, also the one whose handler is running; from any thread."""
        with self._lock:
            self._bench.is_stopping.set()
            chunks = self._room.clear()
        if (running := self._end()) is not None:
            chunks.append(running)
        self._release(chunks, "worker stops")

    @property
    def tick_s(self) -> float:
        """See `Pool`."""
        return 0.0 if self._has_run and len(self._room) else _TICK_S

    @property
    def chunks_running(self) -> int:
        """See `Pool`."""
        return len(self._bench.status.running())

    def health(self) -> Health:
        """See `Pool`."""
        return Health(ready=1, wanted=1)

    @property
    def is_empty(self) -> bool:
        """See `Pool`."""
        return len(self._room) == 0 and self._running is None
