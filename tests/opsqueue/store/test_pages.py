"""S3 lists and deletes 1,000 keys at a time: what lies beyond the first page is found too."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from moto.s3.models import s3_backends

from opsqueue.store import open_store
from opsqueue.store.parallel import create_many, get_many

BUCKET = "opsqueue-tests"
TOTAL = 1_001


def test_s3_lists_and_deletes_beyond_a_page(s3_endpoint: str) -> None:
    """More keys than one answer or one deletion holds."""
    backend = s3_backends["123456789012"]["aws"]
    for index in range(TOTAL):  # into moto directly: by HTTP it takes ten seconds
        backend.put_object(BUCKET, f"pages/41/{index}-in", b"")
    store = open_store(f"s3://{BUCKET}/pages?endpoint_url={s3_endpoint}")

    listed = len(set(store.list_prefix("41")))
    deleted = store.delete_prefix("41")

    assert (listed, deleted) == (TOTAL, TOTAL)
    assert list(store.list_prefix("")) == []
    store.close()


def test_s3_lists_folders_and_deletes_keys_beyond_a_page(s3_endpoint: str) -> None:
    """More than one answer or one request holds."""
    backend = s3_backends["123456789012"]["aws"]
    for index in range(TOTAL):
        backend.put_object(BUCKET, f"folders/q/{index}/0-in", b"")
    store = open_store(f"s3://{BUCKET}/folders?endpoint_url={s3_endpoint}")

    folders = set(store.list_folders("q"))
    store.delete_objects(f"q/{index}/0-in" for index in range(TOTAL))

    assert {f"q/{index}" for index in range(TOTAL)} == folders
    assert list(store.list_prefix("")) == []
    store.close()


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_many_readers_open_no_more_connections_than_the_pool_has(
    kind: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """Else each further one is opened, thrown away, and warned of."""
    fixture = {"s3": "s3_endpoint", "gs": "gcs_endpoint"}[kind]
    url = f"{kind}://{BUCKET}/{uuid.uuid4().hex}"
    store = open_store(f"{url}?endpoint_url={request.getfixturevalue(fixture)}")
    keys = [f"q/{number}-in" for number in range(32)]
    create_many(store, ((key, b"x" * 1_000) for key in keys))

    with ThreadPoolExecutor(8) as readers:
        reads = [readers.submit(lambda: list(get_many(store, keys))) for _ in range(8)]
        contents = [read.result() for read in reads]
    store.close()

    assert contents == [[b"x" * 1_000] * len(keys)] * 8
    assert "pool is full" not in caplog.text
