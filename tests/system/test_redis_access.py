"""Access control of Redis: users with only the needed rights, and TLS."""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import redis
import trustme
from click.testing import CliRunner
from redis.sentinel import Sentinel

from opsqueue.cli.commands import main
from opsqueue.consumer import ConsumerClient, Strategy
from opsqueue.contents.chunks import fresh_prefix
from opsqueue.contents.codec import PRODUCER_CODEC, open_codec
from opsqueue.exceptions import InvalidArgumentError, RedisUnavailableError
from opsqueue.model.new_submission import NewSubmission
from opsqueue.producer import ProducerClient
from opsqueue.queue.acl import Role, commands_of, user_line
from opsqueue.queue.connection import check, connect, server_client
from opsqueue.queue.durability import Durability, check_durability
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import ping
from opsqueue.testing.embedded import EmbeddedServer, binary
from tests.opsqueue.steps import new_submission
from tests.redis_sets import SLOTS, ask, behind_sentinels, cluster, free_ports, until
from tests.servers import ALWAYS, redis_binary, server_of
from tests.system.conftest import Start
from tests.tls_proxy import TlsProxy

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

PASSWORD = "open-sesame"  # noqa: S105 of a server that lives for this test
COMPOSED = "MaxSimultaneous(api, 9, PreferDistinct(customer, Highest(priority, Oldest)))"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def store(store_url: str) -> str:
    return f"{store_url}?durable=false"


def url_of(server: EmbeddedServer, role: str) -> str:
    return f"redis://{role}:{PASSWORD}@127.0.0.1:{server.port}/0"


def printed(*arguments: str) -> str:
    """Return the line that the command prints, with a password in it."""
    return str(
        CliRunner()
        .invoke(main, ["acl", *arguments], catch_exceptions=False)
        .stdout.replace("CHANGE-ME", PASSWORD)
    )


def make_users(port: int) -> None:
    for role in ("api", "worker"):
        ask(port, "ACL", "SETUSER", *printed(role, "--user", role).split()[1:])


@pytest.fixture
def users(server: EmbeddedServer) -> None:
    make_users(server.port)


@pytest.mark.usefixtures("users")
def test_the_users_that_are_printed_can_do_all_that_the_programs_do(
    server: EmbeddedServer, start: Start, store: str, queue_name: str
) -> None:
    """The server's log of refusals stays empty."""
    of_api, of_worker = url_of(server, "api"), url_of(server, "worker")
    api = start("opsqueue_api", "--port", "0", OPSQUEUE_REDIS_URL=of_api, OPSQUEUE_STORE_URL=store)
    url = api.wait_for_line("ready on").rpartition(" ")[2]
    worker = start(
        *("opsqueue_worker", "tasks:app", "-c", "1", "--strategy", COMPOSED),
        OPSQUEUE_REDIS_URL=of_worker,
        OPSQUEUE_STORE_URL=store,
        TEST_QUEUE=queue_name,
    )
    meta = {"api": 1, "customer": 2, "priority": 3}
    with ProducerClient(url, store, queue=queue_name) as producer:
        small = producer.insert_submission([1, 2, 3], chunk_size=2, strategic_metadata=meta)
        assert [2, 3, 4] == list(producer.iter_results(small))
        assert producer.lookup_submission_ids_by_strategic_metadata(meta) == []
    with ProducerClient(url, store, queue=queue_name, inline_bytes=0) as producer:
        large = producer.insert_submission([1, 2, 3], chunk_size=1, max_attempts=1)
        assert [2, 3, 4] == sorted(producer.iter_results(large, ordered=False))
        failing = producer.insert_submission([["raise"]], chunk_size=1, max_attempts=1)
        producer.wait_for_submission(failing)
    look_at_everything(f"{url}/v1/queues/{queue_name}", [small, large, failing])
    queue = Queue(connect(of_api), queue_name)
    change_everything(queue)
    with ProducerClient(url, store, queue=f"{queue_name}-consumed") as producer:
        consumed = producer.insert_submission([7], chunk_size=1)
    with ConsumerClient(of_worker, store, queue=f"{queue_name}-consumed") as consumer:
        (chunk,) = consumer.reserve_chunks(max=1, strategy=Strategy.Newest())
        consumer.release_chunk(chunk.submission_id, chunk.chunk_index)
        (chunk,) = consumer.reserve_chunks(max=1, strategy=Strategy.Oldest())
        consumer.complete_chunk(chunk.submission_id, None, chunk.chunk_index, output_of([8]))
    assert chunk.submission_id == consumed
    with ProducerClient(url, store, queue=f"{queue_name}-consumed") as producer:
        assert [8] == list(producer.iter_results(consumed))
    worker.end()

    assert ask(server.port, "ACL", "LOG") == []


