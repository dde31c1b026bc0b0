"""Lines of a stream whose reader is slow, stuck or gone."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from opsqueue_worker.output import Relay

Ends = tuple[int, int]
LINE = b"x" * 99 + b"\n"


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A pipe: the end to read from, and the end to write to."""
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:
            continue


def lines_until(reader: int, last: bytes) -> list[bytes]:
    """Read until a line ends with `last`."""
    data = b""
    while not data.endswith(last + b"\n"):
        data += os.read(reader, 1 << 16)
    return data.splitlines()


def test_what_is_read_arrives_whole_and_in_order(ends: Ends) -> None:
    relay = Relay(ends[1], "test")

    for number in range(50_000):
        relay.put(b"%d\n" % number)
    lines = lines_until(ends[0], b"49999")

    assert lines == [b"%d" % number for number in range(50_000)]


def test_a_reader_that_stops_costs_lines_that_are_counted(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits; each line is either written whole or counted, and a line tells the number."""
    dropped = 0
    has_resumed = threading.Event()

    def count(lines: int) -> None:
        nonlocal dropped
        dropped += lines

    relay = Relay(ends[1], "test", kept_bytes=200_000, on_drop=count)

    for _ in range(10_000):  # 1 MB: more than the pipe and the relay hold
        relay.put(LINE)
    relay.put(b"the beginning of a line that is dropped")
    before = dropped
    read = b""
    while before + read.count(LINE) < 10_000:
        read += os.read(ends[0], 1 << 16)
    while "dropped" not in caplog.text:
        has_resumed.wait(0.01)
    relay.put(b" and its end\nfresh\n")

    assert 5_000 < dropped < 10_000
    assert read == LINE * (10_000 - dropped)
    assert lines_until(ends[0], b"fresh") == [b"fresh"]
    assert f"dropped {dropped:,} lines of test" in caplog.text


def test_a_reader_that_is_gone_costs_lines_and_is_named_once(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    dropped: list[int] = []
    relay = Relay(ends[1], "test", on_drop=dropped.append)
    os.close(ends[0])

    for _ in range(3):
        relay.put(LINE * 5)
        relay.flush(10)

    assert dropped == [5, 5, 5]
    assert [record.getMessage() for record in caplog.records] == [
        "can't write to test, its lines are dropped: Broken pipe"
    ]


def test_a_pipe_that_does_not_block_loses_nothing(ends: Ends) -> None:
    """As some supervisors leave them."""
    os.set_blocking(ends[1], False)
    relay = Relay(ends[1], "test")

    for _ in range(5_000):
        relay.put(LINE)
    relay.put(b"end\n")

    assert lines_until(ends[0], b"end") == [LINE[:-1]] * 5_000 + [b"end"]
