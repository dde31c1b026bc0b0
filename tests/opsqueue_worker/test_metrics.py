"""The metrics of a worker, and how they are served."""

from __future__ import annotations

import socket

import httpx
import pytest
from prometheus_client import generate_latest

from opsqueue.exceptions import IncorrectUsageError
from opsqueue.handlers.execute import Done, Failed, GivenBack, Times
from opsqueue.model.chunk import ChunkFailure, Token
from opsqueue_worker.metrics import WorkerMetrics
from opsqueue_worker.pool.pool import ChildEnd
from tests.served_metrics import documented, served

TOKEN = Token("1-1")


def filled() -> WorkerMetrics:
    metrics = WorkerMetrics()
    metrics.show_pool(4, lambda: 3)
    metrics.show_queue("q", lambda: 7)
    metrics.round_trips_of("q")(0.002, 5, 1)
    metrics.round_trips_of("q")(0.002, 5, 0)
    metrics.saw_chunk("q", Done(token=TOKEN, operations=1, duration_s=0.2, times=Times(0.01, 0.02)))
    metrics.saw_chunk("q", Done(token=TOKEN, operations=1, duration_s=0.0, ran=False))
    failure = ChunkFailure(type="ValueError", message="bad")
    metrics.saw_chunk("q", Failed(token=TOKEN, failure=failure, duration_s=3.0))
    metrics.saw_chunk("q", GivenBack(token=TOKEN, reason="worker stops"))
    metrics.saw_child_end(ChildEnd.CRASHED)
    return metrics


def test_each_stage_of_a_chunk_is_measured_once() -> None:
    """An earlier attempt does not count, and a released chunk has no duration."""
    lines = set(generate_latest(filled().registry).decode().splitlines())

    assert {
        'opsqueue_worker_chunk_duration_seconds_count{outcome="completed",queue="q"} 1.0',
        'opsqueue_worker_chunk_duration_seconds_sum{outcome="failed",queue="q"} 3.0',
        'opsqueue_worker_chunks_given_back_total{queue="q"} 1.0',
        'opsqueue_worker_input_wait_seconds_sum{queue="q"} 0.01',
        'opsqueue_worker_output_store_seconds_count{queue="q"} 1.0',
        'opsqueue_worker_reserve_duration_seconds_count{queue="q"} 2.0',
        'opsqueue_worker_report_duration_seconds_count{queue="q"} 1.0',
        'opsqueue_worker_children_ended_total{reason="crashed"} 1.0',
        'opsqueue_worker_children_ended_total{reason="stopped"} 0.0',
        'opsqueue_worker_chunks_held{queue="q"} 7.0',
        "opsqueue_worker_chunks_running 3.0",
        "opsqueue_worker_slots 4.0",
    } <= lines


def test_what_is_served_is_what_is_documented() -> None:
    """Names, types and labels, in both directions, from a real port."""
    url = filled().serve("127.0.0.1", 0)

    assert documented("Metrics of a worker") == served(httpx.get(url).text)


def test_a_port_that_is_taken_is_named() -> None:
    """The error comes before anything is reserved."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(
            IncorrectUsageError, match=f"metrics on 127.0.0.1:{port} .*or 0 for any"
        ):
            WorkerMetrics().serve("127.0.0.1", port)
