"""The messages between a child and its parent, and their times."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from msgspec.structs import replace

from opsqueue.contents.output import Encoded
from opsqueue.handlers.app import Opsqueue
from opsqueue.handlers.execute import Ran
from opsqueue.model.chunk import Token
from opsqueue.store.memory import MemoryStore
from opsqueue_worker.pool.child import Child
from opsqueue_worker.pool.child_process import ChildProcess
from opsqueue_worker.pool.messages import ChunkDone, Hello, Reports, Revoked, read_from_child, send
from opsqueue_worker.pool.status import Status
from opsqueue_worker.pool.waiting import PoolChunk
from tests.opsqueue_worker.intake.test_reporter import CHUNK
from tests.opsqueue_worker.pool.test_executor import task_of

HELLO = Hello(
    app="",
    store_url="",
    pool="process",
    slots=1,
    worker="w",
    log_level="info",
    log_format="plain",
)


class HangingStore(MemoryStore):
    """A store whose writes wait for the test."""

    def __init__(self) -> None:
        super().__init__("hanging")
        self.goes_on = threading.Event()

    def create(self, key: str, data: bytes) -> bool:
        self.goes_on.wait(60)
        return super().create(key, data)


@pytest.fixture
def store() -> Iterator[HangingStore]:
    store = HangingStore()
    yield store
    store.goes_on.set()


def test_the_report_of_a_small_output_waits_for_no_object_store(store: HangingStore) -> None:
    """Another chunk's output may hang in the store for any time."""
    ours, theirs = (Connection(end.detach()) for end in socket.socketpair())
    child = Child(ours, HELLO, Status.new(1), Opsqueue(), store)
    threading.Thread(target=child._speak, daemon=True).start()
    stored = CHUNK
    small = replace(
        CHUNK, token=Token("2-0"), source=replace(CHUNK.source, prefix="small", is_inline=True)
    )

    for reservation in (stored, small):
        ran = Ran(reservation, Encoded(b"output", 0), operations=1, duration_s=0.0)
        child._save_beside(task_of(reservation), ran)

    assert small.token == token_of_report(theirs)
    store.goes_on.set()
    assert stored.token == token_of_report(theirs)


def token_of_report(connection: Connection) -> str:
    assert connection.poll(10), "no report came"
    message = read_from_child(connection.recv_bytes())
    assert isinstance(message, Reports)
    (report,) = message.reports
    assert isinstance(report, ChunkDone)
    return report.token


def test_a_dead_childs_descriptor_is_kept_while_somebody_speaks_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the next child could get its number, and messages of another child."""
    is_speaking, goes_on = threading.Event(), threading.Event()

    def speak_slowly(connection: Connection, message: object) -> None:
        if isinstance(message, Revoked):
            is_speaking.set()
            goes_on.wait(20)
        send(connection, message)  # type: ignore[arg-type]

    monkeypatch.setattr("opsqueue_worker.pool.child_process.send", speak_slowly)
    child = ChildProcess(HELLO)
    speaking = threading.Thread(target=child.speak)
    speaking.start()
    child.assign(PoolChunk(reservation=CHUNK, reserved_at=0.0, begin_by=0.0), good_until=0.0)
    child.hand_over()
    child.revoke([CHUNK.token])
    assert is_speaking.wait(20)
    child.kill()
    child.listen(lambda: None, lambda _: None, lambda _: None, lambda _: None)
    descriptor = child._connection.fileno()

    closing = threading.Thread(target=child.close)
    closing.start()
    closing.join(0.2)
    os.fstat(descriptor)  # raises where it is closed
    goes_on.set()

    closing.join(20)
    speaking.join(20)
    assert [closing.is_alive(), speaking.is_alive()] == [False, False]
    assert child._connection.closed


@pytest.mark.parametrize("nonsense", [b"a printed line\n", b"\0\0\0\2no", b"\xff" * 12])
def test_a_child_that_sends_nonsense_is_killed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    nonsense: bytes,
) -> None:
    """Its parent goes on: what a handler writes where it does not belong is its child's defect."""
    (tmp_path / "scribbles.py").write_text(
        "import os, stat, time\n"
        "for name in os.listdir('/dev/fd'):\n"
        "    if os.path.exists(f'/dev/fd/{name}') and stat.S_ISSOCK(os.fstat(int(name)).st_mode):\n"
        f"        os.write(int(name), {nonsense!r})\n"
        "time.sleep(60)\n"
    )
    monkeypatch.chdir(tmp_path)
    child = ChildProcess(replace(HELLO, app="scribbles:app"))
    speaking = threading.Thread(target=child.speak)
    speaking.start()

    child.listen(lambda: None, lambda _: None, lambda _: None, lambda _: None)

    assert child.end() == "was killed by signal SIGKILL"
    assert "sent what is no message" in caplog.text
    child.close()
    speaking.join(20)


def test_a_child_knows_no_redis_and_no_http() -> None:
    """The parent alone uses Redis; importing the client would double the start of each child."""
    program = (
        "import sys, opsqueue_worker.pool.child\n"
        "print(*{'redis', 'httpx', 'falcon', 'click'} & set(sys.modules))"
    )

    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert found.stdout.split() == []


def test_a_child_whose_parent_is_gone_ends_without_a_word() -> None:
    """Whichever thread notices it, no traceback is needed, since other workers take over."""
    program = """
import socket
from multiprocessing.connection import Connection
from opsqueue.handlers.app import Opsqueue
from opsqueue.store.memory import MemoryStore
from opsqueue_worker.pool.child import Child
from opsqueue_worker.pool.messages import Ready
from opsqueue_worker.pool.status import Status
from tests.opsqueue_worker.pool.test_child import HELLO
ours, theirs = socket.socketpair()
child = Child(Connection(ours.detach()), HELLO, Status.new(1), Opsqueue(), MemoryStore("none"))
theirs.close()
child._send(Ready())
print("it went on")
"""

    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (1, "", "") == (ended.returncode, ended.stdout, ended.stderr)


def test_a_child_whose_worker_ended_while_it_started_ends_quietly() -> None:
    """A worker that is stopped at once has no chunks, so there is nothing to report."""
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, tempfile.TemporaryFile() as status:
        files = (theirs.fileno(), status.fileno())
        command = [sys.executable, "-m", "opsqueue_worker.pool.child", *map(str, files)]
        ended = subprocess.run(
            [*command, str(os.getpid())],
            pass_fds=files,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    assert (0, "", "") == (ended.returncode, ended.stdout, ended.stderr)
