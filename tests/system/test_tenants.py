"""Two tenants of one API, each with a token for its own queue: attacks on the other tenant.

They share a real API process, a server and a store. The attacker knows everything of the victim
that can leak: prefix, ids, tokens of reservations, worker names and idempotency keys.
"""

from __future__ import annotations

import http.client
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.http.manifest import store_manifest
from opsqueue.model.names import base_key
from opsqueue.model.new_submission import NewSubmission
from opsqueue.queue.queue import Queue
from opsqueue.queue.rebuild import Skipped, rebuild
from opsqueue.queue.sweeper import Sweeper
from opsqueue.store import input_key, open_store
from tests.redis_sets import until
from tests.system.conftest import APPS, Process

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

# Each name begins with the other, or with what a careless pattern would take for it.
VICTIM, ATTACKER, AROUND = "tenant.a", "tenant", "tenant.a.b"
SECRETS = {name: f"{secrets.token_hex(16)}" for name in ("victim", "attacker", "admin")}
TOKENS = (
    f"victim:{SECRETS['victim']}:produce,consume@{VICTIM};"
    f"attacker:{SECRETS['attacker']}:produce,consume@{ATTACKER},{AROUND};"
    f"admin:{SECRETS['admin']}:admin@{ATTACKER}"
)
REFUSED = {400, 401, 403, 404, 405, 409, 410, 422}
KEY = "the victim's key"


@pytest.fixture(scope="module")
def api_url(redis_url: str, module_store_url: str) -> Iterator[str]:
    api = Process(
        [sys.executable, "-m", "opsqueue_api", "--port", "0", "--inline-bytes", "0"],
        cwd=APPS,
        environment={
            "OPSQUEUE_REDIS_URL": redis_url,
            "OPSQUEUE_STORE_URL": module_store_url,
            "OPSQUEUE_API_TOKENS": TOKENS,
        },
    )
    try:
        yield api.wait_for_line("ready on ").rpartition(" ")[2]
    finally:
        api.end()


def client_of(api_url: str, tenant: str, queue: str = "") -> httpx.Client:
    headers = {"authorization": f"Bearer {SECRETS[tenant]}"}
    base = f"{api_url}/v1/queues/{queue}" if queue else api_url
    return httpx.Client(base_url=base, headers=headers, timeout=30)


