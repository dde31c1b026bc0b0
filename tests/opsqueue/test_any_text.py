"""Any text from people and programs is parsed, or refused by one of opsqueue's errors."""

from __future__ import annotations

import logging
from collections.abc import Callable

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opsqueue.exceptions import OpsqueueError, OpsqueueInternalError
from opsqueue.http.client import HttpClient
from opsqueue.model.checks import printable
from opsqueue.model.durations import parse_duration
from opsqueue.model.names import check_queue_name
from opsqueue.model.submission import SubmissionId
from opsqueue.queue.connection import connect, masked
from opsqueue.store import open_store
from opsqueue.strategy import parse_strategy
from opsqueue.tracing.logs import LogFormat, formatter
from opsqueue_api.http.tokens import parse_tokens

PIECES = {
    "url": [
        *("redis://", "rediss://", "unix://", "redis+sentinel://", "redis+cluster://", "file:///"),
        *(
            "memory://",
            "s3://",
            "gs://",
            "http://",
            ":",
            "/",
            "//",
            "..",
            "%2e%2e",
            "%00",
            "%",
            "%zz",
        ),
        *("\0", "\n", "[", "]", "[::1]", "@", "user", ",", "?", "&", "=", "#", "db=1", "db=x", "0"),
        *(
            "6379",
            "99999999",
            "-1",
            "é",
            "\ud800",
            " ",
            "localhost",
            "bucket",
            "durable=",
            "region=",
        ),
        *("durable=x", "endpoint_url=http://[", "endpoint_url=", "ssl_cert_reqs=x", "protocol=3"),
        *("ssl_ca_certs=/none", "health_check_interval=x", "password=", "x" * 300, "+", "*", "~"),
    ],
    "strategy": [
        *("Oldest", "Newest", "Random", "PreferDistinct", "SelectOnly", "RateLimit", "OrElse", "("),
        *(
            "MaxSimultaneous",
            "Highest",
            ")",
            ",",
            ", ",
            " ",
            "a",
            "customer",
            "1",
            "-1",
            "1e5",
            "nan",
        ),
        *("inf", "9" * 5_000, "é", "\ud800", "=", "operations", "0.5"),
    ],
    "duration": [
        "1",
        "9" * 9,
        "9" * 20,
        ".5",
        "s",
        "m",
        "h",
        "d",
        "w",
        "ms",
        " ",
        "-",
        "inf",
        "\ud800",
    ],
    "token": [
        "a",
        ":",
        "x" * 32,
        "admin",
        "produce",
        "consume",
        "@",
        "*",
        ",",
        "\n",
        "é",
        "\ud800",
        "",
    ],
}


def of(kind: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(PIECES[kind]), max_size=9).map("".join) | st.text(max_size=9)


READERS: dict[str, tuple[Callable[[str], object], str]] = {
    "open_store": (open_store, "url"),
    "connect": (lambda url: connect(url).close(), "url"),
    "masked": (masked, "url"),
    "api url": (lambda url: HttpClient(url, transport=httpx.BaseTransport()).close(), "url"),
    "parse_strategy": (parse_strategy, "strategy"),
    "parse_duration": (parse_duration, "duration"),
    "parse_tokens": (parse_tokens, "token"),
    "check_queue_name": (check_queue_name, "url"),
    "submission id": (SubmissionId, "duration"),
}


@pytest.mark.parametrize("name", READERS)
def test_any_text_is_read_or_refused(name: str) -> None:
    """With a message; never by what a library makes of it."""
    reader, kind = READERS[name]

    @settings(
        max_examples=80,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(of(kind))
    def read(text: str) -> None:
        try:
            reader(text)
        except OpsqueueError as exc:
            assert not isinstance(exc, OpsqueueInternalError)  # noqa: PT017 both are right
            assert str(exc)  # noqa: PT017 as above

    read()


@pytest.mark.parametrize("form", ["plain", "json"])
def test_no_text_in_a_log_line_acts_on_a_terminal(form: LogFormat) -> None:
    """Message, fields and traceback; of other letters nothing is changed."""
    hostile = "\x1b[2J \x9b \u202e \u2069 \r \x00 \ud800"
    record = logging.LogRecord("opsqueue", logging.INFO, "", 0, f"größe {hostile}", None, None)
    record.worker = hostile
    record.exc_info = (ValueError, ValueError(hostile), None)

    line = formatter(form).format(record)

    assert set("\x1b\x9b\u202e\u2069\r\x00\ud800").isdisjoint(line)
    assert "größe" in line


def test_a_cell_of_a_table_stays_in_its_line() -> None:
    """A worker's name with a line feed would make a row of its own."""
    assert r"w1\n\x1b[31mw2\u202e" == printable("w1\n\x1b[31mw2\u202e", is_line=True)
    assert "naïve 漢字 🙂\n" == printable("naïve 漢字 🙂\n")
