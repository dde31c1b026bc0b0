"""`/metrics`: totals read from Redis at each scrape, and durations of the API's requests.

The totals in Redis cover all processes, restarts and workers, so any API can be scraped. The
histograms of requests and of reported chunks cover one API with all its gunicorn processes
(prometheus-client's multiprocess mode, which `cli` switches on). docs/metrics.md lists all metrics.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import accumulate, islice
from typing import Final

import falcon
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from opsqueue.exceptions import RedisUnavailableError
from opsqueue.model.answers import Counts
from opsqueue.model.chunk import (
    Completed,
    CompleteOutcome,
    Dropped,
    FailOutcome,
    Lost,
    Reservation,
    Token,
)
from opsqueue.model.version import __version__
from opsqueue.queue.script import each_readable
from opsqueue_api.http.operation import Content, operation
from opsqueue_api.http.settings import MULTIPROCESS_DIR
from opsqueue_api.resources.queues import QueueOf

# Name -> help, label, and the fields of the totals by value of the label ("" without a label).
_TOTALS: Final[Mapping[str, tuple[str, str, Mapping[str, str]]]] = {
    "opsqueue_submissions_inserted": ("Submissions inserted.", "", {"": "submissions_inserted"}),
    "opsqueue_submissions_ended": (
        "Submissions that have ended, by final state.",
        "state",
        {state: f"submissions_{state}" for state in ("completed", "failed", "cancelled")},
    ),
    "opsqueue_submissions_retried": (
        "Failed or cancelled submissions that were retried.",
        "",
        {"": "submissions_retried"},
    ),
    "opsqueue_chunks_inserted": ("Chunks inserted.", "", {"": "chunks_inserted"}),
    "opsqueue_chunks_ended": (
        "Chunks that have ended, by state; dropped: their submission failed or was cancelled.",
        "state",
        {state: f"chunks_{state}" for state in ("completed", "failed", "dropped")},
    ),
    "opsqueue_chunks_retried": (
        "Failed attempts that were followed by another one.",
        "",
        {"": "chunks_retried"},
    ),
    "opsqueue_chunks_reclaimed": (
        "Chunks reclaimed from dead workers or after their reservation expired.",
        "",
        {"": "chunks_reclaimed"},
    ),
    "opsqueue_chunks_released": (
        "Chunks that workers released without using an attempt.",
        "",
        {"": "chunks_released"},
    ),
    "opsqueue_chunks_repaired": (
        "Chunks that Redis had lost track of and that were made ready again.",
        "",
        {"": "chunks_repaired"},
    ),
    "opsqueue_reservations_lost": (
        "Reservations that something other than opsqueue removed from Redis.",
        "",
        {"": "reservations_lost"},
    ),
    "opsqueue_operations_inserted": ("Operations inserted.", "", {"": "operations_inserted"}),
    "opsqueue_operations_completed": (
        "Operations of completed chunks, with or without an error.",
        "",
        {"": "operations_completed"},
    ),
    "opsqueue_operations_failed": (
        "Operations of completed chunks that have an error instead of a result.",
        "",
        {"": "operations_failed"},
    ),
}

_GAUGES: Final[Mapping[str, tuple[str, Callable[[Counts], float]]]] = {
    "opsqueue_submissions_in_progress": (
        "Submissions that have not ended.",
        lambda counts: sum(n for state, n in counts.submissions.items() if state == "in_progress"),
    ),
    "opsqueue_backlog_chunks": (
        "Chunks that have not ended, including reserved ones.",
        lambda counts: counts.backlog_chunks,
    ),
    "opsqueue_backlog_operations": (
        "Operations of the chunks in the backlog.",
        lambda counts: max(0, counts.stats.get("backlog_operations", 0)),
    ),
    "opsqueue_chunks_ready": (
        "Chunks that a worker could reserve now.",
        lambda counts: counts.chunks_ready,
    ),
    "opsqueue_chunks_delayed": (
        "Chunks that wait for the end of a back-off.",
        lambda counts: counts.chunks_delayed,
    ),
    "opsqueue_chunks_in_hand": (
        "Chunks that workers have reserved.",
        lambda counts: counts.chunks_in_hand,
    ),
    "opsqueue_workers": (
        "Workers and consumers that have sent a heartbeat.",
        lambda counts: counts.workers,
    ),
    "opsqueue_oldest_waiting_seconds": (
        "Age of the oldest submission that has a waiting chunk; 0 if there is none.",
        lambda counts: _age_s(counts.oldest_waiting_at),
    ),
    "opsqueue_queue_paused": (
        "1 while the queue is paused, else 0.",
        lambda counts: counts.is_paused,
    ),
}


def _age_s(since: datetime | None) -> float:
    return 0.0 if since is None else max(0.0, time.time() - since.timestamp())


_BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
_CHUNK_BUCKETS: Final = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    *(60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0),
)
MAX_QUEUES: Final = 500
"""The most queues that an answer has metrics of: some 3 MB, and a second or two."""
_MOST_PARTITIONS: Final = 4 * MAX_QUEUES
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


class QueueTotals(Collector):
    """The metrics of queues, read from Redis at each scrape; of MAX_QUEUES at most.

    Args:
        queue_of: returns a queue by name.
        names: returns the names of all queues.
        busiest: returns at most so many partitions, the busiest first; see `DueIndex.busiest`.
    """

    def __init__(
        self,
        queue_of: QueueOf,
        names: Callable[[], list[str]],
        busiest: Callable[[int], list[str]],
    ) -> None:
        """Store them."""
        self._queue_of = queue_of
        self._names = names
        self._busiest = busiest

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; if Redis does not answer, yield no metrics of queues."""
        try:
            known = self._names()
            names = self._shown(known)
            by_queue = dict(each_readable(names, lambda name: self._queue_of(name).count_queue()))
            durations = dict(
                each_readable(names, lambda name: self._queue_of(name).get_durations())
            )
            is_up = True
        except RedisUnavailableError:
            known, names, by_queue, durations, is_up = [], [], {}, {}, False
        yield GaugeMetricFamily(
            "opsqueue_redis_up", "1 when Redis answered this scrape, else 0.", value=is_up
        )
        build = GaugeMetricFamily(
            "opsqueue_build_info", "Always 1; the label holds the version.", labels=["version"]
        )
        build.add_metric([__version__], 1)
        yield build
        if is_up:
            yield GaugeMetricFamily("opsqueue_queues", "Queues in Redis.", value=len(known))
            yield GaugeMetricFamily(
                "opsqueue_queues_left_out",
                "Queues without metrics of their own in this answer.",
                value=len(known) - len(names),
            )
        for name, (about, label, fields) in _TOTALS.items():
            labels = ["queue", label] if label else ["queue"]
            total = CounterMetricFamily(name, about, labels=labels)
            for queue, counts in by_queue.items():
                for value, field in fields.items():
                    of = [queue, value] if label else [queue]
                    total.add_metric(of, counts.stats.get(field, 0))
            yield total
        for name, (about, read) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, about, labels=["queue"])
            for queue, counts in by_queue.items():
                gauge.add_metric([queue], read(counts))
            yield gauge
        took = HistogramMetricFamily(
            "opsqueue_submission_duration_seconds",
            "Time from a submission's insert to its end, by final state.",
            labels=["queue", "state"],
        )
        for queue, by_state in durations.items():
            for state, of_state in by_state.items():
                buckets = zip(
                    map(floatToGoString, of_state.counts),
                    accumulate(of_state.counts.values()),
                    strict=True,
                )
                took.add_metric([queue, state], list(buckets), of_state.sum_s)
        yield took

    def _shown(self, known: list[str]) -> list[str]:
        """Return the names of the busiest queues, then of others, sorted."""
        if len(known) <= MAX_QUEUES:
            return known
        busy = (label.partition("/")[0] for label in self._busiest(_MOST_PARTITIONS))
        wanted = dict.fromkeys([*filter(set(known).__contains__, busy), *known])
        return sorted(islice(wanted, MAX_QUEUES))


