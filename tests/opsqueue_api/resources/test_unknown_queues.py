"""Requests about queues that do not exist leave nothing in Redis."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import redis

from opsqueue.model.names import QUEUES_KEY, UPKEEP, base_key
from opsqueue.model.submission import SubmissionId
from opsqueue.queue.sweeper import Sweeper
from opsqueue.store import ObjectStore
from opsqueue_api.app import App
from tests.opsqueue_api.clients import client_of

ID = SubmissionId("1795000000000000000")
TOKEN = f"1-1:{ID}:0"
SUBMISSION = f"/submissions/{ID}"
GETS = [
    "", "/events?wait=0", "/scaling", "/workers", "/reservations", "/submission-ids?prefix=a",
    "/submission-ids?key=a", "/submissions", SUBMISSION, f"{SUBMISSION}/progress",
    f"{SUBMISSION}/progress?wait=0.1&done=0", f"{SUBMISSION}/events", f"{SUBMISSION}/results",
    f"{SUBMISSION}/inline-inputs", f"{SUBMISSION}/inline-outputs", f"{SUBMISSION}/chunks",
    f"{SUBMISSION}/errors", f"{SUBMISSION}/errors/chunks", f"{SUBMISSION}?wait=0.1",
]  # fmt: skip
POSTS = [
    ("/resume", {}), (f"{SUBMISSION}/cancel", {}), (f"{SUBMISSION}/retry", {}),
    ("/chunks/complete", {"chunks": [{"token": TOKEN, "results": [0]}]}),
    ("/chunks/complete", {"chunks": [{"token": TOKEN}]}),
    ("/chunks/fail", {"chunks": [{"token": TOKEN, "type": "E", "message": "m"}]}),
    ("/chunks/fail", {"token": TOKEN, "error": {"type": "E", "message": "m"}}),
    ("/chunks/release", {"tokens": [TOKEN]}),
]  # fmt: skip
RESERVE = {"worker": "c1", "reservation_ms": 60_000}


@pytest.fixture
def kept(client: redis.Redis, queue_name: str) -> Any:
    """Return a function that returns the queue's keys, and its name if it is in the list."""

    def names() -> set[str]:
        keys: Any = client.keys(f"*{queue_name}*")
        found = {key.decode() for key in keys if client.ttl(key) == -1}
        return found | ({"its name"} if client.sismember(QUEUES_KEY, queue_name) else set())

    return names


@pytest.mark.parametrize("path", GETS)
def test_reading_leaves_nothing(http: httpx.Client, kept: Any, path: str) -> None:
    with http.stream("GET", path) as response:
        assert response.status_code < 500

    assert kept() == set()


@pytest.mark.parametrize(("path", "body"), POSTS)
def test_reports_and_changes_of_what_is_not_there_leave_nothing(
    http: httpx.Client, kept: Any, path: str, body: dict[str, Any]
) -> None:
    assert http.post(path, json=body).status_code < 500

    assert kept() == set()


def test_lists_and_metrics_leave_nothing(app: App, client: redis.Redis, kept: Any) -> None:
    """They ask every name that is in the list."""
    with client_of(app) as http:
        for path in ("/v1/queues", "/metrics"):
            assert http.get(path).status_code == 200

    assert kept() == set()


def test_a_consumer_that_signs_off_leaves_nothing(http: httpx.Client, kept: Any) -> None:
    """While it waits, it is listed, so that an operator sees the wrong name."""
    assert http.post("/chunks/reserve", json=RESERVE).json()["chunks"] == []
    http.post("/workers/c1/heartbeat", json={"tokens": []}).raise_for_status()
    assert [worker["name"] for worker in http.get("/workers").json()["workers"]] == ["c1"]

    http.delete("/workers/c1").raise_for_status()

    assert kept() == set()


def test_a_consumer_that_dies_leaves_nothing(
    http: httpx.Client, client: redis.Redis, store: ObjectStore, queue_name: str, kept: Any
) -> None:
    """Also one that was never heard of again."""
    assert http.post("/chunks/reserve", json=RESERVE).json()["chunks"] == []
    client.zadd(base_key(queue_name) + "dead_at", {"c1": 0})
    sweeping = Sweeper(list, client=client, sweeper="s1", store=store, sweeps_all=True)

    for _ in range(100):
        # Other tests' partitions may be in the index, too.
        client.zadd(base_key(UPKEEP) + "due", {queue_name: 0})
        client.delete(base_key(UPKEEP) + "leader")
        sweeping._round()
        if not kept():
            break

    assert kept() == set()
