"""Store URLs: those that open a store, and the errors of others."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest

from opsqueue.exceptions import NewObjectStoreClientError
from opsqueue.store import open_store, with_options

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://bucket/x", "'ftp' is not one of file://, memory://, s3://, gs://"),
        ("bucket/x", "'' is not one of"),
        ("", "'' is not one of"),
        ("s3://", "s3://bucket/prefix"),
        ("gs:///prefix", "gs://bucket/prefix"),
        ("s3://[bucket/x", "can't be read"),
        ("s3://bucket:80/x", "can't be a bucket's name"),
        ("file://dir", "file:///abs/dir"),
        ("file:dir", "file:///abs/dir"),
        ("file:///dir?durable=maybe", "durable is true or false"),
        ("file:///dir%00", "control character"),
        ("s3://bucket/x#y", "fragment"),
        ("s3://bucket/x?colour=red", "'colour' is not an option of s3:// (known: endpoint_url, "),
        ("memory://x?region=a", "'region' is not an option of memory:// (known: none)"),
        ("s3://bucket/x?region=", "'region' is empty"),
        ("s3://bucket/x?endpoint_url=host:80", "must be http://host:port"),
        ("s3://bucket/x?endpoint_url=http://[", "can't be read"),
        ("s3://bucket/x?region=no+region", "no region"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, says: str) -> None:
    """Each message names what is wrong or what would be right."""
    with pytest.raises(NewObjectStoreClientError) as caught:
        open_store(url)

    assert says in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:s3cret@bucket/x",
        "gs://s3cret@bucket/x",
        "redis://:s3cret@host",
        "s3://bucket/x?endpoint_url=http://u:s3cret@host",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    """Messages go to logs: a password must not."""
    with pytest.raises(NewObjectStoreClientError, match="credentials") as caught:
        open_store(url)

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "sdk", "extra"),
    [("s3://bucket/x", "boto3", "s3"), ("gs://bucket/x", "google.cloud.storage", "gcs")],
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, url: str, sdk: str, extra: str
) -> None:
    """Without the SDK the message says what to install."""
    monkeypatch.setitem(sys.modules, sdk, None)
    monkeypatch.delitem(sys.modules, f"opsqueue.store.{extra}", raising=False)
    monkeypatch.delattr("google.cloud.storage", raising=False)

    with pytest.raises(NewObjectStoreClientError) as caught:
        open_store(url)

    assert f'no object store for "{url}": install opsqueue-redis[{extra}]' == str(caught.value)


def test_memory_stores_of_one_name_share_their_contents() -> None:
    """As two clients of one bucket do; another name is another store."""
    open_store("memory://shared").create("a", b"x")

    found = [open_store(url).exists("a") for url in ("memory://shared", "memory://", "memory://b")]

    assert found == [True, False, False]


def test_a_folder_with_spaces_is_written_percent_encoded(tmp_path: Path) -> None:
    """As in any URL."""
    open_store(f"file://{tmp_path}/a%20b?durable=false").create("k", b"x")

    assert (tmp_path / "a b" / "k").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a/b/?region=eu-west-1", "s3://bucket/a/b"),
        ("s3://bucket", "s3://bucket"),
        ("gs://bucket/p?endpoint_url=http://127.0.0.1:1", "gs://bucket/p"),
        ("memory://", "memory://"),
        ("memory://a/b", "memory://a/b"),
        ("file:///a/b/", "file:///a/b"),
    ],
)
def test_a_store_shows_its_url_without_options(url: str, shown: str) -> None:
    """What stands in messages is short and secret-free."""
    store = open_store(url)

    assert shown == store.url


def test_the_standard_variables_name_the_endpoints(
    monkeypatch: pytest.MonkeyPatch, s3_endpoint: str, gcs_endpoint: str
) -> None:
    """Each SDK's own variable works without an option in the URL."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_endpoint)

    for scheme in ("s3", "gs"):
        store = open_store(f"{scheme}://opsqueue-tests/by-variable")
        store.check()
        store.close()


def test_options_given_as_pairs_stand_in_the_url() -> None:
    """As the reference's clients take them; the store's URL is checked as a whole."""
    assert with_options("gs://b/p", []) == "gs://b/p"
    assert (
        with_options("file:///d?durable=false", [("a", "b c")]) == "file:///d?durable=false&a=b+c"
    )
    with pytest.raises(NewObjectStoreClientError, match="'service_account_key' is not an option"):
        open_store(with_options("gs://bucket/p", [("service_account_key", "secret")]))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("file:///tmp/x?durable=true&durable=false", "its option 'durable' is given twice"),
        ("s3://bucket/p?region=a&region=a", "its option 'region' is given twice"),
        ("file:///tmp/x;durable=false", "not after ';'"),
        ("s3://bucket/p?region=a;endpoint_url=http://h", "not after ';'"),
    ],
)
def test_an_option_that_would_not_hold_is_refused(url: str, says: str) -> None:
    """One of two, or what would be part of a folder's name."""
    with pytest.raises(NewObjectStoreClientError, match=re.escape(says)):
        open_store(url)


def test_other_semicolons_are_part_of_a_path(tmp_path: Path) -> None:
    """A folder may have one."""
    assert open_store(f"file://{tmp_path}/a;b").url == f"file://{tmp_path}/a;b"
