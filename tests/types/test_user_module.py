"""The types that users get: a user's module, checked with an installed copy of the package."""

from __future__ import annotations

import json
import shutil
import site
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
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
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
