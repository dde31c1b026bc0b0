"""With any arguments, commands end with an exit code and a readable message, not a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from opsqueue.cli.commands import main

TEXTS = [
    *("", "-1", "0", "1", "9" * 19, "9" * 30, "1e400", "nan", "inf", "x", "é", "a\nb", "a b", ".."),
    *(
        "../x",
        "{q}",
        "a:1",
        "a:b",
        ":1",
        "a:99999999999999999999",
        "a=1",
        "[1",
        "{}",
        "/dev/null/x",
    ),
    *("-", "--", "0.5", "1h", "10w" * 3, "x" * 5_000, "completed", "json", "numbers", "2026-01-01"),
    *("0001-01-01T00:00:00+23:59", "redis://[", "redis://a..b", "s3://", "http://a..b", "\udcff"),
]
# Such as can be read would be waited for.
NO_URLS = ["http://a..b", "redis://[", "ftp://x", "[1", "http://", "redis://h?protocol=3", "s3://"]
INPUTS = [b"", b"1\n2\n", b"[", b"\xff\n", b"9" * 5_000 + b"\n", b"[" * 100_000, b'"\\ud800"\n']
# These serve until they are told to end, or wait for what does not answer; test_doctor.py has that.
ENDLESS = {"dev", "demo", "top", "completion", "doctor"}
WAITING = {"help", "follow", "wait", "watch"}


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        elif command is not None and name not in ENDLESS:
            yield (*path, name), command


COMMANDS = dict(commands(main))


@st.composite
def arguments_of(draw: st.DrawFn, command: click.Command) -> list[str]:
    given = []
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            given.append(draw(st.sampled_from(["numbers", *TEXTS])))
        elif parameter.name not in WAITING and draw(st.integers(0, 3)) == 0:
            given.append(parameter.opts[0])
            if not getattr(parameter, "is_flag", False):
                is_url = (parameter.name or "").endswith("url")
                given.append(draw(st.sampled_from(NO_URLS if is_url else TEXTS)))
    return given


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_ends_with_a_word_whatever_it_is_given(
    redis_url: str, store_url: str, path: tuple[str, ...]
) -> None:
    """The exit code is 0, 1 or 2, as scripts expect."""
    runner = CliRunner(env={"OPSQUEUE_REDIS_URL": redis_url, "OPSQUEUE_STORE_URL": store_url})

    @settings(
        max_examples=12,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(arguments_of(COMMANDS[path]), st.sampled_from(INPUTS))
    def run(arguments: list[str], given: bytes) -> None:
        result: Any = runner.invoke(main, [*path, *arguments], input=given)
        note(result.output[-500:])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert 0 <= result.exit_code < 20
        assert result.exit_code == 0 or result.output

    run()
