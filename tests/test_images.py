"""The Dockerfiles, checked without a daemon: their text, and their commands run here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dockerfiles import DOCKERFILES, ROOT, health_code, instructions, last, tool


def test_an_image_alone_does_not_serve_everybody() -> None:
    """It names an address that takes tokens, and does not say that none are needed."""
    assert "OPSQUEUE_API_INSECURE" not in last("api", "ENV")
    assert "OPSQUEUE_API_HOST=0.0.0.0" in last("api", "ENV")


@pytest.mark.parametrize("program", DOCKERFILES)
def test_images_run_as_a_user_with_a_fixed_number(program: str) -> None:
    """A number: Kubernetes can't tell whether a name is root."""
    user, group = last(program, "USER").split(":")

    assert int(user) >= 10_000
    assert int(group) >= 10_000
    assert f"--uid {user} " in DOCKERFILES[program].read_text()


@pytest.mark.parametrize("program", DOCKERFILES)
def test_images_install_only_what_the_lock_pins(program: str) -> None:
    """Files come from the network in one command, which checks their hashes."""
    runs = [rest for name, rest in instructions(program) if name == "RUN"]
    fetching = [run for run in runs if "pip " in run and "--no-index" not in run]

    (download,) = fetching
    assert "--require-hashes" in download
    assert "-r requirements.lock" in download
    assert "# syntax=" not in DOCKERFILES[program].read_text()


@pytest.mark.parametrize("program", DOCKERFILES)
def test_images_get_exactly_the_files_that_the_builder_is_sent(program: str) -> None:
    """.dockerignore shuts out everything, secrets included, but the sources of COPY."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in lines if line.startswith("!")}
    copies = [rest.split() for name, rest in instructions(program) if name == "COPY"]
    sources = {
        source for copy in copies if not copy[0].startswith("--from") for source in copy[:-1]
    }

    assert "*" in lines
    assert let_through == sources
    assert all((ROOT / source).exists() for source in sources)


def test_both_images_share_the_stage_that_builds() -> None:
    """The same text, so that the second image finds it in the cache."""
    stages = {text.read_text().split("\n\n")[1] for text in DOCKERFILES.values()}

    (stage,) = stages
    assert stage.startswith("FROM python:3.12-slim AS build")


@pytest.mark.parametrize("program", DOCKERFILES)
def test_hadolint_finds_nothing(program: str) -> None:
    """All its rules hold: none is switched off, in the file or beside it."""
    text = DOCKERFILES[program].read_text()

    result = subprocess.run(
        [tool("hadolint"), "--no-color", "--config", os.devnull, str(DOCKERFILES[program])],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (result.returncode, result.stdout) == (0, "")
    assert "hadolint ignore" not in text


def test_the_workers_health_check_passes_when_redis_answers(redis_url: str) -> None:
    """The image's own command, run here."""
    assert _run_health_check("worker", OPSQUEUE_REDIS_URL=redis_url) == 0


def test_the_workers_health_check_fails_without_redis(tmp_path: Path) -> None:
    """The image's own command, run here."""
    assert _run_health_check("worker", OPSQUEUE_REDIS_URL=f"unix://{tmp_path}/none") != 0


def test_the_apis_health_check_fails_when_nobody_listens() -> None:
    """The image's own command, run here; port 1 is nobody's."""
    assert _run_health_check("api", OPSQUEUE_API_PORT="1") != 0


def _run_health_check(program: str, **variables: str) -> int:
    result = subprocess.run(
        [sys.executable, "-c", health_code(program)],
        env={**os.environ, **variables},
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=60,
    )
    return result.returncode
