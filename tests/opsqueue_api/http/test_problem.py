"""Errors of all kinds are answered as problem details."""

from __future__ import annotations

import logging
from typing import Any

import falcon
import httpx
import pytest
import redis

from opsqueue.exceptions import ScriptError, StoreUnavailableError
from opsqueue.http.bodies import ProblemType
from opsqueue.model.names import base_key
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore
from opsqueue_api.app import App, create_app
from opsqueue_api.http import problem
from tests.opsqueue.steps import insert
from tests.opsqueue_api.clients import client_of


class Raises:
    """A resource with a defect."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def on_get(self, _req: falcon.Request, _resp: falcon.Response) -> None:
        raise self.error


def get(app: App, path: str, method: str = "GET") -> httpx.Response:
    with client_of(app) as http:
        return http.request(method, path)


def failing_app(error: Exception) -> App:
    app: App = falcon.App()
    problem.install(app)
    app.add_route("/", Raises(error))
    return app


def told(response: httpx.Response) -> tuple[int, str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    return response.status_code, response.headers["content-type"], body["type"]


def test_503_of_any_kind_says_when_to_come_again() -> None:
    """Also one that Falcon, or a middleware of somebody's, raises itself."""
    for error in (falcon.HTTPServiceUnavailable(), StoreUnavailableError("gone")):
        response = get(failing_app(error), "/")

        assert (response.status_code, response.headers["retry-after"]) == (503, "2")


def test_every_problem_type_has_a_status_and_a_title() -> None:
    """The table of kinds is complete."""
    assert set(ProblemType) == set(problem._KINDS)


def test_an_unknown_route_is_a_problem(app: App) -> None:
    """404 that says where submissions are."""
    response = get(app, "/submissions")

    assert told(response)[::2] == (404, ProblemType.ROUTE_NOT_FOUND)
    assert "/v1/queues/QUEUE/submissions" in response.json()["detail"]


def test_a_wrong_method_is_a_problem(app: App) -> None:
    """405 with the methods that are right."""
    response = get(app, "/v1/queues/q", method="DELETE")

    assert told(response)[::2] == (405, ProblemType.METHOD_NOT_ALLOWED)
    assert "GET" in response.headers["allow"]
    assert "GET" in response.json()["detail"]


def test_redis_that_does_not_answer_is_503(store: ObjectStore) -> None:
    """With Retry-After, since trying again can help."""
    app = create_app(connect("redis://127.0.0.1:1/0"), store)

    response = get(app, "/v1/queues/q")

    assert told(response)[::2] == (503, ProblemType.UNAVAILABLE)
    assert response.headers["retry-after"] == "2"
    assert "Redis does not answer" in response.json()["detail"]


def test_a_queue_whose_format_is_too_new_is_501_and_left_out_of_lists(
    fake_client: redis.Redis, store: ObjectStore
) -> None:
    """The other queues are served."""
    app = create_app(fake_client, store)
    for name in ("known", "newer"):
        insert(Queue(fake_client, name), 1)
    fake_client.set(f"{base_key('newer')}format", 4)

    refused, listed = get(app, "/v1/queues/newer"), get(app, "/v1/queues").json()

    assert told(refused)[::2] == (501, ProblemType.FORMAT_TOO_NEW)
    assert "queue newer has format 4" in refused.json()["detail"]
    assert [counts["queue"] for counts in listed["queues"]] == ["known"]
    metrics = get(app, "/metrics").text
    assert 'queue="known"' in metrics
    assert 'queue="newer"' not in metrics


def test_a_store_that_does_not_answer_is_503() -> None:
    """As Redis."""
    response = get(failing_app(StoreUnavailableError("no such bucket")), "/")

    assert told(response)[::2] == (503, ProblemType.UNAVAILABLE)


@pytest.mark.parametrize("error", [ZeroDivisionError("secret 41"), ScriptError("secret 41")])
def test_a_defect_is_logged_with_its_traceback_and_not_shown(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """500 without a word of it."""
    with caplog.at_level(logging.ERROR):
        response = get(failing_app(error), "/")

    assert told(response)[::2] == (500, ProblemType.INTERNAL)
    assert "41" not in response.text
    assert "secret 41" in caplog.text
    assert "Traceback" in caplog.text


def test_other_errors_of_the_framework_are_problems(fake_client: redis.Redis) -> None:
    """With its title and description."""
    error = falcon.HTTPUnauthorized(description="no token", challenges=["Bearer"])

    response = get(failing_app(error), "/")

    assert (response.status_code, response.json()["detail"]) == (401, "no token")
    assert response.headers["www-authenticate"] == "Bearer"
    assert fake_client.ping()
