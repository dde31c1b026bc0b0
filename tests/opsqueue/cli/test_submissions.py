"""`opsqueue list`, `show`, `cancel`, `retry`, `results`, `errors`."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import Result

from opsqueue.contents.codec import open_codec
from opsqueue.contents.output import encode_output
from opsqueue.exceptions import IncorrectUsageError
from opsqueue.http import client as http_client
from opsqueue.model.chunk import ChunkFailure, OperationError
from opsqueue.model.names import meta_key_text
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.producer import ProducerClient, http_api
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore, output_key
from opsqueue.strategy import Oldest
from tests.opsqueue.cli.conftest import Run, Work

Document = Callable[[Result], Any]


@pytest.fixture
def producer(real_client: redis.Redis, store: ObjectStore, queue: Queue) -> ProducerClient:
    return ProducerClient.over(RedisBackend(real_client), store, queue=queue.name)


def with_errors(queue: Queue, store: ObjectStore) -> None:
    """Complete one chunk whose second operation failed."""
    chunk = queue.reserve_chunks("w1", strategy=Oldest()).chunks[0]
    codec = open_codec(chunk.source.codec)
    error = OperationError(type="ValueError", message="no mail", traceback="line 1")
    output = encode_output(["a", error, "c"], codec, collects=True)
    store.create(output_key(chunk.source.prefix, chunk.chunk_index), output.data)
    queue.complete_chunks([chunk.token], operations_failed={chunk.token: 1})


def test_a_list_narrows_down(
    run: Run, document: Document, queue: Queue, producer: ProducerClient, work: Work
) -> None:
    """By state, metadata and age; the newest first."""
    done = producer.insert_submission([1], chunk_size=1, strategic_metadata={"customer": 7})
    work()
    first = producer.insert_submission([1, 2], chunk_size=1, strategic_metadata={"customer": 7})
    second = producer.insert_submission([1], chunk_size=1)

    def listed(*options: str) -> list[str]:
        found = document(run("list", queue.name, "--json", *options))
        return [one["id"] for one in found["submissions"]]

    assert [str(second), str(first), str(done)] == listed()
    assert [str(done)] == listed("--state", "completed")
    assert [str(first), str(done)] == listed("--meta", "customer=7")
    assert [str(done), str(first)] == listed("--order", "oldest", "--limit", "2")
    assert [] == listed("--until", "2h")
    assert 3 == len(listed("--since", "2h"))


def test_a_list_for_people_says_that_there_is_more(
    run: Run, queue: Queue, producer: ProducerClient
) -> None:
    """Ids are complete, even in a pipe."""
    ids = [producer.insert_submission(range(7), chunk_size=2) for _ in range(3)]

    result = run("list", queue.name, "--limit", "2")

    lines = result.stdout.splitlines()
    assert 3 == len(lines)
    assert str(ids[2]) in lines[1]
    assert "in progress" in lines[1]
    assert "0 of 4" in lines[1]
    assert "there are more than these 2" in result.stderr


def test_an_unknown_queue_is_not_an_empty_one(
    run: Run, queue: Queue, producer: ProducerClient
) -> None:
    """The exit code is 2, and the message lists similar names."""
    producer.insert_submission([1], chunk_size=1)
    typo = queue.name[:-1] + "_"

    for command in (["list", typo], ["pause", typo], ["workers", typo], ["show", "7", "-q", typo]):
        result = run(*command)

        assert 2 == result.exit_code
        assert f"there is no queue '{typo}': did you mean" in result.stderr
        assert queue.name in result.stderr


def test_a_submission_is_found_without_its_queue(
    run: Run, document: Document, producer: ProducerClient, work: Work
) -> None:
    """Ids are looked for in all queues."""
    without = {"OPSQUEUE_QUEUE": None}
    submission_id = producer.insert_submission(range(4), chunk_size=1)
    work(limit=1)

    found = document(run("show", str(submission_id), "--json", **without))
    shown = run("show", str(submission_id), **without).stdout

    assert (producer.queue, "in_progress", 1) == tuple(
        found[key] for key in ("queue", "state", "chunks_done")
    )
    assert "1 of 4 done; 1 operation each" in shown
    assert "remaining" in shown


def test_an_unknown_id_is_a_mistake(run: Run) -> None:
    result = run("show", "1234", OPSQUEUE_QUEUE=None)

    assert 2 == result.exit_code
    assert "no queue has a submission 0000000000000001234" in result.stderr


def test_cancel_and_retry_answer_by_exit_code(
    run: Run, queue: Queue, producer: ProducerClient, document: Document
) -> None:
    """0 done, 1 its state forbids it."""
    submission_id = producer.insert_submission([1], chunk_size=1)
    command = (str(submission_id), "-q", queue.name)

    retried_early = run("retry", *command)
    cancelled = document(run("cancel", *command, "--json"))
    cancelled_again = run("cancel", *command)
    retried = run("retry", *command)

    assert (1, 1, 0) == (retried_early.exit_code, cancelled_again.exit_code, retried.exit_code)
    assert "cancelled" == cancelled["state"]
    assert "is cancelled: only a submission in progress" in cancelled_again.stderr
    assert SubmissionState.IN_PROGRESS is queue.get_submission(submission_id).state


def test_results_are_lines_in_order(
    run: Run, producer: ProducerClient, work: Work, tmp_path: Path
) -> None:
    """Not there before the end: exit code 1, and no file."""
    submission_id = producer.insert_submission([1, 2, 3], chunk_size=2)
    output = tmp_path / "out.jsonl"

    early = run("results", str(submission_id), "-o", str(output))
    work()
    late = run("results", str(submission_id), "-o", str(output))
    printed = run("results", str(submission_id), "-q", producer.queue)

    assert (1, 0) == (early.exit_code, late.exit_code)
    assert "is in progress, 0 of 2 chunks are done" in early.stderr
    assert "2\n3\n4\n" == output.read_text() == printed.stdout


HOSTILE = "\x1b]0;owned\x07 \x9b31m \u202egnp.exe \u2066 \r over \x7f"
RAW_CHARACTERS = set("\x1b\x07\x9b\u202e\u2066\r\x7f")


def test_what_a_failure_says_cannot_act_on_the_terminal(
    run: Run, queue: Queue, producer: ProducerClient
) -> None:
    """Control characters are removed in text and errors; JSON keeps the same value."""
    id_ = producer.insert_submission([1], chunk_size=1, max_attempts=1)
    (chunk,) = queue.reserve_chunks("w1", strategy=Oldest()).chunks
    failure = ChunkFailure(type="ValueError", message=HOSTILE, traceback=f"  line 1\n  {HOSTILE}")
    queue.fail_chunk(chunk.token, failure)

    shown = run("show", str(id_))
    as_json = run("show", str(id_), "--json")
    refused = run("results", str(id_))

    for text in (shown.stdout, as_json.stdout, refused.stderr):
        assert RAW_CHARACTERS.isdisjoint(text)
    assert "\\x1b]0;owned\\x07 \\x9b31m \\u202egnp.exe" in shown.stdout
    assert "  line 1\n" in shown.stdout
    assert HOSTILE == json.loads(as_json.stdout)["failure"]["message"]
    assert "\\x1b]0;owned" in refused.stderr


def test_why_a_chunk_was_given_back_cannot_act_on_the_terminal(
    run: Run, queue: Queue, producer: ProducerClient
) -> None:
    """A consumer writes it, as it writes failures."""
    id_ = producer.insert_submission([1], chunk_size=1)
    (chunk,) = queue.reserve_chunks("w1", strategy=Oldest()).chunks
    queue.release_chunks([chunk.token], reason=HOSTILE)

    shown = run("show", str(id_)).stdout

    assert RAW_CHARACTERS.isdisjoint(shown)
    assert "\\x1b]0;owned\\x07" in shown


def test_errors_and_results_are_the_same_values_without_control_characters(
    run: Run, queue: Queue, producer: ProducerClient, store: ObjectStore
) -> None:
    """Lines of JSON escape them."""
    id_ = producer.insert_submission([1, 2], chunk_size=2)
    (chunk,) = queue.reserve_chunks("w1", strategy=Oldest()).chunks
    error = OperationError(type="ValueError", message=HOSTILE)
    codec = open_codec(chunk.source.codec)
    output = encode_output([HOSTILE, error], codec, collects=True)
    store.create(output_key(chunk.source.prefix, 0), output.data)
    queue.complete_chunks([chunk.token], operations_failed={chunk.token: 1})

    errors = run("errors", str(id_)).stdout
    results = run("results", str(id_), "--errors", "skip").stdout

    assert RAW_CHARACTERS.isdisjoint(errors + results)
    assert HOSTILE == json.loads(errors)["message"] == json.loads(results)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_partial_results_are_what_is_done(
    run: Run, producer: ProducerClient, work: Work, fail: Callable[[], None], end: str
) -> None:
    """Each line has its operation's index; the refusal without the option names it."""
    id_ = producer.insert_submission([1, 2, 3, 4, 5], chunk_size=2, max_attempts=1)
    work(limit=1)
    if end == "failed":
        fail()
    else:
        producer.cancel_submission(id_)

    refused = run("results", str(id_))
    partial = run("results", str(id_), "--partial", "--wait")

    assert (1, "") == (refused.exit_code, refused.stdout)
    assert f"opsqueue results {id_} --partial" in refused.stderr
    assert (0, '{"index":0,"result":2}\n{"index":1,"result":3}\n') == (
        partial.exit_code,
        partial.stdout,
    )


