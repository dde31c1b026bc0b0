"""TCP proxies in front of Redis and the object store that disturb connections on demand.

All run on one event loop in a separate thread; commands come from other threads.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, Self

WELL: Final = "well"
_READ_WITHIN_S: Final = 0.2
_REFUSAL: Final = (
    "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n"
    "Connection: close\r\n\r\n{body}"
)
_BODY: Final = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>chaos</Message></Error>'


class Loop:
    """An event loop in a thread; `with` starts and ends it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine there and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    # What was closed lets go of its socket in the next round.
    await asyncio.sleep(0)


class Proxy:
    """Passes bytes to a port of this machine and back, in the current mode.

    Within `with` it listens on a free port.
    """

    def __init__(self, loop: Loop, target: int, *, seed: str = "") -> None:
        self._loop = loop
        self._target = target
        self._chance = random.Random(seed)
        self._way, self._detail = WELL, 0.0
        self._open: set[_Line] = set()
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Condition()
        self.port = 0

    def __enter__(self) -> Self:
        self._loop.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._stop())

    def set(self, way: str, detail: float = 0.0) -> None:
        """Change the mode; `well` means without disturbance."""
        self._loop.run(self._set(way, detail))

    def cut(self) -> None:
        """Close all connections."""
        self._loop.run(self._cut())

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _set(self, way: str, detail: float) -> None:
        async with self._changed:
            self._way, self._detail = way, detail
            self._changed.notify_all()
        if way == "partition":
            await self._cut()

    async def _cut(self) -> None:
        for line in list(self._open):
            line.close()

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._way == "partition":
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        line = _Line(writer, far_writer)
        self._open.add(line)
        try:
            await asyncio.gather(
                self._pump(reader, far_writer, line, self._to_server),
                self._pump(far_reader, writer, line, self._to_client),
            )
        finally:
            line.close()
            self._open.discard(line)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        line: _Line,
        step: Callable[[_Line], Coroutine[Any, Any, bool]],
    ) -> None:
        try:
            while data := await reader.read(65_536):
                if await step(line):
                    writer.write(data)
                    await writer.drain()
        except OSError:
            line.close()
        finally:
            # What was passed on is still to arrive.
            writer.close()

    async def _to_server(self, line: _Line) -> bool:
        return await self._to_client(line)

    async def _to_client(self, line: _Line) -> bool:
        """Wait for the mode's delay; return whether the bytes are passed on."""
        if self._way == "stall":
            async with self._changed:
                await self._changed.wait_for(lambda: self._way != "stall")
        if self._way == "delay":
            await asyncio.sleep(self._detail)
        if self._way == "swallow":
            line.is_silent = True
        return not line.is_silent


class StoreProxy(Proxy):
    """A proxy in front of an HTTP server, which disturbs whole requests instead of bytes.

    A request begins with the first bytes of the client after bytes of the server.
    """

    async def _to_server(self, line: _Line) -> bool:
        if line.is_refused:
            return False
        begins, line.is_asking = not line.is_asking, True
        # Not each: an object store in trouble answers some.
        if not begins or self._way == WELL or self._chance.random() < 0.3:
            return True
        match self._way:
            case "errors":
                code, status = self._chance.choice(
                    (("SlowDown", "503 Slow Down"), ("InternalError", "500 Internal Server Error"))
                )
                body = _BODY.format(code=code)
                answer = _REFUSAL.format(status=status, length=len(body), body=body)
                line.near.write(answer.encode())
                await line.refuse()
                return False
            case "cut":
                line.close()
                return False
            case "lost-answers":
                line.loses_answer = True
            case "pause":
                await asyncio.sleep(self._detail)
        return True

    async def _to_client(self, line: _Line) -> bool:
        line.is_asking = False
        if line.loses_answer:
            # What was asked for is done by now: the client can't know.
            line.close()
            return False
        return not line.is_refused


class _Line:
    """A connection and its continuation."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self._far = far
        self.is_silent = False
        self.is_asking = False
        self.is_refused = False
        self.loses_answer = False

    async def refuse(self) -> None:
        """Close the connection, on the client's side after it had time to read the answer."""
        self.is_refused = True
        self._far.transport.abort()
        await asyncio.sleep(_READ_WITHIN_S)
        self.near.close()

    def close(self) -> None:
        """Close both ends at once."""
        self.near.transport.abort()
        self._far.transport.abort()
