"""TLS in front of the embedded server, which is built without TLS."""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Self


class TlsProxy:
    """Accepts TLS on a free loopback port and passes the data to another port."""

    def __init__(self, to_port: int, context: ssl.SSLContext) -> None:
        class Pass(BaseRequestHandler):
            def handle(self) -> None:
                try:
                    with (
                        context.wrap_socket(self.request, server_side=True) as inner,
                        socket.create_connection(("127.0.0.1", to_port)) as outer,
                    ):
                        pass_on(inner, outer)
                except OSError:
                    return  # who trusts us not hangs up

        self._server = ThreadingTCPServer(("127.0.0.1", 0), Pass)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def pass_on(inner: ssl.SSLSocket, outer: socket.socket) -> None:
    """Pass bytes in both directions until either end hangs up."""
    with selectors.DefaultSelector() as ready:
        ready.register(inner, selectors.EVENT_READ, outer)
        ready.register(outer, selectors.EVENT_READ, inner)
        while True:
            for key, _ in ready.select():
                source, target = key.fileobj, key.data
                data = source.recv(65_536)  # type: ignore[union-attr]
                if not data:
                    return
                # What TLS has decrypted already, the socket does not show as ready.
                while source is inner and (pending := inner.pending()):
                    data += inner.recv(pending)
                target.sendall(data)