def test_partial_results_tell_operations_that_failed_apart(
    run: Run, queue: Queue, producer: ProducerClient, store: ObjectStore
) -> None:
    """They keep their index, even if others are left out."""
    id_ = producer.insert_submission([1, 2, 3, 4], chunk_size=3)
    with_errors(queue, store)

    all_lines = run("results", str(id_), "--partial").stdout.splitlines()
    skipped = run("results", str(id_), "--partial", "--errors", "skip").stdout

    assert [0, 1, 2] == [json.loads(line)["index"] for line in all_lines]
    assert "no mail" == json.loads(all_lines[1])["error"]["message"]
    assert '{"index":0,"result":"a"}\n{"index":2,"result":"c"}\n' == skipped


@pytest.mark.parametrize(
    ("operation", "name"),
    [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")],
)
@pytest.mark.parametrize("errors", ["raise", "yield"])
def test_a_result_that_is_no_number_of_json_is_refused(
    run: Run,
    producer: ProducerClient,
    work: Work,
    tmp_path: Path,
    operation: float,
    name: str,
    errors: str,
) -> None:
    """Null would be another result; no file is written."""
    submission_id = producer.insert_submission([1, operation], chunk_size=2)
    output = tmp_path / "out.jsonl"
    work()

    result = run("results", str(submission_id), "-o", str(output), "--errors", errors)

    assert result.exit_code != 0
    assert f"one of them has {name}" in " ".join(result.stderr.split())
    assert "ProducerClient" in result.stderr
    assert not output.exists()


def test_a_null_of_a_result_stays_one(
    run: Run, queue: Queue, producer: ProducerClient, store: ObjectStore
) -> None:
    """It stays null at any depth, next to numbers."""
    submission_id = producer.insert_submission([1], chunk_size=1)
    (chunk,) = queue.reserve_chunks("w1").chunks
    result = {"a": [None, 1.5, "null"], "b": {"c": None}}
    output = open_codec(chunk.source.codec).encode([result])
    store.create(output_key(chunk.source.prefix, 0), output)
    queue.complete_chunks([chunk.token])

    assert result == json.loads(run("results", str(submission_id)).stdout)


def test_operations_that_failed_are_told_apart(
    run: Run, queue: Queue, producer: ProducerClient, store: ObjectStore
) -> None:
    """Results are refused unless an option says how to show errors; `errors` lists them."""
    submission_id = producer.insert_submission([1, 2, 3], chunk_size=3)
    with_errors(queue, store)

    refused = run("results", str(submission_id))
    skipped = run("results", str(submission_id), "--errors", "skip")
    told_apart = run("results", str(submission_id), "--errors", "yield")
    errors = run("errors", str(submission_id))

    assert (1, "") == (refused.exit_code, refused.stdout)
    assert "1 of 3 operations" in refused.stderr
    assert '"a"\n"c"\n' == skipped.stdout
    second = json.loads(told_apart.stdout.splitlines()[1])["error"]
    assert (1, "ValueError", "no mail") == (second["index"], second["type"], second["message"])
    assert second == json.loads(errors.stdout)


def test_failed_operations_alone_are_submitted_again(
    run: Run, queue: Queue, producer: ProducerClient, store: ObjectStore
) -> None:
    """They become a new submission; wrong requests are refused with a reason."""
    submission_id = str(producer.insert_submission([1, 2, 3], chunk_size=3, retention=60))
    early = run("retry", submission_id, "--only", "failed")
    with_errors(queue, store)

    retried = run("retry", submission_id, "--only", "failed", "--max-failed-operations", "0")
    again = run("retry", submission_id, "--only", "failed")
    nowhere = run("retry", submission_id, "--only", "failed", OPSQUEUE_STORE_URL=None)
    misplaced = run("retry", submission_id, "--max-failed-operations", "0")

    new = queue.get_submission(SubmissionId(retried.stdout.strip()))
    assert (1, 60_000, 0) == (new.operations_total, new.retention_ms, new.max_failed_operations)
    assert f"submitted 1 operation of {submission_id} again" in retried.stderr
    assert retried.stdout == again.stdout
    assert f"submitted before, as {new.id}, which is in progress" in again.stderr
    assert f"opsqueue retry {new.id} --only failed" in again.stderr
    assert (1, 2, 2) == (early.exit_code, nowhere.exit_code, misplaced.exit_code)
    assert "is in progress: its failed operations can be retried when it has" in early.stderr
    assert "--store-url" in nowhere.stderr
    assert "needs --only failed" in misplaced.stderr


def test_what_failed_is_shown(run: Run, producer: ProducerClient, fail: Callable[[], None]) -> None:
    """With chunk, attempt and traceback."""
    submission_id = producer.insert_submission([1], chunk_size=1, max_attempts=1)
    fail()

    shown = run("show", str(submission_id))

    assert 0 == shown.exit_code
    assert "failed: chunk 0, attempt 1" in shown.stdout
    assert "  line 3\nValueError: bad row 7" in shown.stdout


def test_why_chunks_come_back_is_shown(
    run: Run, producer: ProducerClient, real_client: redis.Redis
) -> None:
    """`show` has the reason; no attempt was used, so there is no failure."""
    submission_id = producer.insert_submission([1], chunk_size=1)
    queue = Queue(real_client, producer.queue)
    tokens = [chunk.token for chunk in queue.reserve_chunks("w1").chunks]
    queue.release_chunks(tokens, delay_ms=2_000, reason="file:///mnt can't be used")

    shown = run("show", str(submission_id))

    assert "last released" in shown.stdout
    assert "file:///mnt can't be used" in shown.stdout


def test_why_nothing_runs_is_shown(
    run: Run, producer: ProducerClient, queue: Queue, fail: Callable[[], None]
) -> None:
    """The reasons are a back-off, a pause, or no worker."""
    submission_id = producer.insert_submission([1], chunk_size=1)
    fail()

    delayed = run("show", str(submission_id))
    queue.retire_worker("w1")
    queue.pause_queue()
    paused = run("show", str(submission_id))

    assert f"{queue.name}: 1 chunk in back-off" in delayed.stdout
    assert f"{queue.name}: paused, no worker, 1 chunk in back-off" in paused.stdout


def test_redis_can_be_asked_in_place_of_the_api(
    run: Run, document: Document, producer: ProducerClient, redis_url: str
) -> None:
    """The command line takes precedence over the environment's URL, where nobody listens."""
    submission_id = str(producer.insert_submission([1], chunk_size=1))
    nobody = "http://127.0.0.1:1"

    typed = document(
        run("show", submission_id, "--json", "--redis-url", redis_url, OPSQUEUE_API_URL=nobody)
    )
    alone = document(
        run("show", submission_id, "--json", OPSQUEUE_API_URL=None, OPSQUEUE_REDIS_URL=redis_url)
    )

    assert submission_id == typed["id"] == alone["id"]


@pytest.mark.parametrize(
    "variables",
    [
        {"OPSQUEUE_API_URL": "http://127.0.0.1:1"},
        {"OPSQUEUE_API_URL": None, "OPSQUEUE_REDIS_URL": "redis://127.0.0.1:1"},
    ],
)
def test_what_is_not_reachable_is_exit_code_3(
    run: Run, variables: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names it, without the password."""
    monkeypatch.setattr(http_client.Patience, "pauses_s", lambda _: iter(()))

    result = run("queues", **variables)

    assert 3 == result.exit_code
    assert "127.0.0.1:1" in result.stderr


def test_a_token_for_one_queue_is_enough_for_it(
    run: Run, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is, although the token may not list all queues to find similar names."""

    def refuse(_: object) -> None:
        message = "token 'web' lacks the scope admin for all queues"
        raise IncorrectUsageError(message)

    monkeypatch.setattr(http_api.HttpBackend, "queues", refuse)

    listed = run("list", queue.name)
    paused = run("pause", queue.name)
    looked_for = run("show", "7", OPSQUEUE_QUEUE=None)

    assert (0, 0, 2) == (listed.exit_code, paused.exit_code, looked_for.exit_code)
    assert f"no submission of {queue.name} matches" in listed.stderr
    assert "lacks the scope admin for all queues; name the queue with -q" in looked_for.stderr


@pytest.mark.parametrize(
    ("command", "how"),
    [("results", ">&-"), ("list", ">/dev/full"), ("show --json", "<&- >/dev/null 2>&-")],
)
def test_a_stream_that_is_closed_or_full_is_one_line_and_an_exit_code(
    api_url: str, store_url: str, producer: ProducerClient, work: Work, command: str, how: str
) -> None:
    """There is no traceback; streams that the command does not need may be closed."""
    id_ = producer.insert_submission(range(50), chunk_size=50)
    work()
    verb, *options = command.split()
    subject = producer.queue if verb == "list" else f"{id_} -q {producer.queue}"
    program = f"{sys.executable} -m opsqueue.cli {verb} {subject} {' '.join(options)} {how}"
    environment = os.environ | {"OPSQUEUE_API_URL": api_url, "OPSQUEUE_STORE_URL": store_url}

    ended = subprocess.run(
        ["/bin/sh", "-c", program], env=environment, capture_output=True, text=True, check=False
    )

    is_refused = how in (">&-", ">/dev/full")
    assert (1 if is_refused else 0) == ended.returncode, ended.stderr
    assert ("Error: can't read or write: " in ended.stderr) is is_refused
    assert (1 if is_refused else 0) == len(ended.stderr.splitlines())


def test_a_closed_stdin_is_one_line_and_an_exit_code(
    api_url: str, store_url: str, producer: ProducerClient
) -> None:
    """Nothing is submitted."""
    program = f"{sys.executable} -m opsqueue.cli submit {producer.queue} - --chunk-size 1 <&-"
    environment = os.environ | {"OPSQUEUE_API_URL": api_url, "OPSQUEUE_STORE_URL": store_url}

    ended = subprocess.run(
        ["/bin/sh", "-c", program], env=environment, capture_output=True, text=True, check=False
    )

    assert (2, "") == (ended.returncode, ended.stdout)
    assert "can't read standard input" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert 0 == producer.count_submissions()


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("a=b", "a=b"),
        ("due date", "due date"),
        ("größe", "größe"),
        ('"tab\\there"', "tab\there"),
        ('"\\u0000"', "\0"),
        ('"\\"a"', '"a'),
        ("-x", "-x"),
        ("7", "7"),
    ],
)
def test_any_key_is_written_on_a_command_line(
    run: Run,
    document: Document,
    queue: Queue,
    producer: ProducerClient,
    redis_url: str,
    written: str,
    key: str,
) -> None:
    """The last equals sign divides; in quotes it is JSON, as answers write it."""
    id_ = producer.insert_submission([1], chunk_size=1, strategic_metadata={key: 7})
    producer.insert_submission([1], chunk_size=1)

    listed = document(run("list", queue.name, "--meta", f"{written}=7", "--json"))
    redis = (queue.name, "--redis-url", redis_url)
    run("limits", "set", *redis, "--max", "2", "--", written)
    run("limits", "set", *redis, "--max", "3", "--value", "7", "--", written)
    shown = run("limits", "list", *redis).stdout

    assert [str(id_)] == [one["id"] for one in listed["submissions"]]
    assert [(key, None), (key, 7)] == [(one.meta_key, one.value) for one in queue.list_limits()]
    assert [f"{meta_key_text(key)}  at", f"{meta_key_text(key)}=7  at"] == [
        line.partition(" most")[0] for line in shown.splitlines()
    ]
    again = run("list", queue.name, "--meta", f"{meta_key_text(key)}=7").stdout
    assert f"{meta_key_text(key)}=7" in again
    run("limits", "remove", *redis, "--value", "7", "--", meta_key_text(key))
    assert [(key, None)] == [(one.meta_key, one.value) for one in queue.list_limits()]


@pytest.mark.parametrize("key", ['"a', '"a"b', '""', "x" * 256])
def test_what_is_no_key_is_refused_on_a_command_line(run: Run, queue: Queue, key: str) -> None:
    """With the option's name, or by its own message."""
    for arguments in (
        ["list", queue.name, "--meta", f"{key}=7"],
        ["limits", "set", queue.name, key, "--max", "1"],
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "strategic metadata key" in result.stderr
