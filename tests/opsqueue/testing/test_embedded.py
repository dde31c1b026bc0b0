"""The server that `opsqueue dev`, the demo and the tests run on."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from opsqueue.exceptions import IncorrectUsageError, RedisUnavailableError
from opsqueue.queue.connection import server_client
from opsqueue.testing.embedded import EmbeddedServer

START_AND_WAIT = """
import sys, time
from pathlib import Path
from opsqueue.testing.embedded import EmbeddedServer

with EmbeddedServer(Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


def has_ended(pid: int, *, within_s: float) -> bool:
    """Wait for a process that need not be our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        ready, _, _ = select.select([descriptor], [], [], within_s)
        return bool(ready)
    finally:
        os.close(descriptor)


def test_it_answers_inside_with_and_is_gone_after_it(tmp_path: Path) -> None:
    """On a port of its own."""
    with EmbeddedServer(tmp_path) as server:
        pid = server.pid
        assert server_client(server.url).ping()

    assert not psutil.pid_exists(pid)


def test_it_listens_on_the_loopback_address_alone(tmp_path: Path) -> None:
    """Nobody else on the network reaches it."""
    with EmbeddedServer(tmp_path, is_durable=False) as server:
        addresses = {c.laddr.ip for c in psutil.Process(server.pid).net_connections("inet")}

    assert addresses == {"127.0.0.1"}


def test_data_is_kept_between_runs_when_it_is_durable(tmp_path: Path) -> None:
    """`opsqueue dev` goes on where it stopped."""
    with EmbeddedServer(tmp_path) as server:
        server_client(server.url).set("k", "v")

    with EmbeddedServer(tmp_path) as server:
        assert server_client(server.url).get("k") == b"v"


def test_data_survives_a_crash_when_it_is_durable(tmp_path: Path) -> None:
    """The append-only file is written with each command."""
    with EmbeddedServer(tmp_path) as server:
        server_client(server.url).set("k", "v")
        server.kill()

    with EmbeddedServer(tmp_path) as server:
        assert server_client(server.url).get("k") == b"v"


def test_it_is_ready_only_when_its_data_are_read(tmp_path: Path) -> None:
    """Until then every command but INFO is refused."""
    with EmbeddedServer(tmp_path) as server:
        pipe = server_client(server.url).pipeline(transaction=False)
        for number in range(10_000):
            pipe.set(f"k{number}", number)
        pipe.execute()

    slowly = ("--key-load-delay", "100")  # microseconds each; it looks up every 1,024 of them
    with EmbeddedServer(tmp_path, arguments=slowly) as server:
        assert server_client(server.url).get("k9999") == b"9999"


def test_data_is_gone_when_it_is_not_durable(tmp_path: Path) -> None:
    """Tests and the demo leave nothing behind."""
    with EmbeddedServer(tmp_path, is_durable=False) as server:
        server_client(server.url).set("k", "v")

    with EmbeddedServer(tmp_path, is_durable=False) as server:
        assert server_client(server.url).get("k") is None


def test_it_never_evicts(tmp_path: Path) -> None:
    """A queue's keys are no cache."""
    with EmbeddedServer(tmp_path, is_durable=False) as server:
        info = server_client(server.url).info("memory")

    assert info["maxmemory_policy"] == "noeviction"


def test_arguments_go_to_the_server(tmp_path: Path) -> None:
    """Its own options, last, so that they win."""
    arguments = ("--maxmemory", "50mb")

    with EmbeddedServer(tmp_path, is_durable=False, arguments=arguments) as server:
        assert server_client(server.url).info("memory")["maxmemory"] == 50 * 1024 * 1024


def test_two_run_side_by_side(tmp_path: Path) -> None:
    """Each on a port and in a folder of its own."""
    with (
        EmbeddedServer(tmp_path / "a", is_durable=False) as first,
        EmbeddedServer(tmp_path / "b", is_durable=False) as second,
    ):
        server_client(first.url).set("k", "first")

        assert server_client(second.url).get("k") is None


def test_it_takes_the_port_that_it_is_given(tmp_path: Path) -> None:
    """So that a URL stays the same between runs."""
    with EmbeddedServer(tmp_path, is_durable=False) as server:
        port = server.port

    with EmbeddedServer(tmp_path, is_durable=False, port=port) as again:
        assert again.url == f"redis://127.0.0.1:{port}/0"


def test_a_port_that_is_taken_is_an_error_with_the_end_of_the_log(tmp_path: Path) -> None:
    """It does not wait for 20 seconds or connect to another server."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = EmbeddedServer(tmp_path, is_durable=False, port=taken.getsockname()[1])

        with pytest.raises(RedisUnavailableError, match=r"(?s)did not start: .*in use"):
            server.start()


def test_an_argument_that_it_does_not_know_is_an_error(tmp_path: Path) -> None:
    """At the start, not at the first command."""
    server = EmbeddedServer(tmp_path, arguments=("--no-such-option", "1"))

    with pytest.raises(RedisUnavailableError, match="did not start"):
        server.start()


def test_its_pid_is_known_only_while_it_runs(tmp_path: Path) -> None:
    """The message says how it is used."""
    server = EmbeddedServer(tmp_path)

    with pytest.raises(IncorrectUsageError, match="inside `with`"):
        _ = server.pid


def test_stopping_twice_is_once(tmp_path: Path) -> None:
    """A second stop does nothing, also for a server that was never started."""
    server = EmbeddedServer(tmp_path, is_durable=False)
    server.stop()
    server.start()
    server.stop()

    server.stop()
    server.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's PR_SET_PDEATHSIG")
def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Also when that is killed and can clean up nothing."""
    parent = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)

    parent.send_signal(signal.SIGKILL)
    parent.communicate()

    assert has_ended(pid, within_s=10)


@pytest.mark.skipif(sys.platform != "linux", reason="signals to a process group")
def test_ctrl_c_in_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    """It must answer while the workers finish their chunks."""
    with EmbeddedServer(tmp_path, is_durable=False) as server:
        assert os.getpgid(server.pid) != os.getpgid(0)
        assert os.getsid(server.pid) != os.getsid(0)


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(IncorrectUsageError, match=r"can't use the folder .*file/redis: Not a dir"):
        EmbeddedServer(tmp_path / "file" / "redis").start()


def test_a_folder_has_one_server_at_a_time(tmp_path: Path) -> None:
    """Two would write the same append-only file; the second `opsqueue dev` is refused."""
    with EmbeddedServer(tmp_path) as first:
        with pytest.raises(IncorrectUsageError, match="another server uses the folder"):
            EmbeddedServer(tmp_path).start()
        assert server_client(first.url).ping()

    with EmbeddedServer(tmp_path) as third:
        assert server_client(third.url).ping()
