"""The loader: names in headers become arguments, and Redis's errors become opsqueue's."""

from __future__ import annotations

import re
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import opsqueue
from opsqueue.exceptions import OpsqueueInternalError, RedisUnavailableError, ScriptError
from opsqueue.model.submission import SubmissionId
from opsqueue.queue import script
from opsqueue.queue.connection import connect, server_client
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import Scripts, load_script
from opsqueue.queue.state import READINGS, TRANSITIONS
from opsqueue.testing.embedded import EmbeddedServer
from tests.opsqueue.steps import Raw, insert, take, tokens_of

LUA = Path(opsqueue.__file__).parent / "queue" / "lua"


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server of this module alone, to flush, fill and demote."""
    with EmbeddedServer(tmp_path_factory.mktemp("own"), is_durable=False) as server:
        yield server


@pytest.fixture
def own_client(own_server: EmbeddedServer) -> Iterator[redis.Redis]:
    client = server_client(own_server.url)
    yield client
    client.close()


def line_of(name: str, text: str) -> int:
    """Return the line number of a text in a script's file."""
    lines = (LUA / f"{name}.lua").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_a_script_is_loaded_again_when_the_server_forgot_it(
    own_client: redis.Redis, queue_name: str
) -> None:
    """After a restart, a failover or SCRIPT FLUSH."""
    queue = Queue(own_client, queue_name)
    insert(queue, 1)
    own_client.script_flush()

    insert(queue, 1)

    assert queue.count_queue().stats["submissions_inserted"] == 2


def test_a_script_is_sent_once_and_then_called_by_its_sha(
    own_client: redis.Redis, queue_name: str
) -> None:
    """Its text is longer than any call."""
    queue = Queue(own_client, queue_name)
    queue.count_queue()

    def calls(command: str) -> int:
        stats: Any = own_client.info("commandstats")
        return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])

    evals, by_sha = calls("eval"), calls("evalsha")
    for _ in range(3):
        queue.count_queue()

    assert (evals, by_sha + 3) == (calls("eval"), calls("evalsha"))


def test_arguments_come_in_the_order_of_the_header() -> None:
    """Callers name them."""
    loaded = load_script("fail_chunk")

    argv = loaded.argv(
        {
            "is_final": 0, "token": "t", "jitter": 5, "now": "", "traceback": "tb", "message": "m",
            "type": "T",
        },
        [],
    )  # fmt: skip

    assert argv == ["", "t", "T", "m", "tb", 5, 0]


def test_the_rest_comes_last() -> None:
    """As many as there are."""
    loaded = load_script("release_chunks")

    assert loaded.has_rest
    arguments: dict[str, str | bytes | int] = {"now": "", "delay_ms": 0, "reason": "why"}
    assert ["", 0, "why", "a", "b"] == loaded.argv(arguments, ["a", "b"])


@pytest.mark.parametrize(
    ("arguments", "rest"),
    [
        ({"now": ""}, []),
        ({"now": "", "id": "1", "more": "x"}, []),
        ({"now": "", "ids": "1"}, []),
        ({"now": "", "id": "1"}, ["x"]),
    ],
)
def test_wrong_arguments_name_what_the_script_takes(
    arguments: dict[str, Any], rest: list[Any]
) -> None:
    """Missing, too many, misspelt, or a rest that it has not."""
    loaded = load_script("cancel_submission")

    with pytest.raises(OpsqueueInternalError, match=r"cancel_submission.lua takes \['id', 'now'\]"):
        loaded.argv(arguments, rest)


@pytest.mark.parametrize("name", [*(one.name for one in TRANSITIONS), *READINGS])
def test_no_script_negates_a_number_that_may_be_0(name: str) -> None:
    """Redis 7.0 writes -0 as "-0", which HINCRBY refuses; `0 - n` avoids it."""
    negated = re.findall(r"[,(=]\s*-[a-z]\w*.*|return -[a-z].*", load_script(name).text)

    assert [] == negated


def test_a_script_has_the_parts_that_it_names_and_those_that_they_name() -> None:
    """Each once, what it needs in front of it, and no others: a server makes their functions anew
    at every call."""
    parts = [name for name, _ in load_script("fail_chunk").parts]

    assert parts[0] == "_prelude"
    assert parts.index("_index") < parts.index("_end_submission") < parts.index("_attempt")
    assert len(parts) == len(set(parts))
    assert [name for name, _ in load_script("pause_queue").parts] == ["_prelude", "pause_queue"]


