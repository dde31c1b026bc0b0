"""`opsqueue submit`: it inserts a file and prints the id, or the results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from opsqueue.cli import progress
from opsqueue.cli.commands import main
from opsqueue.contents.json_lines import MAX_LINE_BYTES
from opsqueue.exceptions import SubmissionNotConfirmedError
from opsqueue.model.new_submission import Backoff
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.producer import ProducerClient
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore
from tests.opsqueue.cli.conftest import Run


@pytest.fixture
def numbers(tmp_path: Path) -> str:
    file = tmp_path / "in.jsonl"
    file.write_text("".join(f"{number}\n" for number in range(10)))
    return str(file)


def id_of(result: Result) -> SubmissionId:
    """All that is on standard output."""
    assert result.exit_code == 0, result.output
    return SubmissionId(result.stdout.removesuffix("\n"))


def test_the_id_alone_is_on_standard_output(run: Run, queue: Queue, numbers: str) -> None:
    """A script can use it; the warning about missing workers goes to standard error."""
    result = run("submit", queue.name, numbers, "--chunk-size", "3")

    submission = queue.get_submission(id_of(result))
    assert (4, 10, 3) == (
        submission.chunks_total,
        submission.operations_total,
        submission.chunk_size,
    )
    assert f"no worker serves queue {queue.name}" in result.stderr


def test_every_option_reaches_the_submission(run: Run, queue: Queue) -> None:
    """From standard input, by options and by variables."""
    result = run(
        *("submit", queue.name, "-", "--meta", "customer=7", "--meta", "priority=-1"),
        *("--metadata", "für später", "--codec", "json", "--max-failed-operations", "50%"),
        *("--backoff", "2m", "--retention", "7d", "--delete-inputs"),
        stdin='{"a": 1}\n[2]\n',
        OPSQUEUE_SUBMIT_CHUNK_SIZE="1",
        OPSQUEUE_SUBMIT_MAX_ATTEMPTS="3",
    )

    submission = queue.get_submission(id_of(result))
    assert {"customer": 7, "priority": -1} == submission.strategic_metadata
    assert "für später".encode() == submission.metadata
    assert ("json", 2, 3, 1) == (
        submission.codec,
        submission.chunks_total,
        submission.max_attempts,
        submission.max_failed_operations,
    )
    assert Backoff(first_ms=120_000, max_ms=120_000) == submission.backoff
    assert (7 * 24 * 3_600_000, True) == (
        submission.retention_ms,
        submission.delete_inputs_at_completion,
    )


def test_what_is_not_given_is_as_the_queue_has_it(run: Run, queue: Queue, numbers: str) -> None:
    """`show` tells what it came to."""
    queue.set_defaults({"max_attempts": 4, "backoff_max_ms": 300_000})

    result = run("submit", queue.name, numbers, "-c", "5", "--retention", "90s")

    shown = run("show", str(id_of(result))).output
    assert "at most 4 a chunk, 1s to 5m between them" in shown
    assert "for 1m30s after its end" in shown


def test_an_idempotency_key_gives_the_first_one(run: Run, queue: Queue, numbers: str) -> None:
    command = ("submit", queue.name, numbers, "-c", "5", "--idempotency-key", "today")
    first = id_of(run(*command))

    assert first == id_of(run(*command))


def test_an_insert_that_is_not_confirmed_gives_its_id_all_the_same(
    run: Run, queue: Queue, numbers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was inserted, and a script without the id would submit it again."""
    insert = ProducerClient.insert_submission

    def insert_in_doubt(self: ProducerClient, *arguments: Any, **options: Any) -> None:
        raise SubmissionNotConfirmedError(insert(self, *arguments, **options), "no replica")

    monkeypatch.setattr(ProducerClient, "insert_submission", insert_in_doubt)
    result = run("submit", queue.name, numbers, "-c", "5")

    assert result.exit_code == 3
    assert queue.get_submission(SubmissionId(result.stdout.strip())).chunks_total == 2
    assert "no replica" in result.stderr


def test_an_empty_file_is_completed_without_a_worker(run: Run, queue: Queue) -> None:
    result = run("submit", queue.name, "-", "-c", "5", stdin="")

    assert queue.get_submission(id_of(result)).state is SubmissionState.COMPLETED
    assert "no worker" not in result.stderr


def test_waiting_writes_the_results_in_order(
    run: Run, queue: Queue, worker: None, numbers: str, tmp_path: Path
) -> None:
    """The file is whole when it appears, and nothing else is left beside it."""
    output = tmp_path / "out" / "out.jsonl"
    output.parent.mkdir()

    result = run("submit", queue.name, numbers, "-c", "3", "--output", str(output))

    id_of(result)
    assert list(range(1, 11)) == [json.loads(line) for line in output.read_text().splitlines()]
    assert [output] == list(output.parent.iterdir())
    assert "10 of 10 operations" in result.stderr


