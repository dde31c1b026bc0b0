"""gzip: of answers, where the client takes it, and of requests' bodies, within their limit.

By zlib alone. What is published for Falcon or WSGI waits for a stream's end or for 32 KiB before
it sends anything, and compresses event streams too.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, cast

import falcon

from opsqueue_api.http.streams import Stream

MIN_BYTES: Final = 1_024
"""Below this the saving is less than what a packet carries anyway."""

_TYPES: Final = frozenset(
    {
        *("application/json", "application/problem+json", "application/x-ndjson"),
        *("text/html", "text/css", "text/javascript", "image/svg+xml"),
    }
)
"""Not text/event-stream: proxies and clients that buffer would hold events back."""

# On NDJSON of results, by chunks of 1,000 lines: 42 to 108 MB/s and 14 to 32 % of the bytes, where
# level 6 does 9 to 44 MB/s and comes to 12 to 27 %.
_LEVEL: Final = 1
_GZIP: Final = 16 + zlib.MAX_WBITS


class Compression:
    """Falcon middleware."""

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, _resource: object, _succeeded: object
    ) -> None:
        """Compress what is worth it, streams part by part."""
        kind = (resp.content_type or "").partition(";")[0].strip().lower()
        if kind not in _TYPES or resp.get_header("Content-Encoding"):
            return
        # Also where it is not compressed: a cache in between must not mix the two up.
        resp.append_header("Vary", "Accept-Encoding")
        if not accepts_gzip(req.get_header("Accept-Encoding") or ""):
            return
        if resp.stream is not None:
            # Falcon would also take files; ours are streams and generators.
            parts = cast(Iterable[bytes], resp.stream)
            resp.stream = Stream(compressed(parts), *_closers(parts))
            resp.delete_header("Content-Length")
        else:
            body = resp.render_body()
            if body is None or len(body) < MIN_BYTES:
                return
            resp.data = b"".join(compressed([body]))
            resp.text = None
        resp.set_header("Content-Encoding", "gzip")


def compressed(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Compress each part so that the receiver can read it when it is there."""
    compressor = zlib.compressobj(_LEVEL, wbits=_GZIP)
    for part in parts:
        data = compressor.compress(part) + compressor.flush(zlib.Z_SYNC_FLUSH)
        # An empty part would end a chunked body.
        if data:
            yield data
    yield compressor.flush()


def decompressed(data: bytes, *, limit_bytes: int) -> bytes:
    """Decompress up to one byte more than the limit, however much there is.

    Raises:
        ValueError: it is no gzip, has no end, or something stands behind its end.
    """
    decompressor = zlib.decompressobj(wbits=_GZIP)
    try:
        found = decompressor.decompress(data, limit_bytes + 1)
    except zlib.error as exc:
        raise ValueError(str(exc)) from exc
    if len(found) <= limit_bytes:
        if not decompressor.eof:
            message = "it has no end"
            raise ValueError(message)
        if decompressor.unused_data:
            message = "a second member or something else stands behind its end"
            raise ValueError(message)
    return found


def accepts_gzip(header: str) -> bool:
    """Read an Accept-Encoding header (RFC 9110, 12.5.3); `gzip;q=0` refuses it."""
    weights = {}
    for part in header.lower().split(","):
        name, *parameters = (text.strip() for text in part.split(";"))
        weights[name] = _weight(parameters)
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _closers(parts: Iterable[bytes]) -> list[Callable[[], object]]:
    close = getattr(parts, "close", None)
    return [] if close is None else [close]
