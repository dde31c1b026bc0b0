"""Queues: counts and rates, workers, pausing and resuming."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import falcon

from opsqueue.http.bodies import QueuesBody, WorkersBody
from opsqueue.model.answers import Counts
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import each_readable
from opsqueue_api.http.operation import operation
from opsqueue_api.http.parameters import write

QueueOf = Callable[[str], Queue]


@dataclass(frozen=True, slots=True)
class Queues:
    """`/v1/queues`."""

    queue_of: QueueOf
    names: Callable[[], list[str]]

    @operation(answers=QueuesBody)
    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Return the counts and rates of each queue."""
        counted = each_readable(self.names(), lambda name: self.queue_of(name).count_queue())
        write(resp, QueuesBody(queues=[counts for _, counts in counted]))


@dataclass(frozen=True, slots=True)
class OneQueue:
    """`/v1/queues/{queue}`."""

    queue_of: QueueOf

    @operation(answers=Counts)
    def on_get(self, _req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """Return the counts and rates of a queue."""
        write(resp, self.queue_of(queue).count_queue())


@dataclass(frozen=True, slots=True)
class PauseQueue:
    """`/v1/queues/{queue}/pause`."""

    queue_of: QueueOf

    @operation(answers=Counts)
    def on_post(self, _req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """Pause a queue: no chunk is reserved until it is resumed.

        Reserved chunks are finished. Pausing a paused queue changes nothing.
        """
        on = self.queue_of(queue)
        on.pause_queue()
        write(resp, on.count_queue())


@dataclass(frozen=True, slots=True)
class ResumeQueue:
    """`/v1/queues/{queue}/resume`."""

    queue_of: QueueOf

    @operation(answers=Counts)
    def on_post(self, _req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """Resume a paused queue; resuming a running one changes nothing."""
        on = self.queue_of(queue)
        on.resume_queue()
        write(resp, on.count_queue())


@dataclass(frozen=True, slots=True)
class Workers:
    """`/v1/queues/{queue}/workers`."""

    queue_of: QueueOf

    @operation(answers=WorkersBody)
    def on_get(self, _req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """List up to 1,000 workers that have not been removed, most recently seen first."""
        write(resp, WorkersBody.of(self.queue_of(queue).list_workers()))
