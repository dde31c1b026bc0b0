"""`opsqueue queues`, `workers`, `pause`, `resume`, `limits`, `top`, `completion`."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time

import msgspec
import pytest

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.model.new_submission import NewSubmission
from opsqueue.queue.queue import Queue
from opsqueue.strategy import Oldest
from tests.opsqueue.cli.conftest import Document, Run

INFO = json.dumps(
    {"host": "box", "pid": 7, "pool": "process", "concurrency": 4, "version": "0.1.0"}
).encode()


@pytest.fixture
def busy(queue: Queue) -> Queue:
    """A worker holds 2 of 8 chunks; 5 are left besides."""
    queue.heartbeat("w1", info=INFO)
    prefix = fresh_prefix(queue.name)
    queue.insert_submission(NewSubmission(prefix=prefix, chunks_total=8, chunk_size=10))
    chunks = queue.reserve_chunks("w1", strategy=Oldest(), limit=3).chunks
    queue.complete_chunks([chunks[0].token])
    return queue


def line_of(output: str, name: str) -> list[str]:
    (line,) = [line for line in output.splitlines() if name in line]
    return line.split()


def test_queues_show_what_waits(run: Run, document: Document, busy: Queue) -> None:
    shown = run("queues").stdout
    found = {one["queue"]: one for one in document(run("queues", "--json"))["queues"]}

    assert [busy.name, "1", "7", "2", "0"] == line_of(shown, busy.name)[:5]
    assert (7, 1) == (
        found[busy.name]["stats"]["backlog_chunks"],
        found[busy.name]["workers"],
    )


def test_a_queue_is_deleted_when_nothing_is_in_it(run: Run, queue: Queue, redis_url: str) -> None:
    """Otherwise the error names its contents; a queue that never existed is refused, too."""
    prefix = fresh_prefix(queue.name)
    id_ = queue.insert_submission(
        NewSubmission(prefix=prefix, chunks_total=1, chunk_size=1, retention_ms=0)
    ).id

    refused = run("queues", "delete", queue.name, "--redis-url", redis_url)
    queue.cancel_submission(id_)
    queue.forget_submissions()
    queue.forget_submissions(deleted_prefixes=[prefix])
    deleted = run("queues", "delete", queue.name, "--redis-url", redis_url)
    again = run("queues", "delete", queue.name, "--redis-url", redis_url)

    assert (refused.exit_code, deleted.exit_code, again.exit_code) == (2, 0, 2)
    assert "submissions in progress: 1" in refused.output
    assert f"queue {queue.name} is deleted" in deleted.output
    assert f"there is no queue '{queue.name}'" in again.output
    assert queue.name not in run("queues").stdout
    misplaced = run("queues", "--redis-url", redis_url, "delete", queue.name)
    assert misplaced.exit_code == 2
    assert "--redis-url must follow delete" in misplaced.output


def test_workers_show_what_they_hold(run: Run, document: Document, busy: Queue) -> None:
    """The list also shows since when they hold their chunks."""
    shown = line_of(run("workers", busy.name).stdout, busy.name)
    (worker,) = document(run("workers", busy.name, "--json"))["queues"][busy.name]["workers"]

    assert ["w1", busy.name, "2"] == shown[:3]
    assert "box" in shown
    assert ("w1", 2) == (worker["name"], worker["chunks_in_hand"])
    assert worker["oldest_ms"] >= 0


def test_a_worker_whose_children_do_not_start_is_told_from_a_healthy_one(
    run: Run, busy: Queue
) -> None:
    """By the number of children, and by the reason in a line of its own."""
    for name, ready, problem in (("w1", 4, ""), ("w2", 1, "no module 'tasks'")):
        info = {"children_ready": ready, "children_wanted": 4, "problem": problem}
        busy.heartbeat(name, info=msgspec.json.encode(info))

    ran = run("workers", busy.name)

    assert [["4", "of", "4"], ["1", "of", "4"]] == [
        line_of(ran.stdout, name)[-3:] for name in ("w1", "w2")
    ]
    assert "worker w2: no module 'tasks'\n" == ran.stderr


def test_a_paused_queue_gives_no_chunk_until_it_is_resumed(
    run: Run, document: Document, busy: Queue
) -> None:
    """Lists show the queue as paused."""
    paused = document(run("pause", busy.name, "--json"))
    taken = busy.reserve_chunks("w2", strategy=Oldest()).chunks
    shown = line_of(run("queues").stdout, busy.name)
    resumed = document(run("resume", busy.name, "--json"))

    assert (True, False, ()) == (paused["is_paused"], resumed["is_paused"], taken)
    assert "paused" == shown[-1]
    assert 1 == len(busy.reserve_chunks("w2", strategy=Oldest()).chunks)


def test_a_queue_can_be_paused_before_its_first_submission(run: Run, queue: Queue) -> None:
    """This is useful before a rebuild; without the option it is treated as a typo."""
    refused, paused = run("pause", queue.name), run("pause", queue.name, "--new")

    assert (2, 0) == (refused.exit_code, paused.exit_code)
    assert f"queue {queue.name} is paused" in paused.stderr
    assert queue.count_queue().is_paused


def test_limits_are_listed_as_json(
    run: Run, document: Document, queue_name: str, redis_url: str
) -> None:
    """They are set through Redis, which alone reports them."""
    redis = ("--redis-url", redis_url)
    command = ("limits", "set", queue_name, "customer")

    assert 0 == run(*command, "--value", "7", "--max", "3", *redis).exit_code
    assert 2 == run(*command, "--max", "-1", *redis).exit_code
    (limit,) = document(run("limits", "list", queue_name, "--json", *redis))["limits"]

    assert ("customer", 7, 3) == (limit["meta_key"], limit["value"], limit["max"])


def test_a_frame_shows_queues_submissions_and_workers(run: Run, busy: Queue) -> None:
    """Only those of the queue that is named."""
    shown = run("top", busy.name, "--once").stdout

    assert "7 chunks left" in shown
    (submission,) = [line for line in shown.splitlines() if "1 of 8" in line]
    assert busy.name in submission
    assert line_of(shown, "box")[0] == "w1"
    assert 2 == run("top", busy.name).exit_code, "it is not a terminal"
    assert "there is no queue" in run("top", busy.name + "_", "--once").stderr


@pytest.mark.system
def test_q_leaves_the_live_screen(busy: Queue, redis_url: str) -> None:
    """The terminal is restored afterwards."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "opsqueue.cli", "top", busy.name, "--redis-url", redis_url]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, env=environment) as process:
        os.close(theirs)
        try:
            read_until(ours, b"1 of 8")
            os.write(ours, b"q")
            # Back from the alternate screen.
            read_until(ours, b"\x1b[?1049l")
            code = process.wait(30)
        finally:
            process.kill()
            os.close(ours)

    assert 0 == code


