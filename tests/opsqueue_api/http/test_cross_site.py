"""The origin that a browser sends decides whether a request may change something."""

from __future__ import annotations

import httpx
import pytest
import redis

from opsqueue.http.bodies import ProblemType
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore
from opsqueue_api.app import create_app
from tests.opsqueue_api.clients import client_of

HOST = "127.0.0.1:8000"
FOREIGN = [
    {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:3000"},
    {"Origin": "https://evil.example"},
    {"Origin": "http://127.0.0.1:3000"},
    {"Origin": "null"},
    {"Origin": "http://[::1"},
]
OWN = [
    {},
    {"Sec-Fetch-Site": "same-origin", "Origin": f"http://{HOST}"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": f"http://{HOST}"},
    {"Origin": f"https://{HOST}"},
]


@pytest.fixture
def http(fake_client: redis.Redis, store: ObjectStore) -> httpx.Client:
    http = client_of(create_app(fake_client, store))
    http.headers["Host"] = HOST
    return http


@pytest.mark.parametrize("action", ["pause", "resume"])
@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_another_site_changes_nothing(
    http: httpx.Client, fake_client: redis.Redis, headers: dict[str, str], action: str
) -> None:
    queue = Queue(fake_client, "numbers")
    if action == "resume":
        assert http.post("/v1/queues/numbers/pause").is_success
    was = queue.count_queue().is_paused
    answer = http.post(f"/v1/queues/numbers/{action}", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["type"] == ProblemType.FORBIDDEN
    assert "another site" in answer.json()["detail"]
    assert queue.count_queue().is_paused == was


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_the_own_page_and_programs_do(
    http: httpx.Client, fake_client: redis.Redis, headers: dict[str, str]
) -> None:
    assert http.post("/v1/queues/numbers/pause", headers=headers).is_success
    assert Queue(fake_client, "numbers").count_queue().is_paused


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_links_of_other_sites_work(http: httpx.Client, headers: dict[str, str]) -> None:
    assert http.get("/", headers=headers).status_code == 200
