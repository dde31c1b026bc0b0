"""What only the folder store has: files, and death in the midst of writing them."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from opsqueue.exceptions import StoreUnavailableError
from opsqueue.store.local import LocalStore

ON_LINUX = pytest.mark.skipif(
    not hasattr(os, "O_TMPFILE"), reason="files without a name are Linux's"
)
KILLED_WHILE_LINKING = """
import os, signal, sys
from opsqueue.store.local import LocalStore
os.link = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
store = LocalStore(sys.argv[1])
store.writes_unnamed = store.writes_unnamed and sys.argv[2] == "unnamed"
store.create("41/0-out", b"x" * 100_000)
"""


@pytest.mark.parametrize(
    ("how", "left"), [pytest.param("unnamed", 0, marks=ON_LINUX), ("named", 1)]
)
def test_a_killed_writer_leaves_no_object(tmp_path: Path, how: str, left: int) -> None:
    """A temporary file is shown by no method, is no obstacle, and goes with the folder."""
    died = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_LINKING, str(tmp_path), how], check=False
    )
    store = LocalStore(str(tmp_path))

    listed, exists = list(store.list_prefix("")), store.exists("41/0-out")

    assert died.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "41").iterdir())) == left
    assert (listed, exists) == ([], False)
    assert store.create("41/0-out", b"whole")
    assert store.delete_prefix("41") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["unnamed", "named"])
def test_no_temporary_file_stays(tmp_path: Path, how: str) -> None:
    """Neither the winner of a key nor the loser leaves one."""
    store = LocalStore(str(tmp_path))
    store.writes_unnamed = store.writes_unnamed and how == "unnamed"

    store.create("41/0-in", b"first")
    store.create("41/0-in", b"second")

    assert [file.name for file in (tmp_path / "41").iterdir()] == ["0-in"]


@ON_LINUX
def test_a_file_system_without_nameless_files_is_written_with_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so once, and is not asked again."""
    asked = []
    open_as_ever = os.open

    def without(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            asked.append(path)
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return open_as_ever(path, flags, mode)

    (tmp_path / "41").mkdir()
    monkeypatch.setattr(os, "open", without)
    store = LocalStore(str(tmp_path))

    assert store.create("41/0-in", b"first")
    assert not store.create("41/0-in", b"second")

    assert store.get("41/0-in") == b"first"
    assert asked == [str(tmp_path / "41")]
    assert [file.name for file in (tmp_path / "41").iterdir()] == ["0-in"]


def test_a_full_disk_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's error is told with what helps, and nothing is left."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    store = LocalStore(str(tmp_path))
    (tmp_path / "41").mkdir()

    with pytest.raises(StoreUnavailableError, match=r"No space left on device.*make room"):
        store.create("41/0-in", b"x")

    assert list((tmp_path / "41").iterdir()) == []


def test_a_durable_store_syncs_file_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before create answers, also when the key was taken: the other may not have synced yet."""
    synced: list[str] = []

    def record(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    (tmp_path / "41").mkdir()
    monkeypatch.setattr(os, "fsync", record)

    LocalStore(str(tmp_path)).create("41/0-in", b"x")
    LocalStore(str(tmp_path)).create("41/0-in", b"x")
    LocalStore(str(tmp_path), durable=False).create("41/1-in", b"x")

    assert synced == ["file", "folder", "file", "folder"]


def test_a_link_out_of_the_store_is_not_followed(tmp_path: Path) -> None:
    """Deleting a folder with a symbolic link in it deletes the link alone."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").touch()
    store = LocalStore(str(tmp_path / "store"))
    store.create("41/0-in", b"x")
    (tmp_path / "store" / "41" / "link").symlink_to(tmp_path / "outside")

    store.delete_prefix("41")

    assert (tmp_path / "outside" / "precious").exists()