@dataclass
class Victim:
    """A submission of four chunks: one done, one with an error, one reserved, one ready."""

    http: httpx.Client
    redis: redis.Redis
    folder: Path
    id: str
    prefix: str
    done: dict[str, Any]
    held: dict[str, Any]

    def state(self) -> dict[str, Any]:
        """Return all of the victim's data in Redis and in the store."""
        keys = self.redis.scan_iter(match=base_key(VICTIM) + "*", count=1_000)
        in_redis = {
            key: self.redis.dump(key) for key in keys if b"sweeper:" not in key
        }  # a lock that sweepers take
        files = [path for path in (self.folder / VICTIM).rglob("*") if path.is_file()]
        return in_redis | {str(path): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def victim(api_url: str, redis_url: str, module_store_url: str) -> Iterator[Victim]:
    folder = Path(urlsplit(module_store_url).path)
    with (
        client_of(api_url, "victim", VICTIM) as http,
        redis.Redis.from_url(redis_url, protocol=2) as client,
    ):
        body = {"operations": [1, 2, 3, 4], "chunk_size": 1, "metadata": "c2VjcmV0"}
        headers = {"idempotency-key": KEY}
        status = http.post("/submissions", json=body, headers=headers).json()
        asked = {"worker": "w1", "max": 3, "strategy": "Oldest", "heartbeat_timeout_ms": 600_000}
        chunks = http.post("/chunks/reserve", json=asked).json()["chunks"]
        done = [
            {"token": chunks[0]["token"], "results": ["secret result"]},
            {"token": chunks[1]["token"], "results": ["another"]},
        ]
        assert http.post("/chunks/complete", json={"chunks": done}).is_success
        # The first reservation made a stream, and who finds a new one begins a repair.
        until(lambda: not client.exists(base_key(VICTIM) + "repair"), "the repair has ended")
        yield Victim(
            http=http,
            redis=client,
            folder=folder,
            id=status["id"],
            prefix=status["prefix"],
            done=chunks[0],
            held=chunks[2],
        )
        # Whatever was tried, the job ends as it should.
        free = http.post("/chunks/reserve", json={**asked, "max": 1}).json()["chunks"]
        left = [{"token": one["token"], "results": ["mine"]} for one in (chunks[2], *free)]
        outcomes = http.post("/chunks/complete", json={"chunks": left}).json()["outcomes"]
        assert ["completed", "completed"] == [one["outcome"] for one in outcomes]
        results = http.get(f"/submissions/{status['id']}/results").text.splitlines()
        assert ['"secret result"', '"another"', '"mine"', '"mine"'] == results
        # It may be needed once more: tests of a module need not run one after the other.
        client.delete(*client.scan_iter(match=base_key(VICTIM) + "*", count=10_000))


@pytest.fixture(params=[ATTACKER, AROUND])
def attacker(
    request: pytest.FixtureRequest, api_url: str, victim: Victim
) -> Iterator[httpx.Client]:
    """A client of its own queue; at the end the victim's data must be unchanged."""
    before = victim.state()
    with client_of(api_url, "attacker", request.param) as http:
        yield http
    assert before == victim.state()


def routes_of(victim: Victim) -> list[tuple[str, str]]:
    """Every route of a queue, with the victim's values."""
    document = victim.http.get(str(victim.http.base_url.join("/openapi.json"))).json()
    values = {
        "queue": VICTIM,
        "submission_id": victim.id,
        "index": str(victim.held["chunk_index"]),
        "worker": "w1",
    }
    return [
        (method.upper(), path.format_map(values))
        for path, methods in document["paths"].items()
        if "{queue}" in path
        for method in methods
        if method in ("get", "post", "put", "patch", "delete")
    ]


def test_no_route_of_anothers_queue_opens(api_url: str, victim: Victim) -> None:
    """Also to who administers its own queue; and none is told what the queue has."""
    before, routes = victim.state(), routes_of(victim)
    assert len(routes) > 20
    for tenant in ("attacker", "admin"):
        with client_of(api_url, tenant) as http:
            for method, path in routes:
                answer = http.request(method, path, json={})
                assert answer.status_code == 403, (method, path)
                assert "secret" not in answer.text
            for path in ("/v1/queues", "/v1/events", "/metrics"):
                assert http.get(path).status_code == 403, path
    assert before == victim.state()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/queues/{own}/../{victim}/submissions/{id}",
        "/v1/queues/{own}%2F..%2F{victim}/submissions/{id}",
        "/v1/queues/{own}/%2e%2e/{victim}/submissions/{id}",
        "/v1/queues/{own}%2F{victim}/submissions/{id}",
        "/v1/queues/{own}//{victim}/submissions/{id}",
        "//v1/queues/{victim}/submissions/{id}",
        "/v1/queues/{victim}/submissions/{id}/",
        "/v1/queues/{victim}%00/submissions/{id}",
        "/v1/queues/{victim}%20/submissions/{id}",
        "/v1/queues/%74enant.a/submissions/{id}",
        "/v1/queues/{own};{victim}/submissions/{id}",
        "/v1/queues/{own},{victim}/submissions/{id}",
        "/v1/queues/{own}%7D%3A{victim}/submissions/{id}",
        "/v1/queues/{own}%2F01/submissions/{id}",
        "/v1/queues/../queues/{victim}/submissions/{id}",
        "/v1/queues/{own}/submissions/..%2F..%2F{victim}%2Fsubmissions%2F{id}",
        "/v1/queues/{own}/submissions/{id}?queue={victim}",
        "/v1/queues/{own}/submissions/{id}/results?queue={victim}",
        "/dashboard/..%2F..%2F{victim}",
    ],
)
def test_no_spelling_of_a_path_leads_to_anothers_queue(
    api_url: str, victim: Victim, path: str
) -> None:
    """Paths are sent unchanged, since clients would normalize them."""
    url = urlsplit(api_url)
    target = path.format(own=ATTACKER, victim=VICTIM, id=victim.id)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
    connection.putrequest("GET", target, skip_host=False)
    connection.putheader("authorization", f"Bearer {SECRETS['attacker']}")
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()

    assert answer.status in REFUSED, text
    assert "secret" not in text


