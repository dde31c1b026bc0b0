"""Reading the Dockerfiles, and finding the tools that check them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILES = {name: ROOT / name / "Dockerfile" for name in ("api", "worker")}


def tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: its PyPI package has no wheel for this platform")
    return found


def instructions(program: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions in order, continued lines joined."""
    lines = DOCKERFILES[program].read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined)]


def last(program: str, instruction: str) -> str:
    """What holds in the finished image."""
    return [rest for name, rest in instructions(program) if name == instruction][-1]


def health_code(program: str) -> str:
    command: list[str] = json.loads(last(program, "HEALTHCHECK").partition("CMD ")[2])
    assert ["python", "-c"] == command[:2]
    return command[2]
