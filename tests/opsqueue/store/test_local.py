"""Properties of the folder store alone: files, and processes that die while writing them."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from opsqueue.exceptions import (
    InvalidArgumentError,
    ObjectNotFoundError,
    OpsqueueError,
    StoreUnavailableError,
)
from opsqueue.store.base import TEMPORARY_PREFIX
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

    def without(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            asked.append(path)
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return open_as_ever(path, flags, mode, dir_fd=dir_fd)

    (tmp_path / "41").mkdir()
    monkeypatch.setattr(os, "open", without)
    store = LocalStore(str(tmp_path))

    assert store.create("41/0-in", b"first")
    assert not store.create("41/0-in", b"second")

    assert store.get("41/0-in") == b"first"
    assert asked == ["."]
    assert [file.name for file in (tmp_path / "41").iterdir()] == ["0-in"]


def test_a_full_disk_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's error is told with what helps, and nothing is left."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    store = LocalStore(str(tmp_path))
    (tmp_path / "41").mkdir()

    with pytest.raises(StoreUnavailableError, match=r"No space left on device.*free space"):
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


def use_everything(store: LocalStore, folder: str) -> dict[str, Callable[[], object]]:
    """Every call that names a folder or something in it."""
    return {
        "get": lambda: store.get(f"{folder}/0-in"),
        "create": lambda: store.create(f"{folder}/1-out", b"x"),
        "create again": lambda: store.create(f"{folder}/0-in", b"x"),
        "create below": lambda: store.create(f"{folder}/new/0-in", b"x"),
        "exists": lambda: store.exists(f"{folder}/0-in"),
        "delete_prefix": lambda: store.delete_prefix(folder),
        "delete_objects": lambda: store.delete_objects([f"{folder}/0-in"]),
        "list_prefix": lambda: list(store.list_prefix(folder)),
        "list_folders": lambda: list(store.list_folders(folder)),
        "list_objects": lambda: list(store.list_objects(folder)),
    }


@pytest.mark.parametrize("call", use_everything(LocalStore("/"), "x"))
@pytest.mark.parametrize("place", ["q", "q/41"])
@pytest.mark.parametrize("target", ["outside", "store/other"])
@pytest.mark.parametrize("durable", [True, False])
def test_a_link_below_the_stores_folder_is_refused(
    tmp_path: Path, call: str, place: str, target: str, *, durable: bool
) -> None:
    """Whether it leads out of the store or to another queue's folder; the message names it."""
    store = LocalStore(str(tmp_path / "store"), durable=durable)
    store.create("other/0-in", b"another's")
    store.create("q/0-in", b"x")
    shutil.rmtree(tmp_path / "store" / "q")
    (tmp_path / "outside").mkdir(exist_ok=True)
    (tmp_path / "outside" / "0-in").write_bytes(b"precious")
    link = tmp_path / "store" / place
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / target)
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(StoreUnavailableError, match=re.escape(f"{link} is a symbolic link")):
        use_everything(store, place)[call]()

    assert before == sorted(tmp_path.rglob("*"))
    assert (tmp_path / "outside" / "0-in").read_bytes() == b"precious"


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    """It is no folder that is not there yet."""
    store = LocalStore(str(tmp_path))
    (tmp_path / "q").symlink_to(tmp_path / "gone")

    with pytest.raises(StoreUnavailableError, match="q is a symbolic link"):
        store.create("q/41/0-in", b"x")
    with pytest.raises(StoreUnavailableError, match="q is a symbolic link"):
        store.exists("q/41/0-in")

    assert not (tmp_path / "gone").exists()


def test_the_stores_own_folder_may_be_a_link(tmp_path: Path) -> None:
    """`/data` is a link to another disk, and so may be a folder above it."""
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    for root in (tmp_path / "data", tmp_path / "data" / "deep", tmp_path / "data" / "new" / "one"):
        store = LocalStore(str(root))
        store.check()

        store.create("q/41/0-in", b"x")

        assert store.get("q/41/0-in") == b"x"
        assert list(store.list_prefix("")) == ["q/41/0-in"]
        assert store.delete_prefix("q/41") == 1


@pytest.mark.parametrize("kind", ["link", "pipe", "socket", "folder"])
def test_what_is_no_file_is_no_object(tmp_path: Path, kind: str) -> None:
    """Nothing waits for a pipe's writer, and no output counts as stored that nobody can read."""
    store = LocalStore(str(tmp_path))
    store.create("q/41/1-in", b"x")
    (tmp_path / "secret").write_bytes(b"secret")
    place = tmp_path / "q" / "41" / "0-in"
    with socket.socket(socket.AF_UNIX) as listening:
        match kind:
            case "link":
                place.symlink_to(tmp_path / "secret")
            case "pipe":
                os.mkfifo(place)
            case "socket":
                here = os.open(place.parent, os.O_RDONLY)
                listening.bind(f"/proc/self/fd/{here}/0-in")  # a socket's path is a short one
                os.close(here)
            case "folder":
                place.mkdir()

    if kind == "folder":
        with pytest.raises(ObjectNotFoundError):
            store.get("q/41/0-in")
        assert not store.exists("q/41/0-in")
    else:
        for call in (store.get, store.exists):
            with pytest.raises(StoreUnavailableError, match=f"{place} is a "):
                call("q/41/0-in")
    with pytest.raises(StoreUnavailableError, match=f"{place} is a "):
        store.create("q/41/0-in", b"x")
    assert list(store.list_prefix("q")) == ["q/41/1-in"]
    assert [found.key for found in store.list_objects("q")] == ["q/41/1-in"]
    store.delete_prefix("q/41")
    # A name of ours goes, whatever has it; what a link stands for stays.
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert place.parent.exists() == (kind == "folder")