def test_anothers_submission_is_not_found_in_ones_own_queue(
    attacker: httpx.Client, victim: Victim
) -> None:
    """This holds for every request with its id."""
    one = f"/submissions/{victim.id}"
    for path in (
        *("", "?wait=1", "/results", "/results?follow=true", "/errors", "/errors/chunks"),
        *("/progress", "/progress?wait=1", "/events", "/chunks", "/chunks/0/input"),
        *("/inline-inputs", "/inline-outputs"),
    ):
        assert attacker.get(one + path).status_code == 404, path
    for path in ("/cancel", "/retry", "/retry?only=failed"):
        assert attacker.post(one + path).status_code == 404, path
    assert attacker.patch(one, json={"strategic_metadata": {"a": 1}}).status_code == 404
    assert attacker.get("/submission-ids", params={"prefix": victim.prefix}).json()["ids"] == []
    after = attacker.get("/submissions", params={"after": victim.id, "state": "any"}).json()
    assert victim.id not in {found["id"] for found in after["submissions"]}


def test_anothers_reservation_is_lost_in_ones_own_queue(
    attacker: httpx.Client, victim: Victim
) -> None:
    """Even with its token nothing is stored, counted, failed or released."""
    token = victim.held["token"]
    reports = {
        "/chunks/complete": {"chunks": [{"token": token}]},
        "/chunks/fail": {"chunks": [{"token": token, "type": "E", "message": "m"}]},
        "/chunks/release": {"tokens": [token]},
    }
    for path, body in reports.items():
        answer = attacker.post(path, json=body)
        if answer.is_success:
            assert {"lost"} == {one["outcome"] for one in answer.json()["outcomes"]}, path
        else:
            assert answer.status_code in REFUSED, path
    for contents in ({"results": ["forged"]}, {"output": "kQE="}):
        body = {"chunks": [{"token": token, **contents}]}
        answer = attacker.post("/chunks/complete", json=body)
        if answer.is_success:
            assert {"lost"} == {one["outcome"] for one in answer.json()["outcomes"]}
        else:
            assert answer.status_code in REFUSED
    for id_ in (victim.id, "1" * 19):
        path = f"/submissions/{id_}/chunks/{victim.held['chunk_index']}/output"
        headers = {"content-type": "application/octet-stream"}
        answer = attacker.put(path, params={"token": token}, content=b"\x91\x01", headers=headers)
        assert answer.status_code in REFUSED
    alive = attacker.post("/workers/w1/heartbeat", json={"tokens": [token]}).json()
    assert alive["void"] == [token]
    # A worker of the same name is another one.
    assert attacker.delete("/workers/w1").status_code == 204
    reserved = attacker.post("/chunks/reserve", json={"worker": "w1", "max": 10}).json()
    assert victim.id not in {chunk["submission_id"] for chunk in reserved["chunks"]}


