"""`opsqueue defaults`, `opsqueue retention` and `opsqueue orphans`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result

from opsqueue.cli.commands import main
from opsqueue.cli.defaults import show_retention
from opsqueue.model.names import base_key
from opsqueue.queue.queue import Queue
from opsqueue.store import open_store
from tests.opsqueue.cli.conftest import Run
from tests.opsqueue.steps import insert, new_submission


@pytest.fixture
def run(redis_url: str, store_url: str) -> Run:
    def call(*arguments: str, given: str = "", **variables: str | None) -> Result:
        environment = {"OPSQUEUE_REDIS_URL": redis_url, "OPSQUEUE_STORE_URL": store_url}
        return CliRunner().invoke(main, arguments, input=given, env={**environment, **variables})

    return call


@pytest.fixture
def orphan(store_url: str, queue_name: str, tmp_path: Path) -> str:
    """An upload of two days ago with one object."""
    two_days_ago = time.time() - 2 * 24 * 3600
    key = f"{queue_name}/{int(two_days_ago * 1000):012x}{'0' * 20}/0-in"
    open_store(store_url).create(key, b"x" * 2_048)
    os.utime(tmp_path / "store" / key, (two_days_ago, two_days_ago))
    return key.removesuffix("/0-in")


def test_a_queues_retention_is_set_shown_and_removed(run: Run, queue_name: str) -> None:
    """In units that people use."""
    shown = []
    for command in (("set", queue_name, "7d"), ("remove", queue_name)):
        shown.append(run("retention", "show", queue_name).output)
        assert run("retention", *command).exit_code == 0
        shown.append(run("retention", "show", queue_name).output)

    assert shown == ["1d (default)\n", "7d\n", "7d\n", "1d (default)\n"]


def test_defaults_of_a_queue_are_set_shown_and_removed(run: Run, queue_name: str) -> None:
    """Those that are not named stay; `retention` is one of them."""
    set_ = run(*("defaults", "set", queue_name, "--max-attempts", "3", "--backoff", "2m"))
    run("retention", "set", queue_name, "7d")
    all_set = run("defaults", "show", queue_name).output
    run("defaults", "remove", queue_name, "--backoff", "--retention")
    some_removed = json.loads(run("defaults", "show", queue_name, "--json").output)
    run("defaults", "remove", queue_name)

    assert f"queue {queue_name}: max-attempts 3, backoff 2m for submissions" in set_.stderr
    assert all_set.split("\n") == [
        "max-attempts  3",
        "backoff       2m",
        "max-backoff   2m (built in)",
        "retention     7d",
        "",
    ]
    assert some_removed == {
        "queue": queue_name,
        "defaults": {
            "max_attempts": 3,
            "backoff_first_ms": None,
            "backoff_max_ms": None,
            "retention_ms": None,
        },
    }
    assert run("defaults", "show", queue_name).output.split("\n") == [
        "max-attempts  10 (built in)",
        "backoff       1s (built in)",
        "max-backoff   1m (built in)",
        "retention     1d (built in)",
        "",
    ]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), "nothing to set: give some of --max-attempts"),
        (("--backoff", "2m", "--max-backoff", "1m"), "max_ms is at least first_ms"),
        (("--max-backoff", "1s"), "which is shorter: set both"),
        (("--max-attempts", "0"), "--max-attempts"),
        (("--retention", "7"), "like 24h or 7d"),
        (("--retention", "4000d"), "ten years"),
    ],
)
def test_defaults_that_can_not_be_meant_are_refused(
    run: Run, queue_name: str, options: tuple[str, ...], why: str
) -> None:
    run("defaults", "set", queue_name, "--backoff", "1m")

    result = run("defaults", "set", queue_name, *options)

    assert result.exit_code == 2
    assert why in result.stderr


def test_what_is_set_of_a_queue_is_said_and_a_name_that_nobody_uses_noted(
    run: Run, real_client: redis.Redis, queue_name: str
) -> None:
    """A setting before the first submission is allowed, but the name may be a typo."""
    Queue(real_client, queue_name).insert_submission(new_submission(queue_name))
    typo = queue_name + "_"

    known, unknown = run("retention", "set", queue_name, "7d"), run("retention", "set", typo, "7d")
    limit = run("limits", "set", typo, "api", "--per-second", "3", "--burst", "2")
    gone, never = (run("limits", "remove", typo, "api") for _ in range(2))

    assert (
        known.stderr
        == f"queue {queue_name} keeps submissions that are inserted from now on for 7d\n"
    )
    assert f"there is no queue {typo} yet: did you mean" in unknown.stderr
    assert queue_name in unknown.stderr.splitlines()[0]
    assert f"queue {typo}: api  3 a second, burst 2" in limit.stderr
    assert gone.stderr == f"queue {typo}: api  the limit is removed\n"
    assert never.stderr == f"queue {typo}: api  had no limit set\n"


def test_who_gives_no_redis_and_finds_none_there_is_told_how_to_give_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (option,) = (option for option in show_retention.params if option.name == "redis_url")
    monkeypatch.setattr(option, "default", "redis://127.0.0.1:1/0")

    asked = run("retention", "show", "q", OPSQUEUE_REDIS_URL=None)
    named = run("retention", "show", "q", OPSQUEUE_REDIS_URL="redis://127.0.0.1:1/0")

    assert (3, 3) == (asked.exit_code, named.exit_code)
    assert "give --redis-url or set OPSQUEUE_REDIS_URL" in asked.stderr
    assert "--redis-url" not in named.stderr


def test_half_a_rate_limit_is_refused_by_its_options(run: Run, queue_name: str) -> None:
    result = run("limits", "set", queue_name, "api", "--per-second", "3")

    assert result.exit_code == 2
    assert "--per-second and --burst need each other" in result.stderr


def test_partitions_of_a_queue_that_nobody_uses_are_set_only_if_they_are_meant(
    run: Run, queue_name: str
) -> None:
    """The number of partitions can't be reduced later."""
    refused = run("partitions", "set", queue_name, "4")
    before = run("partitions", "show", queue_name)
    meant = run("partitions", "set", queue_name, "4", "--new")

    assert (refused.exit_code, before.output) == (2, "1\n")
    assert f"there is no queue '{queue_name}'" in refused.stderr
    assert "--new" in refused.stderr
    assert (meant.exit_code, meant.stderr) == (0, f"queue {queue_name} has 4 partitions\n")
    assert run("partitions", "show", queue_name).output == "4\n"
    by = run("partitions", "set", queue_name, "4", "--new", "--by", '"customer no"')
    assert by.exit_code == 0
    assert run("partitions", "show", queue_name).output == '4\nby "customer no"\n'


