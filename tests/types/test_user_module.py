"""The types that users get: a user's module, checked with an installed copy of the package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = Path(__file__).parent / "user_module.py"
STRICT = {
    "include": [MODULE.name],
    "typeCheckingMode": "strict",
    "reportUnnecessaryTypeIgnoreComment": "error",
}
CHECKERS = {
    "mypy": ["--strict", "--cache-dir=cache", "--python-executable=venv/bin/python", MODULE.name],
    "basedpyright": ["--pythonpath=venv/bin/python", "--project=."],
}


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the module, and an environment with the wheel and what it needs."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copy(MODULE, folder)
    (folder / "pyrightconfig.json").write_text(json.dumps(STRICT))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    venv.create(folder / "venv", symlinks=True)
    (packages,) = (folder / "venv").glob("lib/*/site-packages")
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(packages)
    # Only a path: what an editable installation adds there by itself is not followed.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(others))
    return folder


@pytest.mark.parametrize("checker", CHECKERS)
def test_right_uses_have_their_types_and_wrong_ones_are_errors(user: Path, checker: str) -> None:
    """Both refuse a `type: ignore` on a line without an error."""
    done = subprocess.run(
        [Path(sys.executable).parent / checker, *CHECKERS[checker]],
        cwd=user,
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr


TEST = """
import sys

import pytest


@pytest.fixture
def opsqueue_app():
    from opsqueue import Opsqueue

    app = Opsqueue()
    app.operation_handler("numbers")(abs)
    return app


def test_without_the_fixture():
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert not {"redis", "fakeredis", "msgspec", "httpx"} & loaded


def test_with_it(opsqueue_local):
    assert list(opsqueue_local.run_submission("numbers", [-1])) == [1]
"""


@pytest.mark.parametrize("plugins", ["", "pytest_plugins = ['opsqueue.testing']"])
def test_a_users_pytest_has_the_fixture(user: Path, plugins: str) -> None:
    """From the package alone, at no cost for other tests; as before, it can be named."""
    (user / "test_fixture.py").write_text(plugins + TEST)

    done = subprocess.run(
        [
            *(user / "venv" / "bin" / "python", "-m", "pytest", "-q", "--rootdir", user),
            # Other packages' plugins import a lot.
            *(f"-pno:{name}" for name in ("anyio", "hypothesispytest", "schemathesis", "valkey")),
            *("-W", "error", "test_fixture.py"),
        ],
        cwd=user,
        check=False,
        capture_output=True,
        text=True,
    )

    # If it is named, pytest reads it completely, with what it imports.
    assert "2 passed" in done.stdout or (plugins and "1 passed" in done.stdout), (
        done.stdout + done.stderr
    )