@pytest.mark.parametrize(
    "text",
    [
        "-- ARGV[1] now\n-- ARGV[2] id\nreturn {}\n",
        "-- ARGV[1] now\nreturn {ARGV[2]}\n",
        "-- ARGV[1] now\n-- ARGV[3] id\nreturn {ARGV[3]}\n",
        "-- ARGV[1] now\n-- ARGV[2...] rest\nreturn {}\n",
        "-- ARGV[1] now\n-- ARGV[2] id\n-- With _nosy.\nreturn {ARGV[2]}\n",
    ],
    ids=["unused", "undeclared", "not in order", "unused rest", "used by a part"],
)
def test_a_header_that_does_not_fit_its_text_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that text and call can't drift apart."""
    (tmp_path / "_prelude.lua").write_text("local now = ARGV[1]\n")
    (tmp_path / "_nosy.lua").write_text("local id = ARGV[2]\n")
    (tmp_path / "unfit.lua").write_text(text)
    monkeypatch.setattr(script, "_LUA", tmp_path)

    with pytest.raises(OpsqueueInternalError, match=r"unfit\.lua declares ARGV"):
        load_script("unfit")


def test_a_failure_in_a_script_is_reported_as_its_file_and_line(
    real_client: redis.Redis, queue_name: str
) -> None:
    """Not as a line of prelude and script together."""
    real_client.set(Raw(real_client, queue_name).key("workers"), "not a sorted set")
    line = line_of("reserve_chunks", "'ZSCORE', base .. 'workers'")

    with pytest.raises(ScriptError, match=rf"lua/reserve_chunks\.lua:{line}\b") as caught:
        Queue(real_client, queue_name).reserve_chunks("w1")

    assert "WRONGTYPE" in str(caught.value)
    assert "user_script" not in str(caught.value)
    # Other tests count all queues of this server.
    real_client.delete(Raw(real_client, queue_name).key("workers"))


def test_a_failure_in_the_prelude_is_reported_as_its_line_there(
    real_client: redis.Redis, queue_name: str
) -> None:
    """The script that called it is named too."""
    queue = Queue(real_client, queue_name)
    id_ = insert(queue, 1)
    real_client.set(Raw(real_client, queue_name).key("stats"), "not a hash")
    line = line_of("_prelude", "redis.call('HINCRBY', base .. 'stats', field")

    with pytest.raises(ScriptError, match=rf"cancel_submission: .*lua/_prelude\.lua:{line}\b"):
        queue.cancel_submission(id_)
    # Other tests count all queues of this server.
    real_client.delete(Raw(real_client, queue_name).key("stats"))


def test_a_value_that_is_nil_is_reported_as_its_file_and_line(
    real_client: redis.Redis, queue_name: str
) -> None:
    """A failure of Lua's own has another form than one of a command."""
    queue = Queue(real_client, queue_name)
    id_ = insert(queue, 1)
    real_client.hset(Raw(real_client, queue_name).key(f"sub:{id_}"), "retention_ms", "a day")
    line = line_of("_end_submission", "now + tonumber(retention_ms)")

    with pytest.raises(ScriptError, match=rf"lua/_end_submission\.lua:{line}\b"):
        queue.cancel_submission(id_)


