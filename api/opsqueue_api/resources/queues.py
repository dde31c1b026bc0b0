"""Queues: counts and rates, workers, pause and resume."""

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
        """Count what each queue holds."""
        counted = each_readable(self.names(), lambda name: self.queue_of(name).count_queue())
        write(resp, QueuesBody(queues=[counts for _, counts in counted]))


@dataclass(frozen=True, slots=True)
class OneQueue:
    """`/v1/queues/{queue}`."""

    queue_of: QueueOf

    @operation(answers=Counts)
    def on_get(self, _req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """Count what the queue holds."""
        write(resp, self.queue_of(queue).count_queue())


@dataclass(frozen=True, slots=True)
class PauseQueue:
    """`/v1/queues/{queue}/pause`."""

    queue_of: QueueOf

    @operation(answers=Counts)
    def on_post(self, _req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """Let no chunk be reserved; twice is once. Chunks in hand are finished."""
        on = self.queue_of(queue)
        on.pause_queue()
        write(resp, on.count_queue())


@dataclass(frozen=True, slots=True)
class ResumeQueue:
    """`/v1/queues/{queue}/resume`."""

    queue_of: QueueOf

    @operation(answers=Counts)
    def on_post(self, _req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """Let chunks be reserved again; twice is once."""
        on = self.queue_of(queue)
        on.resume_queue()
        write(resp, on.count_queue())


@dataclass(frozen=True, slots=True)
class Workers:
    """`/v1/queues/{queue}/workers`."""

    queue_of: QueueOf

    @operation(answers=WorkersBody)
    def on_get(self, _req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """List the workers that have not gone, the ones seen last first."""
        write(resp, WorkersBody(workers=self.queue_of(queue).list_workers()))