@pytest.mark.parametrize("role", ["api", "worker"])
def test_the_lines_name_no_command_that_redis_7_0_lacks(role: Role) -> None:
    """It refuses to start with an ACL file that does."""
    assert "waitaof" not in user_line(role, name="a", password=PASSWORD)


@pytest.mark.parametrize("role", ["api", "worker"])
def test_a_user_may_read_settings_only_where_fsync_is_asked_for(role: Role) -> None:
    """They have the passwords of the server."""
    assert not [command for command in commands_of(role) if command.startswith("CONFIG")]
    assert "+config" not in printed(role)


def test_the_line_for_fsync_says_what_it_exposes_beside_the_file() -> None:
    """An ACL file can have no comments, so what is said does not go to stdout."""
    told = CliRunner().invoke(main, ["acl", "api", "--durability", "fsync"])

    assert "requirepass" in told.stderr
    assert 1 == told.stdout.count("\n")
    assert " +config|get" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("worker", "--durability", "fsync"), "opsqueue acl api"),
        (("api", "--user", "me +@all"), "must not contain a space"),
        (("api", "--user", "me\n+@all"), "must not contain a space"),
        (("api", "--user", ""), "must not be empty"),
    ],
)
def test_a_line_that_would_give_other_rights_is_refused(
    arguments: tuple[str, ...], says: str
) -> None:
    told = CliRunner().invoke(main, ["acl", *arguments])

    assert (2, "") == (told.exit_code, told.stdout)
    assert says in told.stderr


@pytest.mark.parametrize("kind", ["valkey", "redis 7.0", "redis 8"])
def test_a_server_starts_with_an_acl_file_of_the_printed_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """And lets an API insert that asks for fsync."""
    folder = tmp_path / "redis"
    file = tmp_path / "users.acl"
    lines = [
        printed("api", "--user", "api"),
        printed("worker", "--user", "worker"),
        printed("api", "--user", "durable", "--durability", "fsync"),
    ]
    file.write_text("".join(lines))
    binaries = {"redis 7.0": ((7, 0), (7, 2)), "redis 8": ((8, 0), (9, 0))}
    arguments = (*ALWAYS, "--aclfile", str(file))
    with ExitStack() as stack:
        if kind == "valkey":
            server = stack.enter_context(EmbeddedServer(folder, arguments=arguments))
            port = server.port
        else:
            at_least, below = binaries[kind]
            binary = redis_binary(at_least=at_least, below=below)
            client = stack.enter_context(server_of(binary, folder, monkeypatch, *arguments))
            port = client.connection_pool.connection_kwargs["port"]
        url = f"redis://durable:{PASSWORD}@127.0.0.1:{port}/0"

        assert [] == check_durability(connect(url), Durability.FSYNC, url=url)
        queue = Queue(connect(url), "q", durability=Durability.FSYNC)
        assert queue.insert_submission(new_submission(queue)).is_new
        worker = Queue(connect(f"redis://worker:{PASSWORD}@127.0.0.1:{port}/0"), "q")
        assert worker.reserve_chunks("w1").chunks


@pytest.mark.usefixtures("users")
def test_an_api_that_is_asked_for_fsync_without_the_right_does_not_start(
    server: EmbeddedServer, start: Start, store: str
) -> None:
    """The error has the command that prints the user with the right."""
    api = start(
        *("opsqueue_api", "--port", "0", "--durability", "fsync"),
        OPSQUEUE_REDIS_URL=url_of(server, "api"),
        OPSQUEUE_STORE_URL=store,
    )

    assert 2 == api.wait()
    assert "`opsqueue acl api --durability fsync`" in " ".join(api.output.split())
    assert PASSWORD not in api.output


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize("role", ["api", "worker"])
def test_doctor_says_what_a_printed_user_can_not_see(server: EmbeddedServer, role: str) -> None:
    """All else that it looks at is in INFO."""
    told = CliRunner().invoke(main, ["doctor", "--redis-url", url_of(server, role)])

    lines = told.stdout.splitlines()
    unseen = [line for line in lines if "CONFIG GET" in line]
    assert 1 == len(unseen)
    assert unseen[0].startswith("! durability-fsync: ")
    assert "appendfsync" in unseen[0]
    assert "✓ redis-eviction: keys are not evicted (noeviction)" in lines
    assert PASSWORD not in told.output