def read_until(descriptor: int, text: bytes) -> None:
    read = b""
    deadline = time.monotonic() + 60
    while text not in read:
        ready, _, _ = select.select([descriptor], [], [], deadline - time.monotonic())
        assert ready, read
        read += os.read(descriptor, 65_536)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("opsqueue sub", "submit"), ("opsqueue list {queue}", "{queue}"), ("opsqueue list zz", None)],
)
def test_a_shell_completes_commands_and_queues(
    run: Run, queue: Queue, typed: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a match it prints nothing."""
    # A busy machine may take longer than a shell waits for.
    monkeypatch.setattr("opsqueue.cli.names._COMPLETE_WITHIN_S", 60)
    queue.heartbeat("w1")
    half = queue.name[:-2]

    result = run(
        _OPSQUEUE_COMPLETE="bash_complete",
        COMP_WORDS=typed.format(queue=half),
        COMP_CWORD=str(len(typed.split()) - 1),
    )

    found = [line.partition(",")[2] for line in result.stdout.split()]
    assert found == ([expected.format(queue=queue.name)] if expected else [])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(run: Run, shell: str) -> None:
    result = run("completion", shell)

    assert 0 == result.exit_code
    assert f"_OPSQUEUE_COMPLETE={shell}_complete" in result.stdout
