"""The number of opsqueue's functions and modules in a flow: `python -m tests.crossed` prints it.

Each flow runs twice in this process, with an embedded server and a memory store. The second run is
recorded, when modules are imported and scripts loaded. Each function of opsqueue's packages that is
entered at least once, on any thread, counts. Lambdas, comprehensions, methods that dataclasses and
msgspec generate, and Lua do not count. The worker's child is a thread here.
`python -m tests.crossed --names` prints the functions, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import httpx
from redis.connection import AbstractConnection

import opsqueue
import opsqueue_api
import opsqueue_worker
from opsqueue.handlers.app import Opsqueue
from opsqueue.handlers.execute import Report
from opsqueue.model.submission import SubmissionId
from opsqueue.producer import ProducerClient
from opsqueue.producer.http_api import HttpBackend
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.store.memory import MemoryStore
from opsqueue.testing.embedded import EmbeddedServer
from opsqueue_api.app import create_app
from opsqueue_api.http.settings import Limits
from opsqueue_worker.intake.exchanges import Exchanges, Runs
from opsqueue_worker.intake.intake import Intake
from opsqueue_worker.intake.intakes import Intakes
from opsqueue_worker.pool.child import Child
from opsqueue_worker.pool.child_pool import ChildPool
from opsqueue_worker.pool.messages import Hello, read_from_parent
from opsqueue_worker.pool.pool import PoolCalls
from opsqueue_worker.pool.status import Status
from tests.redis_sets import until

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

Function = tuple[str, str]
"""File and name of a function."""
PACKAGES: Final = (opsqueue, opsqueue_api, opsqueue_worker)
OURS: Final = tuple(str(Path(package.__path__[0])) + os.sep for package in PACKAGES)
SEND: Final = AbstractConnection.send_packed_command.__code__
"""The function that sends a command, and also a whole pipeline at once."""
API: Final = "http://api"
QUEUE: Final = "numbers"
CHECKED: Final = "checked"
"""Its handler collects the errors of operations."""

app = Opsqueue()
app.operation_handler(QUEUE)(abs)
app.operation_handler(CHECKED, on_error="collect")(abs)


@dataclass(slots=True)
class Crossed:
    """The functions and modules that a flow has entered."""

    functions: set[Function] = field(default_factory=set)
    round_trips: int = 0

    @property
    def modules(self) -> set[str]:
        return {path for path, _ in self.functions}


class Recorder:
    """Records entered functions, on threads that start after it was installed."""

    def __init__(self) -> None:
        self._crossed: Crossed | None = None
        self._thread = threading.local()

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        crossed, code = self._crossed, frame.f_code
        if event != "call" or crossed is None:
            return
        if code is SEND:
            crossed.round_trips += 1
        elif (
            code.co_filename.startswith(OURS)
            and not code.co_name.startswith("<")
            and not getattr(self._thread, "is_beyond", False)
        ):
            crossed.functions.add((code.co_filename, code.co_qualname))

    @contextmanager
    def installed(self) -> Iterator[None]:
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    @contextmanager
    def recording(self, crossed: Crossed) -> Iterator[None]:
        self._crossed = crossed
        try:
            yield
        finally:
            self._crossed = None

    @contextmanager
    def beyond(self) -> Iterator[None]:
        """Stop counting on this thread meanwhile, since it is beyond the border."""
        self._thread.is_beyond = True
        try:
            yield
        finally:
            self._thread.is_beyond = False


class ChildInThread:
    """Stands in for the process of a child: the same `Child` on a thread."""

    def __init__(self, store: MemoryStore, command: Sequence[str]) -> None:
        self.pid = os.getpid()
        socket, memory = (os.dup(int(number)) for number in command[-3:-1])
        arguments = (Connection(socket), memory, store)
        threading.Thread(target=self._run, args=arguments, daemon=True).start()

    def _run(self, connection: Connection, memory: int, store: MemoryStore) -> None:
        hello = read_from_parent(connection.recv_bytes())
        assert isinstance(hello, Hello)
        Child(connection, hello, Status(memory, hello.slots), app, store).run()


class Flows:
    """The five, each recorded from its first function of ours to its last."""

    def __init__(self, redis_url: str, recorder: Recorder) -> None:
        self._recorder = recorder
        self._client = connect(redis_url)
        self._store = MemoryStore("crossed")
        api = create_app(
            self._client, self._store, limits=Limits(inline_bytes=0), allowed_hosts=["api"]
        )

        def border(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
            with recorder.beyond():
                return list(api(environ, start_response))

        self._over_http = HttpBackend(API, transport=httpx.WSGITransport(border))
        self._http = httpx.Client(base_url=API, transport=httpx.WSGITransport(api))
        self._changed = threading.Condition()
        self._intakes: Intakes | None = None
        self._pool = self._started_pool()

    def _producer(self, queue: str = QUEUE) -> ProducerClient:
        return ProducerClient.over(self._over_http, self._store, queue=queue, inline_bytes=0)

    def insert_from_client(self, crossed: Crossed) -> None:
        """Three chunks, to the store; up to the API's border."""
        producer = self._producer()
        with self._recorder.recording(crossed):
            producer.insert_submission([1, -2, 3], chunk_size=1)
        self._work(QUEUE)

    def insert_over_http(self, crossed: Crossed) -> None:
        """A body of JSON with operations, which the API cuts and stores; request in, answer out."""
        with self._recorder.recording(crossed):
            answer = self._http.post(
                f"/v1/queues/{QUEUE}/submissions", json={"operations": [1, -2, 3], "chunk_size": 1}
            )
        assert answer.status_code == httpx.codes.CREATED, answer.text
        self._work(QUEUE)

    def chunk_in_worker(self, crossed: Crossed) -> None:
        """One chunk, its input and output in the store; from its reservation to its report."""
        self._producer().insert_submission([-1], chunk_size=1)
        intake = self._intake_of(QUEUE)
        with self._recorder.recording(crossed):
            _exchange(intake)  # takes it
            _exchange(intake)  # reports it
        assert intake.is_drained
        assert intake.chunks_done == 1

    def iter_results(self, crossed: Crossed) -> None:
        """A completed submission of three chunks; up to the API's border."""
        submission_id = self._completed(QUEUE, [1, -2, 3])
        producer = self._producer()
        with self._recorder.recording(crossed):
            results = list(producer.iter_results(submission_id))
        assert results == [1, 2, 3]

    def submission_page(self, crossed: Crossed) -> None:
        """All that the page asks the API about a submission with an error; not its files."""
        submission_id = self._completed(CHECKED, [1, "two", 3])
        queue = f"/v1/queues/{CHECKED}"
        submission = f"{queue}/submissions/{submission_id}"
        with self._recorder.recording(crossed):
            for path in ("", "/chunks?cells=1000", "/errors", "/events"):
                assert self._http.get(submission + path).status_code == httpx.codes.OK
            with self._http.stream("GET", f"{queue}/events") as answer:
                assert any(line.startswith("event:") for line in answer.iter_lines())

    def _completed(self, queue: str, operations: Sequence[object]) -> SubmissionId:
        producer = self._producer(queue)
        submission_id = producer.insert_submission(operations, chunk_size=1)
        self._work(queue)
        assert producer.is_completed(submission_id)
        return submission_id

    # The worker

    def _started_pool(self) -> ChildPool:
        hello = Hello(
            app="",
            store_url="",
            pool="process",
            slots=1,
            worker="w",
            log_level="info",
            log_format="plain",
        )
        calls = PoolCalls(
            on_reports=self._report,
            on_change=self._announce,
            on_begin=lambda _tokens: None,
            time_limit_of=lambda _queue: 60.0,
        )
        process = SimpleNamespace(
            Popen=lambda command, **_: ChildInThread(self._store, command),
            DEVNULL=subprocess.DEVNULL,
        )
        pool = ChildPool(hello, size=1, prefetch=1, heartbeat_timeout_s=60.0, calls=calls)
        with patch("opsqueue_worker.pool.child_process.subprocess", process):
            pool.start()
        return pool

    def _report(self, reports: Sequence[Report]) -> None:
        assert self._intakes is not None
        self._intakes.report(reports)

    def _announce(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _intake_of(self, queue: str) -> Intake:
        """A new one, as the worker makes it; its threads are not started."""
        handler = app.handler_of(queue)

        def make(part: Queue) -> Intake:
            return Intake(
                part,
                handler,
                strategy=handler.strategy,
                worker="w",
                slots=self._pool.slots,
                exchanges=NoThreads(lambda: None),
                changed=self._changed,
            )

        self._intakes = Intakes([Queue(self._client, queue)], make)
        (intake,) = self._intakes
        return intake

    def _work(self, queue: str) -> None:
        """Do all that there is."""
        intake = self._intake_of(queue)
        while not intake.is_drained:
            _exchange(intake)


class NoThreads(Exchanges):
    """The test itself runs the intake, in this thread."""

    def offer(self, intake: Runs) -> None: ...


def _exchange(intake: Intake) -> None:
    """Do what a thread does when there is something to do."""
    until(lambda: intake.run().at_once, "there is something to report or a place")


def measured() -> Mapping[str, Crossed]:
    """What each flow crosses. Leaves threads behind: for a process of its own."""
    recorder = Recorder()
    with (
        recorder.installed(),
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder), is_durable=False) as server,
    ):
        flows = Flows(server.url, recorder)
        named: Mapping[str, Callable[[Crossed], None]] = {
            "an insert from the client": flows.insert_from_client,
            "an insert over HTTP": flows.insert_over_http,
            "a chunk in a worker": flows.chunk_in_worker,
            "iter_results": flows.iter_results,
            "the dashboard's submission page": flows.submission_page,
        }
        all_crossed = {name: Crossed() for name in named}
        for name, flow in named.items():
            flow(Crossed())
            flow(all_crossed[name])
        return all_crossed


def main() -> None:
    print("functions  modules  round trips to Redis  flow")  # noqa: T201 a program that reports
    for name, crossed in measured().items():
        functions, modules = len(crossed.functions), len(crossed.modules)
        print(f"{functions:9}  {modules:7}  {crossed.round_trips:20}  {name}")  # noqa: T201 as above
        if "--names" in sys.argv:
            for path, function in sorted(crossed.functions):
                print(f"    {Path(path).name}: {function}")  # noqa: T201 as above


if __name__ == "__main__":
    main()
