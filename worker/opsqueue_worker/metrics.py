"""`--metrics-port`: the metrics of this worker's chunks, for Prometheus.

The parent alone keeps and serves them. Children send the duration of each stage with their report,
so it does not matter how many children there are, or that they die and are replaced.
docs/metrics.md lists all metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from opsqueue.exceptions import IncorrectUsageError
from opsqueue.handlers.execute import Done, Failed, GivenBack, Report
from opsqueue.model.version import __version__
from opsqueue_worker.pool.pool import ChildEnd, Health

_CHUNK_BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
)
_STAGE_BUCKETS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)


class WorkerMetrics:
    """The metrics of one worker."""

    def __init__(self) -> None:
        """Create the metrics, all at zero. Nothing is served yet."""
        self.registry = CollectorRegistry()
        self._chunks = self._histogram(
            "opsqueue_worker_chunk_duration_seconds",
            "How long the handler ran for a chunk, including decoding.",
            ["queue", "outcome"],
            _CHUNK_BUCKETS,
        )
        self._given_back = Counter(
            "opsqueue_worker_chunks_given_back",
            "Chunks released without using an attempt.",
            ["queue"],
            registry=self.registry,
        )
        self._input_waits = self._histogram(
            "opsqueue_worker_input_wait_seconds",
            "How long a chunk's slot waited for its input; inputs are fetched ahead.",
        )
        self._output_stores = self._histogram(
            "opsqueue_worker_output_store_seconds",
            "How long storing a chunk's output took, including retries.",
        )
        self._reserves = self._histogram(
            "opsqueue_worker_reserve_duration_seconds",
            "Round trips to Redis that asked for chunks.",
        )
        self._reports = self._histogram(
            "opsqueue_worker_report_duration_seconds",
            "Round trips to Redis that reported chunks; one may also ask for new chunks.",
        )
        self._children = Counter(
            "opsqueue_worker_children_ended",
            "Child processes that have ended, by reason.",
            ["reason"],
            registry=self.registry,
        )
        for reason in ChildEnd:
            self._children.labels(reason.value)
        self._children_ready = Gauge(
            "opsqueue_worker_children_ready",
            "Child processes that can run chunks.",
            registry=self.registry,
        )
        self._children_wanted = Gauge(
            "opsqueue_worker_children_wanted",
            "Child processes that should be ready.",
            registry=self.registry,
        )
        self._reloads_failed = Counter(
            "opsqueue_worker_reload_failed",
            "Reloads whose new code could not be started.",
            registry=self.registry,
        )
        self._lines_dropped = Counter(
            "opsqueue_worker_output_lines_dropped",
            "Lines of output that were dropped, as they could not be written.",
            ["stream"],
            registry=self.registry,
        )
        for stream in ("stdout", "stderr"):
            self._lines_dropped.labels(stream)
        self._held = Gauge(
            "opsqueue_worker_chunks_held",
            "Chunks that this worker holds: waiting, running or not yet reported.",
            ["queue"],
            registry=self.registry,
        )
        self._running = Gauge(
            "opsqueue_worker_chunks_running",
            "Chunks whose handler is running.",
            registry=self.registry,
        )
        self._slots = Gauge(
            "opsqueue_worker_slots",
            "Chunks that can run at the same time.",
            registry=self.registry,
        )
        build = Gauge(
            "opsqueue_build_info",
            "Always 1; the label holds the version.",
            ["version"],
            registry=self.registry,
        )
        build.labels(__version__).set(1)

    def _histogram(
        self,
        name: str,
        about: str,
        labels: list[str] | None = None,
        buckets: tuple[float, ...] = _STAGE_BUCKETS,
    ) -> Histogram:
        return Histogram(name, about, labels or ["queue"], buckets=buckets, registry=self.registry)

    def show_pool(self, slots: int, running: Callable[[], int]) -> None:
        """Register the number of slots, and a callback for the number of running chunks.

        The callback is called at each scrape.
        """
        self._slots.set(slots)
        self._running.set_function(running)

    def show_children(self, health: Callable[[], Health]) -> None:
        """Register a callback for the state of the children, which each scrape calls."""
        self._children_ready.set_function(lambda: health().ready)
        self._children_wanted.set_function(lambda: health().wanted)

    def show_queue(self, queue: str, held: Callable[[], int]) -> None:
        """Create a queue's metrics at zero; `held` is called at each scrape."""
        for outcome in ("completed", "failed"):
            self._chunks.labels(queue, outcome)
        for metric in (self._given_back, self._input_waits, self._output_stores):
            metric.labels(queue)
        self._held.labels(queue).set_function(held)

    def saw_chunk(self, queue: str, report: Report) -> None:
        """Record the outcome of a chunk."""
        times = report.times
        match report:
            case Done(ran=False):
                pass  # the duration was that of an earlier attempt
            case Done():
                self._chunks.labels(queue, "completed").observe(report.duration_s)
            case Failed():
                self._chunks.labels(queue, "failed").observe(report.duration_s)
            case GivenBack():
                # Most of these did not run at all, so only their number is meaningful.
                self._given_back.labels(queue).inc()
        if times.input_wait_s is not None:
            self._input_waits.labels(queue).observe(times.input_wait_s)
        if times.store_s is not None:
            self._output_stores.labels(queue).observe(times.store_s)

    def round_trips_of(self, queue: str) -> Callable[[float, int, int], None]:
        """Return a callback that records a queue's round trips to Redis."""
        reserves, reports = self._reserves.labels(queue), self._reports.labels(queue)

        def saw(duration_s: float, asked_for: int, reported: int) -> None:
            if asked_for:
                reserves.observe(duration_s)
            if reported:
                reports.observe(duration_s)

        return saw

    def saw_child_end(self, reason: ChildEnd) -> None:
        """Count a child that has ended."""
        self._children.labels(reason.value).inc()

    def saw_failed_reload(self) -> None:
        """Count a reload whose new code could not be started."""
        self._reloads_failed.inc()

    def saw_dropped_lines(self, stream: str, lines: int) -> None:
        """Count lines of output that were dropped."""
        self._lines_dropped.labels(stream).inc(lines)

    def serve(self, host: str, port: int) -> str:
        """Serve the metrics from a separate thread; return the address.

        Raises:
            IncorrectUsageError: the port is not available.
        """
        try:
            server, _ = start_http_server(port, host, self.registry)
        except OSError as exc:
            message = (
                f"can't serve metrics on {host}:{port} ({exc.strerror}): choose another "
                "--metrics-port, or 0 for any free port"
            )
            raise IncorrectUsageError(message) from exc
        return f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
