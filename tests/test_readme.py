"""The README's snippets run."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests import documents
from tests.documents import ROOT, Dev, pytest_says

PAGE = ROOT / "README.md"
README = PAGE.read_text()


def file_of(name: str) -> str:
    """The code block that begins with the file's name."""
    return documents.file_of(PAGE, name)


def shell_of(text: str) -> str:
    """The shell block that has the text."""
    return documents.shell_of(PAGE, text)


@pytest.mark.system
def test_curl_alone_can_use_it(dev: Dev) -> None:
    """Post ten operations as JSON, wait, get ten results: the README's commands, word by word."""
    status, *results = dev.run_shell(shell_of("curl --silent --json"))

    assert json.loads(status)["state"] == "completed"
    assert [json.loads(line) for line in results] == list(range(2, 12))


@pytest.mark.system
def test_the_producer_works_as_shown(dev: Dev) -> None:
    """With the placeholders of its URLs filled in."""
    assert ["HEAVY", "LOADS"] == dev.run(file_of("produce.py"))


@pytest.mark.system
def test_the_shell_can_submit_files_as_shown(dev: Dev) -> None:
    """One command waits for the results, the other prints an id for later."""
    lines = dev.run_shell(shell_of("opsqueue submit numbers"))

    results = (dev.folder / "results.jsonl").read_text().splitlines()
    assert [int(line) for line in results] == list(range(2, 1_002))
    assert lines[-1] == "1001"


@pytest.mark.system
def test_errors_of_single_operations_are_seen_as_shown(dev: Dev) -> None:
    """By the README's own handler and producer."""
    with dev.running(sys.executable, "-m", "opsqueue_worker", "prices:app", "-c", "1"):
        shown = dev.run(file_of("price_producer.py"))

    assert ["150", "operation 1: could not convert string to float: 'free'", "200", "1"] == shown


def test_the_example_of_testing_handlers_passes(tmp_path: Path) -> None:
    """Under the user's own pytest, in the user's own folder."""
    (tmp_path / "tasks.py").write_text(file_of("tasks.py"))
    (tmp_path / "test_tasks.py").write_text(file_of("test_tasks.py"))

    shown = pytest_says(tmp_path)

    assert re.search(r"^2 passed", shown, re.MULTILINE), shown


def test_every_python_snippet_is_among_those_that_are_run() -> None:
    """Each begins with its name; a new one needs its test here."""
    run = {"tasks.py", "test_tasks.py", "prices.py", "price_producer.py", "produce.py"}

    assert sorted(run) == sorted(
        block.name for block in documents.blocks_of(PAGE) if block.kind == "python"
    )


def test_it_is_short() -> None:
    """What does not fit stands in docs/."""
    assert len(README.splitlines()) <= 250


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    """`make demo` and `make test` are all the set-up that there is."""
    makefile = (ROOT / "Makefile").read_text()

    targets = re.findall(r"^(\w[\w-]*):", makefile, re.MULTILINE)

    assert {"demo", "test"} <= set(targets)
    assert "make demo" in README
    assert "make test" in README