@pytest.mark.usefixtures("users")
def test_doctor_reports_a_problem_where_fsync_is_asked_for(server: EmbeddedServer) -> None:
    told = CliRunner().invoke(
        main, ["doctor", "--redis-url", url_of(server, "api"), "--durability", "fsync"]
    )

    assert "✗ durability-fsync: --durability fsync is not kept" in told.stdout
    assert "`opsqueue acl api --durability fsync`" in told.stdout


def test_a_server_without_config_is_used_and_promises_no_fsync(
    tmp_path: Path, queue_name: str
) -> None:
    """As providers have it; that nobody can see its settings is said as such."""
    arguments = (*ALWAYS, "--rename-command", "CONFIG", "")
    with EmbeddedServer(tmp_path / "redis", arguments=arguments) as server:
        client = connect(server.url)

        assert [] == check(client, url=server.url)
        assert Queue(client, queue_name).insert_submission(new_submission(queue_name)).is_new
        with pytest.raises(
            InvalidArgumentError, match="does not report its appendonly, appendfsync"
        ):
            check_durability(client, Durability.FSYNC, url=server.url)


def test_a_server_without_info_is_used_and_what_was_not_seen_is_said(
    tmp_path: Path, queue_name: str
) -> None:
    """Renamed, which is not the answer of a server that forbids it."""
    arguments = ("--rename-command", "INFO", "SECRET-INFO")
    folder = tmp_path / "redis"
    with renamed_info(folder, *arguments) as url:
        client = connect(url)

        (warning,) = check(client, url=url)
        assert Queue(client, queue_name).insert_submission(new_submission(queue_name)).is_new

    for fact in ("7.0 or newer", "maxmemory-policy is noeviction", "appendonly is yes", "primary"):
        assert fact in warning


