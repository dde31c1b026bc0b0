"""The composition root: collaborators are built here, handed to the resources, and routed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import falcon
import redis

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.queue import Queue
from opsqueue.script import queue_names
from opsqueue.store import ObjectStore
from opsqueue.wire import ProblemType
from opsqueue_api import problem
from opsqueue_api.errors import Errors, ErrorsChunks
from opsqueue_api.health import Alive, Ready, Version
from opsqueue_api.queues import (
    OneQueue,
    PauseQueue,
    QueueOf,
    Queues,
    ResumeQueue,
    Workers,
)
from opsqueue_api.results import Results
from opsqueue_api.settings import Limits
from opsqueue_api.submissions import (
    CancelSubmission,
    LongPolls,
    OneSubmission,
    RetrySubmission,
    SubmissionIds,
    Submissions,
)

App = falcon.App[falcon.Request, falcon.Response]


def create_app(
    client: redis.Redis,
    store: ObjectStore,
    *,
    limits: Limits | None = None,
    long_polls: int = 24,
    is_stopping: Callable[[], bool] = lambda: False,
    middleware: Sequence[Any] = (),
) -> App:
    """Make the WSGI application.

    Args:
        client: from `opsqueue.connection.connect`, with a connection for each thread.
        store: the object store that producers and workers have.
        limits: of a request.
        long_polls: requests that may wait at once; fewer than threads.
        is_stopping: asked by those that wait, about once a second.
        middleware: Falcon's; what checks tokens goes here.
    """
    queue_of = _queues(client)
    waiting = LongPolls(long_polls, is_stopping)
    app: App = falcon.App(middleware=list(middleware))
    app.req_options.strip_url_path_trailing_slash = True
    problem.install(app)

    queue = "/v1/queues/{queue}"
    submission = f"{queue}/submissions/{{submission_id}}"
    app.add_route("/v1/queues", Queues(queue_of, partial(queue_names, client)))
    app.add_route(queue, OneQueue(queue_of))
    app.add_route(f"{queue}/pause", PauseQueue(queue_of))
    app.add_route(f"{queue}/resume", ResumeQueue(queue_of))
    app.add_route(f"{queue}/workers", Workers(queue_of))
    app.add_route(f"{queue}/submission-ids", SubmissionIds(queue_of))
    app.add_route(f"{queue}/submissions", Submissions(queue_of, store, limits or Limits()))
    app.add_route(submission, OneSubmission(queue_of, waiting))
    app.add_route(f"{submission}/cancel", CancelSubmission(queue_of))
    app.add_route(f"{submission}/retry", RetrySubmission(queue_of))
    app.add_route(f"{submission}/results", Results(queue_of, store))
    app.add_route(f"{submission}/errors", Errors(queue_of, store))
    app.add_route(f"{submission}/errors/chunks", ErrorsChunks(queue_of))
    app.add_route("/healthz", Alive())
    app.add_route("/readyz", Ready(client, store))
    app.add_route("/version", Version())
    return app


def _queues(client: redis.Redis) -> QueueOf:
    # Kept, since a queue registers itself with its first insert; bounded, since names are the
    # clients' to choose.
    @lru_cache(1_000)
    def queue_of(name: str) -> Queue:
        try:
            return Queue(client, name)
        except InvalidArgumentError as exc:
            kind = ProblemType.QUEUE_NAME
            raise problem.ProblemError(problem.Problem(kind, str(exc))) from exc

    return queue_of
