"""Redis behind its own locks: users with no more rights than are needed, and TLS."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
import trustme
from redis.sentinel import Sentinel

from opsqueue.acl import Role, user_line
from opsqueue.connection import check, connect, server_client
from opsqueue.consumer import ConsumerClient, Strategy
from opsqueue.contents import fresh_prefix
from opsqueue.embedded import EmbeddedServer
from opsqueue.exceptions import RedisUnavailableError
from opsqueue.new_submission import NewSubmission
from opsqueue.partitioned import PartitionedQueue
from opsqueue.producer import ProducerClient
from opsqueue.queue import Queue
from opsqueue.script import ping
from tests.redis_sets import SLOTS, ask, free_ports, until
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


@pytest.fixture
def users(server: EmbeddedServer) -> None:
    for role in ("api", "worker"):
        line = user_line(role, name=role, password=PASSWORD)
        ask(server.port, "ACL", "SETUSER", *line.split()[1:])


@pytest.mark.usefixtures("users")
def test_the_users_that_are_printed_can_do_all_that_the_programs_do(
    server: EmbeddedServer, start: Start, store: str, queue_name: str
) -> None:
    """The server's own log of refusals stays empty."""
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
    queue = PartitionedQueue(connect(of_api), queue_name)
    change_everything(queue)
    with ProducerClient(url, store, queue=f"{queue_name}-consumed") as producer:
        consumed = producer.insert_submission([7], chunk_size=1)
    with ConsumerClient(of_worker, store, queue=f"{queue_name}-consumed") as consumer:
        (chunk,) = consumer.reserve_chunks(max=1, strategy=Strategy.Newest())
        consumer.release_chunk(chunk.submission_id, chunk.chunk_index)
    assert chunk.submission_id == consumed
    worker.end()

    assert ask(server.port, "ACL", "LOG") == []


@pytest.mark.parametrize("role", ["api", "worker"])
def test_the_lines_name_no_command_that_redis_7_0_lacks(role: Role) -> None:
    """It refuses to start with an ACL file that does."""
    assert "waitaof" not in user_line(role, name="a", password=PASSWORD)


def look_at_everything(url: str, ids: list[int]) -> None:
    for path in ("", "/workers", "/reservations", "/scaling", "/submissions?state=failed"):
        httpx.get(url + path).raise_for_status()
    for id_ in ids:
        for path in ("", "/progress", "/chunks", "/errors"):
            httpx.get(f"{url}/submissions/{id_}{path}").raise_for_status()
    for path in ("/metrics", "/readyz", "/v1/queues"):
        httpx.get(httpx.URL(url).copy_with(path=path)).raise_for_status()


def change_everything(queue: PartitionedQueue) -> None:
    queue.set_partitions(2)
    queue.set_limit("api", max=3)
    queue.set_retention(0)
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


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize("role", ["api", "worker"])
@pytest.mark.parametrize(
    "command", ["FLUSHALL", "KEYS *", "CONFIG SET save x", "SET other 1", "SHUTDOWN", "ACL LIST"]
)
def test_the_users_that_are_printed_can_do_no_more(
    server: EmbeddedServer, role: str, command: str
) -> None:
    client = connect(url_of(server, role))

    with pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split())  # type: ignore[union-attr]
    # Nor in a script, where all that a queue does is done.
    with pytest.raises(redis.exceptions.ResponseError, match=r"permission|ACL|not allowed"):
        client.eval(  # type: ignore[union-attr]
            "return redis.call(unpack(ARGV))", 1, "oq:{q}:", *command.split()
        )


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