@contextmanager
def renamed_info(folder: Path, *arguments: str) -> Iterator[str]:
    """A server that the embedded one's own start would not find ready, as it asks for INFO."""
    folder.mkdir()
    (port,) = free_ports(1)
    command = [binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with subprocess.Popen([*command, "--save", "", *arguments], stdout=subprocess.DEVNULL) as own:
        try:
            until(lambda: _answers(port), "the server answers")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            own.kill()


def _answers(port: int) -> bool:
    try:
        return bool(ask(port, "PING"))
    except redis.ConnectionError:
        return False


def test_the_printed_users_do_for_a_cluster(tmp_path: Path, queue_name: str) -> None:
    """redis-py asks for more there."""
    with cluster(tmp_path) as whole:
        for server in whole.servers:
            make_users(server.port)
            ask(server.port, "ACL", "LOG", "RESET")

        round_trip(whole.url, queue_name)

        assert [] == [entry for one in whole.servers for entry in ask(one.port, "ACL", "LOG")]


def test_the_printed_users_do_for_a_master_behind_sentinels(
    tmp_path: Path, queue_name: str
) -> None:
    """Sentinels have users of their own."""
    with behind_sentinels(tmp_path) as whole:
        for server in whole.servers:
            make_users(server.port)

        round_trip(whole.url, queue_name)

        assert [] == ask(whole.master().port, "ACL", "LOG")


def round_trip(url: str, queue_name: str) -> None:
    """Insert as one user, work as the other."""
    of_api = url.replace("://", f"://api:{PASSWORD}@")
    of_worker = url.replace("://", f"://worker:{PASSWORD}@")
    api = Queue(connect(of_api), queue_name)
    worker = Queue(connect(of_worker), queue_name)
    check(connect(of_api), url=of_api)
    check(connect(of_worker), url=of_worker)
    api.set_partitions(2)
    ids = [api.insert_submission(new_submission(queue_name)).id for _ in range(4)]
    worker.heartbeat("w1")
    tokens = [chunk.token for chunk in worker.reserve_chunks("w1", limit=100).chunks]
    worker.complete_chunks(tokens)
    worker.retire_worker("w1")

    assert tokens
    assert ids == [api.get_submission(id_).id for id_ in ids]


def output_of(results: list[int]) -> bytes:
    return open_codec(PRODUCER_CODEC).encode(results)


def look_at_everything(url: str, ids: list[int]) -> None:
    for path in ("", "/workers", "/reservations", "/scaling", "/submissions?state=failed"):
        httpx.get(url + path).raise_for_status()
    for id_ in ids:
        for path in ("", "/progress", "/chunks", "/errors"):
            httpx.get(f"{url}/submissions/{id_}{path}").raise_for_status()
    for path in ("/metrics", "/readyz", "/v1/queues"):
        httpx.get(httpx.URL(url).copy_with(path=path)).raise_for_status()


def change_everything(queue: Queue) -> None:
    queue.set_partitions(2)
    queue.set_limit("api", max=3)
    queue.set_defaults({"retention_ms": 0})
    queue.pause_queue()
    queue.resume_queue()
    id_ = queue.insert_submission(NewSubmission(prefix=fresh_prefix(queue.name), chunks_total=9)).id
    queue.update_metadata(id_, {"api": 4})
    queue.cancel_submission(id_)
    queue.retry_submission(id_)
    queue.discard_prefixes([fresh_prefix(queue.name)])
    queue.forget_submissions()
    for part in queue.parts():
        part.repair(begin=True)
        part.delete_inputs()
    queue.remove_limit("api")


FORBIDDEN = (
    # What the server is and has.
    *("CONFIG GET requirepass", "CONFIG GET *", "CONFIG SET save x", "CONFIG REWRITE"),
    *("CONFIG RESETSTAT", "DEBUG JMAP", "SHUTDOWN NOSAVE", "REPLICAOF NO ONE", "SLAVEOF NO ONE"),
    *("FAILOVER", "ROLE", "SAVE", "BGSAVE", "BGREWRITEAOF", "SYNC", "PSYNC ? -1"),
    *("MODULE LIST", "MODULE LOAD /tmp/x.so", "CLUSTER NODES", "CLUSTER MEET 127.0.0.1 1"),
    *("CLUSTER RESET", "CLUSTER FAILOVER", "WAITAOF 0 0 1"),
    # Other users, and what they do.
    *("ACL LIST", "ACL GETUSER default", "ACL SETUSER x on nopass", "ACL DELUSER default"),
    *("ACL LOG", "ACL WHOAMI", "ACL SAVE", "CLIENT LIST", "CLIENT KILL TYPE normal"),
    *("CLIENT PAUSE 1", "CLIENT NO-EVICT on", "MONITOR", "SLOWLOG GET", "SLOWLOG RESET"),
    *("LATENCY LATEST", "MEMORY STATS", "PUBLISH a b", "SPUBLISH a b", "SUBSCRIBE a"),
    *("PSUBSCRIBE *", "SSUBSCRIBE a", "PUBSUB CHANNELS"),
    # Code of others.
    *("SCRIPT FLUSH", "SCRIPT KILL", "SCRIPT LOAD x", "FUNCTION LIST", "FUNCTION FLUSH"),
    *("FUNCTION LOAD x", "FUNCTION KILL", "FCALL f 0", "FCALL_RO f 0"),
    # All keys at once.
    *("FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "SWAPDB 0 1"),
    # Our keys, out of our space.
    *("MOVE oq:queues 1", "COPY oq:queues other", "RENAME oq:queues other", "DUMP oq:queues"),
    *("RESTORE oq:x 0 x", "MIGRATE 127.0.0.1 1 oq:queues 0 1", "OBJECT ENCODING oq:queues"),
    *("SORT oq:queues BY other* GET other*", "SORT oq:queues STORE other", "TYPE oq:queues"),
    *("SORT_RO oq:queues BY other*", "MEMORY USAGE oq:queues", "GEOADD oq:x 0 0 a"),
    *("SMOVE oq:queues other a", "SUNIONSTORE other oq:queues", "BITOP NOT other oq:x"),
    # Keys of others with what is allowed.
    *("GET other", "SET other 1", "DEL other", "UNLINK other", "EXISTS other", "SADD other a"),
    *("MGET oq:x other", "DEL oq:x other", "SETBIT other 0 1", "HSET other a 1", "HGETALL other"),
    *("ZADD other 1 a", "ZRANGE other 0 -1", "XADD other * a 1", "XRANGE other - +"),
    *("XREAD STREAMS other 0", "XGROUP CREATE other g 0", "GET oq", "GET OQ:x", "GET xoq:x"),
    "XGROUP DESTROY oq:x g",
)
FORBIDDEN_TO_WORKERS = ("WAIT 0 1", "RPUSH oq:x 1", "HSCAN oq:x 0")


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize("role", ["api", "worker"])
def test_the_users_that_are_printed_can_do_no_more(server: EmbeddedServer, role: str) -> None:
    """Neither as a command, nor in a script, where keys need not be declared."""
    ask(server.port, "SET", "other", "precious")
    ask(server.port, "SADD", "oq:queues", "q")
    client = server_client(url_of(server, role))
    commands = FORBIDDEN + (FORBIDDEN_TO_WORKERS if role == "worker" else ())

    direct = {one: refusal(client, *one.split()) for one in commands}
    script = ("EVAL", "return redis.call(unpack(ARGV))", 1, "oq:{q}:")
    in_script = {one: refusal(client, *script, *one.split()) for one in commands}

    assert {} == {one: text for one, text in direct.items() if not REFUSED.search(text)}
    assert {} == {one: text for one, text in in_script.items() if not REFUSED.search(text)}
    assert b"precious" == ask(server.port, "GET", "other")
    assert {b"other", b"oq:queues"} == set(ask(server.port, "KEYS", "*"))


# Also of commands that are for no script, or for nobody (DEBUG, MODULE), whoever sends them.
REFUSED = re.compile(r"permission|ACL|(DEBUG|MODULE) command not allowed|not allowed from script")


def refusal(client: redis.Redis, *command: str | int) -> str:
    try:
        return f"answered {client.execute_command(*command)!r}"  # type: ignore[no-untyped-call]  # redis-py has no type for it
    except redis.exceptions.ResponseError as exc:
        return str(exc)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def tls_port(server: EmbeddedServer, tls: ssl.SSLContext) -> Iterator[int]:
    with TlsProxy(server.port, tls) as proxy:
        yield proxy.port


def test_redis_is_reached_over_tls(
    tls_port: int, authority: trustme.CA, tmp_path: Path, queue_name: str
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    url = f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={tmp_path}/ca.pem"
    client = connect(url)

    id_ = (
        Queue(client, queue_name)
        .insert_submission(NewSubmission(prefix=fresh_prefix(queue_name), chunks_total=1))
        .id
    )

    assert check(client, url=url) == []
    assert Queue(client, queue_name).get_submission(id_).chunks_total == 1


def test_a_certificate_that_nobody_vouches_for_is_refused_and_named(tls_port: int) -> None:
    url = f"rediss://:secret@127.0.0.1:{tls_port}/0"

    with pytest.raises(RedisUnavailableError, match=r"(?i)certificate verify failed") as caught:
        check(connect(url), url=url)

    assert "ssl_ca_certs" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_new_connection_is_taken_for_what_it_is(
    tls_port: int, authority: trustme.CA, tmp_path: Path
) -> None:
    """What TLS itself sends after the handshake, session tickets, is no unread answer."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    url = f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={tmp_path}/ca.pem"

    for _ in range(25):
        client = server_client(url)
        assert client.ping()
        client.close()


def test_a_new_connection_to_a_master_behind_sentinels_is_taken_for_what_it_is(
    tls_port: int, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of a client that asks who is master first."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setattr(Sentinel, "discover_master", lambda *_: ("127.0.0.1", tls_port))

    for _ in range(25):
        client = connect(f"rediss+sentinel://127.0.0.1:1/main?ssl_ca_certs={tmp_path}/ca.pem")
        ping(client)
        client.close()


def test_a_new_connection_to_a_node_of_a_cluster_is_taken_for_what_it_is(
    tls: ssl.SSLContext, authority: trustme.CA, tmp_path: Path
) -> None:
    """The same of a client that asks which node has what first."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    port, bus = free_ports(2)
    arguments = ("--cluster-enabled", "yes", "--cluster-port", str(bus))

    with (
        EmbeddedServer(tmp_path / "node", port=port, arguments=arguments),
        TlsProxy(port, tls) as proxy,
    ):
        ask(port, "CONFIG", "SET", "cluster-announce-port", proxy.port)
        ask(port, "CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        until(lambda: b"cluster_state:ok" in ask(port, "CLUSTER", "INFO"), "the cluster is formed")
        url = f"rediss+cluster://127.0.0.1:{proxy.port}?ssl_ca_certs={tmp_path}/ca.pem"
        for _ in range(25):
            client = connect(url)
            ping(client)
            client.close()