def test_a_folder_with_other_things_in_it_stays(tmp_path: Path) -> None:
    """Without the objects and without what a killed writer left."""
    store = LocalStore(str(tmp_path))
    store.create("q/41/0-in", b"x")
    folder = tmp_path / "q" / "41"
    (folder / f"{TEMPORARY_PREFIX}1").touch()
    (folder / "notes.txt").touch()
    (folder / "deep").mkdir()
    (folder / "deep" / f"{TEMPORARY_PREFIX}1").touch()
    (folder / "link").symlink_to(tmp_path)

    count = store.delete_prefix("q/41")

    assert count == 1
    assert sorted(file.name for file in folder.iterdir()) == ["deep", "link", "notes.txt"]
    assert len(list((folder / "deep").iterdir())) == 1


@pytest.mark.parametrize("how", ["delete_prefix", "delete_objects"])
def test_empty_folders_go_with_what_was_in_them(tmp_path: Path, how: str) -> None:
    """Up to the store's own; those that hold something else stay."""
    store = LocalStore(str(tmp_path / "store"))
    store.create("jobs/41/0-in", b"x")
    store.create("jobs/42/0-in", b"x")

    def delete(folder: str) -> None:
        if how == "delete_prefix":
            store.delete_prefix(folder)
        else:
            store.delete_objects([f"{folder}/0-in"])

    delete("jobs/41")
    assert [path.name for path in (tmp_path / "store" / "jobs").iterdir()] == ["42"]

    delete("jobs/42")
    assert list((tmp_path / "store").iterdir()) == []


def test_objects_are_stored_while_the_folder_above_comes_and_goes(tmp_path: Path) -> None:
    """Each thread's last object takes the queue's folder with it, if it is empty just then."""
    store = LocalStore(str(tmp_path / "store"), durable=False)

    def use(number: int) -> None:
        for turn in range(200):
            prefix = f"jobs/{number}-{turn}"
            assert store.create(f"{prefix}/0-in", b"x")
            assert store.get(f"{prefix}/0-in") == b"x"
            store.delete_prefix(prefix)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(use, number) for number in range(4)]:
            done.result()

    assert list((tmp_path / "store").iterdir()) == []


def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was opened is what is written to and deleted from."""
    store = LocalStore(str(tmp_path / "store"))
    store.create("q/41/0-in", b"x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "0-in").touch()
    folder, moved = tmp_path / "store" / "q" / "41", tmp_path / "moved"
    scan_as_ever = os.scandir

    def swap(within: int) -> Iterator[os.DirEntry[str]]:
        folder.rename(moved)
        folder.symlink_to(tmp_path / "outside")
        return scan_as_ever(within)

    monkeypatch.setattr(os, "scandir", swap)
    store.delete_prefix("q/41")
    monkeypatch.undo()

    assert (tmp_path / "outside" / "0-in").exists()
    assert list(moved.iterdir()) == []


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    """Also where a call fails."""
    store = LocalStore(str(tmp_path))
    store.create("q/41/0-in", b"x")
    (tmp_path / "q" / "link").symlink_to(tmp_path)
    (tmp_path / "q" / "41" / "5-in").symlink_to(tmp_path)
    before = descriptors()

    for folder in ("q/41", "q/link", "q/none", "q/41/0-in"):
        for call in use_everything(store, folder).values():
            with suppress(OpsqueueError):
                call()
    for key in ("q/41/5-in", "q/41"):
        with suppress(OpsqueueError):
            store.get(key)

    assert before == descriptors()


@ON_LINUX
@pytest.mark.usefixtures("folding")
def test_a_disk_that_folds_names_holds_one_of_two_queues_that_differ_in_case(
    tmp_path: Path,
) -> None:
    """The second one is refused before it stores anything, until the first one's folder is gone."""
    store = LocalStore(str(tmp_path))
    store.create("Jobs/1a/0-in", b"of the first")

    with pytest.raises(InvalidArgumentError, match=r"'jobs' beside 'Jobs'.*another name"):
        store.create("jobs/2b/0-in", b"of the second")

    assert list(store.list_prefix("")) == ["Jobs/1a/0-in"]
    assert store.create("Jobs/2b/0-in", b"of the first, too")
    assert store.delete_prefix("Jobs/1a") + store.delete_prefix("Jobs/2b") == 2
    assert store.create("jobs/2b/0-in", b"of the second")


@ON_LINUX
@pytest.mark.usefixtures("folding")
def test_two_queues_in_one_folder_go_on(tmp_path: Path) -> None:
    """As earlier versions left them there: read, written and deleted by either name."""
    (tmp_path / "Jobs" / "2b").mkdir(parents=True)
    (tmp_path / "Jobs" / "2b" / "0-in").write_bytes(b"of the second")
    store = LocalStore(str(tmp_path))

    found = store.get("jobs/2b/0-in")
    is_stored = store.create("jobs/2b/0-out", b"result")

    assert (found, is_stored) == (b"of the second", True)
    assert store.delete_prefix("jobs/2b") == 2


def test_elsewhere_two_queues_may_differ_in_case(tmp_path: Path) -> None:
    """Each has a folder of its own."""
    store = LocalStore(str(tmp_path))

    assert store.create("Jobs/1a/0-in", b"1")
    assert store.create("jobs/1a/0-in", b"2")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["Jobs", "jobs"]