def test_results_on_standard_output_leave_the_id_to_standard_error(
    run: Run, queue: Queue, worker: None
) -> None:
    result = run("submit", queue.name, "-", "-c", "1", "--output", "-", stdin="1\n2\n")

    assert (0, "2\n3\n") == (result.exit_code, result.stdout)
    assert 19 == len(result.stderr.splitlines()[0])


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        (b'1\n{"a": }\n', "line 2, column 7", "Expecting value"),
        (b'1\n  "\xff"\n', "line 2, column 4", "this byte is not UTF-8"),
        (b"1\n  [NaN]\n", "line 2, column 4", "NaN is not JSON"),
        (b'1\n{"price": -1e999}', "line 2, column 11", "-1e999 is beyond"),
        (b"1\n2 3\n", "line 2, column 3", "Extra data"),
        (b'1\n"\\ud800"\n', "line 2, column 1", "lone surrogate"),
        (b"1\n\x0c\n", "line 2, column 1", "Expecting value"),
        (b"1\n[1,\n2]\n", "line 2, column 4", "Expecting value"),
        ("1\n".encode("utf-16"), "line 1, column 1", "UTF-16"),
        (b"1\n" + b"[" * 100_000 + b"\n", "line 2, column 129", "nested deeper"),
        (b"1\n" + b"1" * (MAX_LINE_BYTES + 1), "line 2, column 16,777,217", "16,777,216 bytes"),
    ],
)
def test_a_bad_line_is_named_and_nothing_submitted(
    run: Run, queue: Queue, store: ObjectStore, tmp_path: Path, text: bytes, where: str, why: str
) -> None:
    """Neither a submission nor objects are left behind."""
    file = tmp_path / "in.jsonl"
    file.write_bytes(text)

    result = run("submit", queue.name, str(file), "-c", "1")

    assert 2 == result.exit_code
    assert f"{file}, {where}: " in result.stderr
    assert why in result.stderr
    assert "" == result.stdout
    assert 0 == queue.count_queue().submissions[SubmissionState.IN_PROGRESS]
    assert [] == list(store.list_prefix(""))


@pytest.mark.parametrize(
    ("line", "why"), [("[" * 200 + "]" * 200, "128 levels"), ("9" * 30, "64 bits")]
)
def test_a_line_that_no_codec_carries_is_refused_and_nothing_submitted(
    run: Run, queue: Queue, store: ObjectStore, line: str, why: str
) -> None:
    """As over HTTP."""
    result = run("submit", queue.name, "-", "-c", "2", stdin=f"1\n2\n3\n{line}\n")

    assert 2 == result.exit_code
    assert "chunk 1" in result.stderr
    assert why in " ".join(result.stderr.split())
    assert [] == list(store.list_prefix(""))


@pytest.mark.parametrize("source", ["file", "standard input"])
def test_a_mark_blank_lines_and_other_ends_of_lines_are_no_operations(
    run: Run, queue: Queue, worker: None, tmp_path: Path, source: str
) -> None:
    """As over HTTP."""
    text = b"\xef\xbb\xbf\r\n1\r\n\n \t\r\n18446744073709551615\n-0\n3"
    file = tmp_path / "in.jsonl"
    file.write_bytes(text)
    name, stdin = (str(file), None) if source == "file" else ("-", text)

    result = run("submit", queue.name, name, "-c", "2", "-o", "-", "--codec", "json", stdin=stdin)

    assert (0, "2\n18446744073709551616\n1\n4\n") == (result.exit_code, result.stdout)


def test_a_failed_submission_shows_its_failure(
    run: Run, queue: Queue, fail: Callable[[], None], numbers: str
) -> None:
    """Chunk, attempt and traceback; exit code 1."""
    submission_id = id_of(run("submit", queue.name, numbers, "-c", "10", "--max-attempts", "1"))
    fail()

    result = run("show", str(submission_id), "--wait")

    assert 1 == result.exit_code
    assert "chunk 0 failed attempt 1 of 1:\n  line 3\nValueError: bad row 7" in result.stderr


def test_ctrl_c_says_how_it_goes_on(
    run: Run, queue: Queue, numbers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not cancel the submission."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    monkeypatch.setattr(progress, "_POLL_S", 0.01)

    result = run("submit", queue.name, numbers, "-c", "3", "--wait")

    submission = queue.get_submission(SubmissionId(result.stdout))
    assert (130, SubmissionState.IN_PROGRESS) == (result.exit_code, submission.state)
    assert f"opsqueue cancel {submission.id} -q {queue.name}" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["missing.jsonl", "-c", "1"], "can't read missing.jsonl: No such file"),
        (["-", "-c", "0"], "0 is not in the range x>=1"),
        (["-"], "Missing option '-c' / '--chunk-size'"),
        (["-", "-c", "1", "--meta", "customer"], "give key=7"),
        (["-", "-c", "1", "--meta", "a=1", "--meta", "a=2"], "a key is given twice"),
        (["-", "-c", "1", "-o", "no/such/out"], "there is no folder"),
        (["-", "-c", "1", "-o", "-", "--json"], "both write to standard output"),
        (["-", "-c", "1", "--max-failed-operations", "150%"], "a share from 0.0 to 1.0"),
        (["-", "-c", "1", "--codec", "xml"], "no codec is called 'xml'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_read(
    run: Run, queue: Queue, arguments: list[str], why: str
) -> None:
    """The exit code is 2, and a pipe is not consumed."""
    result = run("submit", queue.name, *arguments, stdin="no JSON")

    assert 2 == result.exit_code, result.output
    assert why in " ".join(result.stderr.split())


def test_every_option_can_be_a_variable() -> None:
    """Nested groups have variables, too; shared options have one name."""

    def options(
        command: click.Command, prefix: str
    ) -> Iterator[tuple[str | None, tuple[str, ...]]]:
        context = click.Context(command, auto_envvar_prefix=prefix)
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "version":
                extra = parameter.get_help_extra(context).get("envvars", ())
                yield parameter.name, extra
        for name, below in getattr(command, "commands", {}).items():
            yield from options(below, f"{prefix}_{name.upper()}")

    found = list(options(main, "OPSQUEUE"))

    assert [] == [name for name, variables in found if not variables]
    assert {("OPSQUEUE_API_URL",)} == {names for name, names in found if name == "api_url"}
    assert ("maximum", ("OPSQUEUE_LIMITS_SET_MAX",)) in found
