"""Server-sent events: how submissions and queues change, for browsers, curl and dashboards.

The format is that of the HTML standard: `EventSource` reads it, and reconnects by itself with the
last id that it saw. A comment every 15 s keeps proxies from closing a silent connection.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Final

import falcon
import msgspec

from opsqueue.exceptions import OpsqueueError
from opsqueue.http.bodies import ProgressEvent, SubmissionEvent
from opsqueue.http.json_form import encode
from opsqueue.model.answers import Counts
from opsqueue.model.rate import Pace
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import each_readable
from opsqueue_api.http.long_polls import WAIT_SLICE_MS, LongPolls
from opsqueue_api.http.operation import EVENT_STREAM as MEDIA_TYPE
from opsqueue_api.http.operation import LAST_EVENT_ID, Content, operation
from opsqueue_api.http.parameters import checked_id
from opsqueue_api.http.streams import Reader, Stream, admitted
from opsqueue_api.resources.queues import QueueOf

RETRY_MS: Final = 3_000
KEEP_ALIVE_S: Final = 15.0
_LAST_ID: Final = "Last-Event-ID"
_END_ID: Final = "end"
_PAUSE_S: Final = 0.25
"""Minimum time between two progress events, however fast chunks are completed."""
_COUNT_EVERY_S: Final = 1.0
_PACE_WINDOW_S: Final = 60.0
_RETRY: Final = f"retry: {RETRY_MS}\n\n".encode()
_COMMENT: Final = b": still here\n\n"
_NOTHING: Final = b""
_STREAM_ID: Final = re.compile(r"[0-9]{1,19}-[0-9]{1,19}(@[0-9]{2})?")


def sse(event: str, body: msgspec.Struct, *, id_: str | None = None) -> bytes:
    """Encode an event; its JSON has no line breaks."""
    head = f"event: {event}\n" if id_ is None else f"event: {event}\nid: {id_}\n"
    return head.encode() + b"data: " + encode(body) + b"\n\n"


@dataclass(frozen=True, slots=True)
class SubmissionEvents:
    """`.../submissions/{submission_id}/events`."""

    queue_of: QueueOf
    long_polls: LongPolls

    @operation(
        LAST_EVENT_ID,
        answers={
            200: Content(ProgressEvent, MEDIA_TYPE, "Events `progress`, then `end`."),
            204: None,
        },
    )
    def on_get(
        self, req: falcon.Request, resp: falcon.Response, queue: str, submission_id: str
    ) -> None:
        """Stream `progress` events, then one `end` event with the status."""
        on = self.queue_of(queue)
        submission = on.get_submission(checked_id(submission_id))
        last_id = req.get_header(_LAST_ID)
        if last_id == _END_ID and submission.state is not SubmissionState.IN_PROGRESS:
            # This status makes an EventSource stop reconnecting.
            resp.status = falcon.HTTP_204
            return
        seen = int(last_id) if last_id and re.fullmatch("[0-9]{1,10}", last_id) else None
        with admitted(self.long_polls, req) as reader:
            _begin(resp, reader, _of_submission(on, submission.id, seen, reader))


def _of_submission(
    on: Queue, id_: SubmissionId, seen: int | None, reader: Reader
) -> Generator[bytes]:
    pace: Pace | None = None
    wait_s = 0.0
    while True:
        progress = on.wait_for_progress(
            id_,
            seen=seen,
            wait_s=wait_s,
            slice_ms=WAIT_SLICE_MS,
            is_stopping=reader.is_stopping,
        )
        has_ended = progress.state is not SubmissionState.IN_PROGRESS
        status = on.get_submission(id_) if has_ended else None
        wait_s = WAIT_SLICE_MS / 1000
        done, now_s = progress.operations_done, time.monotonic()
        pace = pace or Pace(now_s, done, window_s=_PACE_WINDOW_S)
        pace.add(now_s, done)
        if progress.chunks_done == seen and not has_ended:
            yield _NOTHING
            continue
        seen = progress.chunks_done
        # A rate over less than the shortest time between two events would be random.
        is_known = pace.span_s >= _PAUSE_S
        event = ProgressEvent.of(
            progress,
            operations_per_second=pace.per_second if is_known else None,
            remaining_s=pace.left_s(progress.operations_total - done) if is_known else None,
        )
        yield sse("progress", event, id_=str(seen))
        if status is not None:
            yield sse("end", status, id_=_END_ID)
            return
        time.sleep(_PAUSE_S)


@dataclass(frozen=True, slots=True)
class QueueEvents:
    """`/v1/queues/{queue}/events`."""

    queue_of: QueueOf
    long_polls: LongPolls

    @operation(
        LAST_EVENT_ID,
        answers={200: Content(Counts, MEDIA_TYPE, "Events `counts` and `submission`.")},
    )
    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """Stream a queue's `counts` when they change, and `submission` events.

        After a reconnect, missed `submission` events are sent first.
        """
        on = self.queue_of(queue)
        last_id = req.get_header(_LAST_ID) or ""
        since = (
            last_id if all(map(_STREAM_ID.fullmatch, last_id.split(","))) else on.last_event_id()
        )
        with admitted(self.long_polls, req) as reader:
            _begin(resp, reader, _of_queue(on, since))


def _of_queue(on: Queue, since: str) -> Generator[bytes]:
    counted: Counts | None = None
    count_at = 0.0
    while True:
        parts = []
        if time.monotonic() >= count_at:
            count_at = time.monotonic() + _COUNT_EVERY_S
            counts = on.count_queue()
            if counts != counted:
                counted = counts
                parts.append(sse("counts", counts))
        wait_s = max(0.0, count_at - time.monotonic())
        since, events = on.wait_for_events(since, block_ms=int(wait_s * 1000) + 1)
        parts += [
            sse("submission", SubmissionEvent(queue=on.name, id=id_, event=event), id_=since)
            for id_, event in events
        ]
        yield b"".join(parts)


@dataclass(frozen=True, slots=True)
class AllEvents:
    """`/v1/events`."""

    queue_of: QueueOf
    names: Callable[[], list[str]]
    long_polls: LongPolls

    @operation(answers={200: Content(Counts, MEDIA_TYPE, "Events `counts`.")})
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Stream the `counts` of each queue when they change, at most once a second."""
        with admitted(self.long_polls, req) as reader:
            _begin(resp, reader, self._of_all())

    def _of_all(self) -> Generator[bytes]:
        counted: dict[str, Counts] = {}
        while True:
            counts = dict(each_readable(self.names(), lambda n: self.queue_of(n).count_queue()))
            parts = [sse("counts", body) for n, body in counts.items() if counted.get(n) != body]
            counted = counts
            yield b"".join(parts)
            # There is nothing to block on instead, since each queue has its own events in its own
            # slot. A stop or a closed connection is noticed as soon as by the other streams.
            time.sleep(_COUNT_EVERY_S)


def _begin(resp: falcon.Response, reader: Reader, events: Generator[bytes]) -> None:
    resp.content_type = MEDIA_TYPE
    resp.cache_control = ["no-store"]
    # nginx would delay events until its buffer is full.
    resp.set_header("X-Accel-Buffering", "no")
    resp.stream = Stream(_kept_alive(events, reader), events.close, reader.room.leave)


def _kept_alive(events: Iterator[bytes], reader: Reader) -> Iterator[bytes]:
    """Pass events on until the reader is gone, with occasional comments while there are none.

    Args:
        events: yields _NOTHING about once a second while there are none.
        reader: the stream's reader.
    """
    yield _RETRY
    said_at = time.monotonic()
    while not reader.is_gone:
        try:
            part = next(events, None)
        except OpsqueueError:
            # Forgotten, or Redis does not answer: a client that reconnects gets the problem.
            return
        if part is None:
            return
        if part != _NOTHING:
            said_at = time.monotonic()
            yield part
        elif time.monotonic() - said_at >= KEEP_ALIVE_S:
            said_at = time.monotonic()
            yield _COMMENT
