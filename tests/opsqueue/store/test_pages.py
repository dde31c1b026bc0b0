"""S3 lists and deletes 1,000 keys at a time: what lies beyond the first page is found too."""

from __future__ import annotations

from moto.s3.models import s3_backends

from opsqueue.store import open_store

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