def test_nobody_there_is_redis_unavailable(queue_name: str) -> None:
    """Nothing is known about the call."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    queue = Queue(connect(f"redis://127.0.0.1:{port}/0"), queue_name)

    with pytest.raises(RedisUnavailableError, match=r"Redis does not answer: .*refused"):
        queue.count_queue()
    with pytest.raises(RedisUnavailableError):
        queue.wait_for_events("0-0", block_ms=1)
    with pytest.raises(RedisUnavailableError):
        insert(queue, 1)


def test_a_server_that_dies_in_a_wait_is_redis_unavailable(
    tmp_path_factory: pytest.TempPathFactory, queue_name: str
) -> None:
    """The wait ends at once, not at its timeout."""
    errors: list[RedisUnavailableError] = []
    with EmbeddedServer(tmp_path_factory.mktemp("dying"), is_durable=False) as server:
        queue = Queue(connect(server.url), queue_name)

        def wait() -> None:
            try:
                queue.wait_for_events("0-0", block_ms=60_000)
            except RedisUnavailableError as exc:
                errors.append(exc)

        sleeper = threading.Thread(target=wait)
        sleeper.start()
        server.kill()
        sleeper.join(timeout=10)

    assert len(errors) == 1


def test_a_server_out_of_memory_is_redis_unavailable_and_nothing_has_happened(
    own_client: redis.Redis, queue_name: str
) -> None:
    """Not a defect of ours: the operator gives it memory, and the call may be repeated."""
    queue = Queue(own_client, queue_name)
    insert(queue, 1)
    own_client.config_set("maxmemory", "1mb")

    try:
        with pytest.raises(RedisUnavailableError, match="maxmemory"):
            insert(queue, 1)
        inserted = queue.count_queue().stats["submissions_inserted"]
    finally:
        own_client.config_set("maxmemory", "0")

    assert inserted == 1
    insert(queue, 1)


def test_reports_are_taken_by_a_server_out_of_memory(
    own_client: redis.Redis, queue_name: str
) -> None:
    """They free memory: a queue that is full can be worked off."""
    queue = Queue(own_client, queue_name)
    insert(queue, 3)
    tokens = tokens_of(take(queue, 2))
    own_client.config_set("maxmemory", "1mb")

    try:
        queue.complete_chunks(tokens)
    finally:
        own_client.config_set("maxmemory", "0")

    assert queue.count_queue().stats["chunks_completed"] == 2


def test_a_replica_is_redis_unavailable(own_client: redis.Redis, queue_name: str) -> None:
    """In the middle of a failover: the next try finds the new master."""
    queue = Queue(own_client, queue_name)
    id_ = insert(queue, 1)
    own_client.replicaof("127.0.0.1", 1)

    try:
        with pytest.raises(
            RedisUnavailableError,
            match=r"read only replica: give the URL of its primary, or of its Sentinels$",
        ):
            queue.cancel_submission(id_)
    finally:
        own_client.replicaof("NO", "ONE")


def test_a_user_who_may_not_write_is_redis_unavailable(
    own_client: redis.Redis, own_server: EmbeddedServer, queue_name: str
) -> None:
    """An access list is the operator's: the message says what was refused."""
    insert(Queue(own_client, queue_name), 1)
    password = secrets.token_hex(8)
    own_client.acl_setuser(
        "reader",
        enabled=True,
        passwords=[f"+{password}"],
        keys=["*"],
        categories=["+@all"],
        commands=["-set"],
    )
    reader = connect(own_server.url.replace("//", f"//reader:{password}@"))

    with pytest.raises(RedisUnavailableError, match="no permissions"):
        insert(Queue(reader, queue_name), 1)


def test_an_answer_that_is_no_list_is_our_defect(
    real_client: redis.Redis, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripts answer tagged lists, nothing else."""
    scripts = Scripts(real_client, queue_name)
    monkeypatch.setattr(real_client, "evalsha", lambda *_: b"OK")

    with pytest.raises(OpsqueueInternalError, match=r"pause_queue.lua answered b'OK', not a list"):
        scripts.call("pause_queue")


def test_a_read_after_an_id_gives_what_came_since(client: redis.Redis, queue_name: str) -> None:
    """In order, at most as many as asked for."""
    scripts = Scripts(client, queue_name)
    ids: list[Any] = [client.xadd(scripts.base + "events", {"n": n}) for n in range(4)]

    entries = scripts.read_after("events", ids[0].decode(), block_ms=1, limit=2)

    assert [(ids[1], {b"n": b"1"}), (ids[2], {b"n": b"2"})] == entries
    assert ids[3].decode() == scripts.last_id("events")


def test_a_read_of_a_silent_stream_gives_nothing(client: redis.Redis, queue_name: str) -> None:
    """After its time, be it zero, which Redis would read as for ever."""
    scripts = Scripts(client, queue_name)

    assert scripts.read_after("events", "0-0", block_ms=0) == []
    assert scripts.last_id("events") == "0-0"


def test_without_a_clock_the_servers_own_is_the_clock(client: redis.Redis, queue_name: str) -> None:
    """Clients' clocks differ."""
    queue = Queue(client, queue_name)

    id_ = insert(queue, 1)

    seconds, _ = client.time()
    assert isinstance(id_, SubmissionId)
    assert 0 <= int(seconds) - int(str(id_)[:10]) <= 60