def test_a_wrong_duration_is_refused(run: Run, queue_name: str) -> None:
    """The message shows a valid one."""
    result = run("retention", "set", queue_name, "7")

    assert result.exit_code == 2
    assert "like 24h or 7d" in result.output


def test_orphans_are_listed_and_left_alone(run: Run, orphan: str, queue_name: str) -> None:
    """Exit code 1 says that there are some."""
    result = run("orphans", "--queue", queue_name)

    assert result.exit_code == 1
    assert orphan in result.output
    assert f"1 upload of queue {queue_name} was never submitted: 1 object, 2.0 KiB" in result.output


def test_orphans_are_deleted_when_the_answer_is_yes(
    run: Run, orphan: str, queue_name: str, store_url: str
) -> None:
    """Any other answer deletes nothing."""
    refused = run("orphans", "--queue", queue_name, "--delete", given="n\n")
    kept = open_store(store_url).exists(f"{orphan}/0-in")
    agreed = run("orphans", "--queue", queue_name, "--delete", given="y\n")

    assert (refused.exit_code, kept) == (1, True)
    assert agreed.exit_code == 0
    assert not open_store(store_url).exists(f"{orphan}/0-in")


def test_orphans_of_queues_that_redis_knows_are_found_without_naming_them(
    run: Run, orphan: str, queue_name: str, real_client: redis.Redis, store_url: str
) -> None:
    """Other folders are reported and not touched, since they may belong to another server."""
    open_store(store_url).create(f"elsewhere/{'0' * 32}/0-in", b"x")
    insert(Queue(real_client, queue_name), 1)

    result = run("orphans", "--delete", "--yes")

    assert result.exit_code == 0
    assert "elsewhere" in result.output
    assert result.output.endswith("no orphans in the queues that Redis knows\n")
    assert list(open_store(store_url).list_prefix("")) == [f"elsewhere/{'0' * 32}/0-in"]


def test_uploads_younger_than_the_age_are_no_orphans(
    run: Run, orphan: str, queue_name: str
) -> None:
    """An option sets the age."""
    result = run("orphans", "--queue", queue_name, "--older-than", "3d")

    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "no orphans")


def test_an_upgrade_says_which_format_queue_and_store_have(
    run: Run, store_url: str, queue_name: str, real_client: redis.Redis
) -> None:
    """A second upgrade changes nothing."""
    insert(Queue(real_client, queue_name), 1)

    first, upgraded = run("upgrade", queue_name), run("upgrade", queue_name)

    assert (0, 0) == (first.exit_code, upgraded.exit_code)
    assert f"queue {queue_name} has format 3 now; it had 1" in first.output
    assert f"queue {queue_name} has format 3, the newest that this version knows" in upgraded.output
    assert f"store {open_store(store_url).url} has format 1" in upgraded.output


def test_commands_refuse_a_queue_whose_format_is_too_new(
    run: Run, queue_name: str, real_client: redis.Redis
) -> None:
    """The message says what helps; lists leave the queue out."""
    insert(Queue(real_client, queue_name), 1)
    real_client.set(f"{base_key(queue_name)}format", 4)

    listed, refused = run("queues"), run("upgrade", queue_name)

    assert (0, 1) == (listed.exit_code, refused.exit_code)
    assert queue_name not in listed.output
    assert f"Error: queue {queue_name} has format 4, and opsqueue" in refused.output
