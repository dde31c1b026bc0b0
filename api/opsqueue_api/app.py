"""The composition root: builds the collaborators, passes them to the resources, adds the routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import falcon
from prometheus_client import CollectorRegistry

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.http.bodies import ProblemType
from opsqueue.model.new_submission import BUILT_IN, Defaults
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.cluster import Client
from opsqueue.queue.due import DueIndex
from opsqueue.queue.durability import Durability
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import queue_names
from opsqueue.store import ObjectStore
from opsqueue_api.http import problem
from opsqueue_api.http.auth import Authentication, Need
from opsqueue_api.http.compression import Compression
from opsqueue_api.http.cross_site import CrossSite
from opsqueue_api.http.hosts import KnownHosts
from opsqueue_api.http.long_polls import LongPolls
from opsqueue_api.http.operation import KnownParameters
from opsqueue_api.http.request_ids import RequestIds
from opsqueue_api.http.settings import Limits
from opsqueue_api.http.streams import Heads
from opsqueue_api.http.tokens import Token
from opsqueue_api.http.tracing import Spans
from opsqueue_api.resources import consumers, dashboard
from opsqueue_api.resources.errors import Errors, ErrorsChunks
from opsqueue_api.resources.events import AllEvents, QueueEvents, SubmissionEvents
from opsqueue_api.resources.grid import Reservations, SubmissionChunks
from opsqueue_api.resources.health import Alive, Ready, Version
from opsqueue_api.resources.inline import InlineInputs, InlineOutputs
from opsqueue_api.resources.metrics import ChunkDurations, HttpMetrics, Metrics, QueueTotals
from opsqueue_api.resources.openapi import OpenApi, Route
from opsqueue_api.resources.progress import SubmissionProgress
from opsqueue_api.resources.queues import (
    OneQueue,
    PauseQueue,
    QueueOf,
    Queues,
    ResumeQueue,
    Workers,
)
from opsqueue_api.resources.results import Results
from opsqueue_api.resources.scaling import Scaling
from opsqueue_api.resources.submissions import (
    CancelSubmission,
    OneSubmission,
    RetrySubmission,
    SubmissionIds,
    Submissions,
)

App = falcon.App[falcon.Request, falcon.Response]


def create_app(  # noqa: PLR0913 the composition root passes each part its settings
    client: Client,
    store: ObjectStore,
    *,
    limits: Limits | None = None,
    tokens: Sequence[Token] = (),
    allowed_hosts: Sequence[str] | None = None,
    long_polls: int = 24,
    heartbeat_timeout_s: float = 30.0,
    defaults: Defaults = BUILT_IN,
    durability: Durability = Durability.NONE,
    is_stopping: Callable[[], bool] = lambda: False,
    middleware: Sequence[Any] = (),
) -> App:
    """Create the WSGI application.

    Args:
        client: from `opsqueue.queue.connection.connect`, with a connection for each thread.
        store: the object store that producers and workers use.
        limits: the limits of a request.
        tokens: the accepted tokens; without any, everybody may do everything.
        allowed_hosts: names that requests may be sent to besides localhost and IP addresses, as
            `hosts.AllowedHosts` reads them; ignored if there are tokens. None allows all names,
            for an app that no browser reaches, as in tests.
        heartbeat_timeout_s: a consumer that does not choose a timeout counts as dead after so long
            a silence.
        defaults: values of options that neither an insert nor its queue sets.
        durability: the guarantee that each insert asks Redis for before it is answered.
        long_polls: requests that may wait at the same time; fewer than threads.
        is_stopping: called by waiting requests about once a second.
        middleware: Falcon middleware, called after the API's own.
    """
    limits = limits or Limits()
    queue_of, names = _queues(client, defaults, durability), partial(queue_names, client)
    waiting = LongPolls(long_polls, is_stopping)
    needs: dict[str, dict[str, Need]] = {}
    routes: list[Route] = []
    authentication = Authentication(tokens, needs)
    registry = CollectorRegistry()
    app: App = falcon.App(
        middleware=[
            Heads(),
            HttpMetrics(registry),
            Spans(),
            RequestIds(),
            Compression(),
            # With tokens the check is unnecessary: no page of another site has a token.
            *([] if tokens or allowed_hosts is None else [KnownHosts(allowed_hosts)]),
            CrossSite(),
            authentication,
            KnownParameters(),
            *middleware,
        ],
    )
    app.req_options.strip_url_path_trailing_slash = True
    problem.install(app)

    def route(path: str, resource: object, **by_method: Need) -> None:
        app.add_route(path, resource)
        needs[path] = by_method
        routes.append(Route(path, resource, by_method))

    # The scope that each method needs; a method that is not listed needs admin.
    queue = "/v1/queues/{queue}"
    submission = f"{queue}/submissions/{{submission_id}}"
    submissions = Submissions(queue_of, store, limits)
    one = OneSubmission(queue_of, waiting)
    route("/v1/queues", Queues(queue_of, names), GET=Need.ADMIN)
    route("/v1/events", AllEvents(queue_of, names, waiting), GET=Need.ADMIN)
    route(queue, OneQueue(queue_of), GET=Need.ANY)
    route(f"{queue}/events", QueueEvents(queue_of, waiting), GET=Need.ANY)
    route(f"{queue}/scaling", Scaling(queue_of), GET=Need.SCALE)
    route(f"{queue}/pause", PauseQueue(queue_of), POST=Need.ADMIN)
    route(f"{queue}/resume", ResumeQueue(queue_of), POST=Need.ADMIN)
    route(f"{queue}/workers", Workers(queue_of), GET=Need.ADMIN)
    route(f"{queue}/reservations", Reservations(queue_of), GET=Need.ADMIN)
    route(f"{queue}/submission-ids", SubmissionIds(queue_of), GET=Need.PRODUCE)
    route(f"{queue}/submissions", submissions, GET=Need.PRODUCE, POST=Need.PRODUCE)
    route(submission, one, GET=Need.PRODUCE, PATCH=Need.PRODUCE)
    route(f"{submission}/cancel", CancelSubmission(queue_of), POST=Need.PRODUCE)
    retry = RetrySubmission(queue_of, RedisBackend(client, queue_of=queue_of), store, limits)
    route(f"{submission}/retry", retry, POST=Need.PRODUCE)
    route(f"{submission}/progress", SubmissionProgress(queue_of, waiting), GET=Need.PRODUCE)
    route(f"{submission}/events", SubmissionEvents(queue_of, waiting), GET=Need.PRODUCE)
    route(f"{submission}/results", Results(queue_of, store, waiting, limits), GET=Need.PRODUCE)
    route(f"{submission}/inline-inputs", InlineInputs(queue_of), GET=Need.PRODUCE)
    route(f"{submission}/inline-outputs", InlineOutputs(queue_of), GET=Need.PRODUCE)
    route(f"{submission}/chunks", SubmissionChunks(queue_of), GET=Need.PRODUCE)
    route(f"{submission}/errors", Errors(queue_of, store), GET=Need.PRODUCE)
    route(f"{submission}/errors/chunks", ErrorsChunks(queue_of), GET=Need.PRODUCE)
    timeout_ms = int(heartbeat_timeout_s * 1000)
    consumers.add_routes(
        route, queue_of, store, limits, waiting, timeout_ms, ChunkDurations(registry)
    )
    route(
        "/metrics",
        Metrics(QueueTotals(queue_of, names, DueIndex(client).busiest), registry),
        GET=Need.METRICS,
    )
    dashboard.add_routes(route)
    route("/openapi.json", OpenApi(routes, has_tokens=bool(tokens)), GET=Need.OPEN)
    route("/healthz", Alive(), GET=Need.OPEN)
    route("/readyz", Ready(client, store), GET=Need.OPEN)
    route("/version", Version(store), GET=Need.OPEN)
    return app


def _queues(client: Client, defaults: Defaults, durability: Durability) -> QueueOf:
    # Cached, since a queue registers itself with its first insert; bounded, since clients choose
    # the names.
    @lru_cache(1_000)
    def queue_of(name: str) -> Queue:
        try:
            return Queue(client, name, defaults=defaults, durability=durability)
        except InvalidArgumentError as exc:
            kind = ProblemType.QUEUE_NAME
            raise problem.ProblemError(problem.Problem(kind, str(exc))) from exc

    return queue_of