@pytest.mark.parametrize(
    "form",
    [
        "{prefix}",
        "{victim}",
        "{victim}/",
        "{victim}/{random}",
        "{prefix}/0",
        "{own}/../{prefix}",
        "{own}/{digits}/../../{prefix}",
        "{own}",
        "./{prefix}",
        "/{prefix}",
        "{victim}//{digits}",
    ],
)
@pytest.mark.parametrize("chunks", [0, 1, "inline"])
def test_no_prefix_leads_to_anothers_objects(
    attacker: httpx.Client, victim: Victim, form: str, chunks: int | str
) -> None:
    """Stolen or guessed: an insert could read, write and delete what is there."""
    own = str(attacker.base_url).rstrip("/").rpartition("/")[2]
    prefix = form.format(
        prefix=victim.prefix,
        victim=VICTIM,
        own=own,
        digits=victim.prefix.rpartition("/")[2],
        random=secrets.token_hex(16),
    )
    body: dict[str, Any] = {"prefix": prefix, "chunk_size": 10, "retention_ms": 1}
    body |= {"chunks_total": 1, "inline": ["kQE="]} if chunks == "inline" else {}
    body |= {"chunks_total": chunks, "operations_total": chunks} if chunks != "inline" else {}

    answer = attacker.post("/submissions", json=body)

    assert answer.status_code == 422
    assert "prefix " in answer.json()["detail"]
    assert victim.id not in answer.text


def test_the_digits_of_anothers_prefix_are_another_prefix_in_ones_own_queue(
    attacker: httpx.Client, victim: Victim, real_client: redis.Redis, module_store_url: str
) -> None:
    """Its end deletes what is in that folder, and that is the attacker's own."""
    own = str(attacker.base_url).rstrip("/").rpartition("/")[2]
    prefix = f"{own}/{victim.prefix.rpartition('/')[2]}"
    store, queue = open_store(module_store_url), Queue(real_client, own)
    store.create(input_key(prefix, 0), b"x")
    body = {"prefix": prefix, "chunks_total": 0, "chunk_size": 1, "retention_ms": 0}
    assert attacker.post("/submissions", json=body).status_code in (201, 409)

    for part in queue.parts():
        Sweeper(lambda: [queue], client=real_client, sweeper="test", store=store).forget(part)

    assert not store.exists(input_key(prefix, 0))


def test_anothers_idempotency_key_is_a_key_of_ones_own(
    attacker: httpx.Client, victim: Victim
) -> None:
    """It neither answers the other's submission nor keeps one from its own."""
    body = {"operations": [], "chunk_size": 1}

    answer = attacker.post("/submissions", json=body, headers={"idempotency-key": KEY})

    assert answer.json()["id"] != victim.id


def test_events_and_counts_are_of_ones_own_queue(attacker: httpx.Client, victim: Victim) -> None:
    """This holds even with an event id of the other's stream."""
    own = str(attacker.base_url).rstrip("/").rpartition("/")[2]
    with attacker.stream("GET", "/events", headers={"last-event-id": "0-1"}) as answer:
        seen = ""
        for text in answer.iter_text():
            seen += text
            if "event: counts" in seen and seen.endswith("\n\n"):
                break

    assert f'"queue":"{own}"' in seen
    assert f'"queue":"{VICTIM}"' not in seen
    assert victim.id not in seen
    assert victim.id not in attacker.get("").text


def test_an_upload_of_one_queue_is_rebuilt_in_no_other(
    victim: Victim, real_client: redis.Redis, tmp_path: Path
) -> None:
    """Whatever its manifest says, where it lies decides; a mismatch is skipped by name."""
    store = open_store(f"file://{tmp_path}?durable=false")
    names = [f"{victim.id}.{name}" for name in ("a", "b")]
    here, there = (fresh_prefix(name) for name in names)
    # In the folder of the first: a manifest that names the second, and one of another's prefix.
    for folder, queue, prefix in ((here, names[1], here), (there, names[1], here)):
        store.create(input_key(folder, 0), b"\x91\x01")
        lying = tmp_path / folder / "manifest"
        other = open_store(f"file://{tmp_path / 'lies' / queue / folder}?durable=false")
        store_manifest(other, queue, NewSubmission(prefix=prefix, chunks_total=1))
        made = tmp_path / "lies" / queue / folder / prefix / "manifest"
        lying.write_bytes(made.read_bytes())

    outcomes = [list(rebuild(store, Queue(real_client, name))) for name in names]

    for (outcome,), folder in zip(outcomes, (here, there), strict=True):
        assert isinstance(outcome, Skipped)
        assert (outcome.prefix, "it was moved" in outcome.reason) == (folder, True)