class ChunkDurations:
    """The time from a chunk's reservation to its report to this API, by workers and consumers.

    A worker that speaks to Redis itself has its own, of the handler alone.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Add the histogram to the registry."""
        self._named: set[str] = set()
        self._durations = Histogram(
            "opsqueue_chunk_duration_seconds",
            "Time from a chunk's reservation to its report, of those reported to this API.",
            ["queue", "outcome"],
            buckets=_CHUNK_BUCKETS,
            registry=registry,
        )

    def count(
        self,
        queue: str,
        held: Mapping[Token, Reservation],
        outcomes: Iterable[tuple[Token, CompleteOutcome | FailOutcome]],
    ) -> None:
        """Count the reports that counted; one that was lost or dropped did not end a chunk.

        Queues are those that had the chunk in hand, so that nobody can make up further labels.
        Beyond MAX_QUEUES of them in this process, the others share the label "".
        """
        for token, outcome in outcomes:
            chunk = held.get(token)
            if chunk is None or isinstance(outcome, Dropped | Lost):
                continue
            if queue not in self._named and len(self._named) >= MAX_QUEUES:
                queue = ""
            self._named.add(queue)
            what = "completed" if isinstance(outcome, Completed) else "failed"
            self._durations.labels(queue, what).observe(chunk.held_ms / 1000)


class HttpMetrics:
    """Falcon middleware, the first one: measures the time until each answer begins.

    The waiting of a long poll counts; the rest of a stream does not.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the histogram."""
        self._durations = Histogram(
            "opsqueue_http_request_duration_seconds",
            "Time until a request's answer begins, including waiting.",
            ["method", "route", "status"],
            buckets=_BUCKETS,
            registry=registry,
        )

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Record the start of the request."""
        req.context.began = time.perf_counter()

    def process_response(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        _resource: object,
        _req_succeeded: bool,  # noqa: FBT001 as Falcon calls it
    ) -> None:
        """Record the duration under the route's template, since there are too many paths."""
        method = req.method if req.method in _METHODS else "other"
        route = req.uri_template or "none"
        labels = (method, route, str(resp.status_code))
        self._durations.labels(*labels).observe(time.perf_counter() - req.context.began)


class Metrics:
    """`/metrics`.

    Args:
        totals: the metrics of the queues.
        own: the registry of this process.
    """

    def __init__(self, totals: QueueTotals, own: CollectorRegistry) -> None:
        """Create the registry to be served."""
        self._registry = own
        if MULTIPROCESS_DIR in os.environ:
            # The processes keep their metrics in files there; the answer combines all of them.
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]  # as they ship it
        self._registry.register(totals)

    @operation(
        answers={
            200: Content(
                None,
                "text/plain",
                "Prometheus's text format, or OpenMetrics if accepted; see docs/metrics.md.",
                ("application/openmetrics-text",),
            )
        }
    )
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return all metrics in Prometheus's text format, even if Redis does not answer."""
        encode, content_type = choose_encoder(req.get_header("Accept") or "")
        resp.content_type = content_type
        resp.data = encode(self._registry)
