"""Parsing of Redis URLs, and messages that never show a password."""

from __future__ import annotations

import pytest

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.queue.connection import connect, masked
from opsqueue.queue.redis_url import BehindSentinels, Cluster, Server, place_of


@pytest.mark.parametrize("url", ["redis://host:6379/0", "rediss://host", "unix:///run/redis.sock"])
def test_a_plain_url_is_redis_pys_to_read(url: str) -> None:
    assert Server(url) == place_of(url)


def test_sentinels_name_a_master_with_its_database_and_credentials() -> None:
    place = place_of(
        "redis+sentinel://user:se%40cret@one:1,two,[::1]:3/main/2?sentinel_password=other"
    )

    assert isinstance(place, BehindSentinels)
    assert (("one", 1), ("two", 26379), ("::1", 3)) == place.addresses
    assert place.service == "main"
    assert {"username": "user", "password": "se@cret", "db": 2} == place.options
    assert {"password": "other"} == place.sentinel_options


def test_tls_is_for_the_sentinels_too() -> None:
    place = place_of("rediss+sentinel://one/main?ssl_ca_certs=/etc/ca.pem")

    assert isinstance(place, BehindSentinels)
    assert {"ssl": True, "ssl_ca_certs": "/etc/ca.pem"} == place.options
    assert place.options == place.sentinel_options


def test_a_cluster_is_found_by_any_of_its_nodes() -> None:
    place = place_of("rediss+cluster://:secret@one:7000,two/0?health_check_interval=3")

    assert isinstance(place, Cluster)
    assert (("one", 7000), ("two", 6379)) == place.addresses
    assert {"password": "secret", "ssl": True, "health_check_interval": 3} == place.options


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+sentinel://:secret@host", "the name of the master is missing"),
        ("redis+sentinel://:secret@host/main/x", "the number of a database"),
        ("redis+sentinel://:secret@one,/main", "hosts or ports"),
        ("redis+sentinel://:secret/x@one/main", "the number of a database"),
        ("redis+cluster://:secret@one:x,two", "hosts or ports"),
        ("redis+cluster://:secret@one/1", "the database 0 only"),
        ("redis+cluster://:secret@[one", "can't be read: give"),
        ("redis+else://:secret@one", "can't be read: give"),
    ],
)
def test_a_wrong_url_says_why_and_nothing_of_its_password(url: str, why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=why) as caught:
        connect(url)

    assert "secret" not in str(caught.value)


def test_passwords_of_sentinels_and_keys_are_masked() -> None:
    url = "redis+sentinel://u:secret@one,two/main?sentinel_password=secret&ssl_password=secret&db=1"

    assert (
        "redis+sentinel://u:***@one,two/main?sentinel_password=***&ssl_password=***&db=1"
        == masked(url)
    )
