"""A store in a folder, for one machine or a shared file system.

An object is written to a file without a name in its folder, which then gets its name by `link`: the
one system call that makes a name only if it is free, and never for half a file. Where files have to
have one (not on Linux, NFS) it is written to a temporary file, whose name goes afterwards. All I/O
is plain system calls; an error of the system is translated here.

Below the store's folder no symbolic link is followed, and only files are objects: a link could lead
to the objects of another queue, or out of the store. So a key's folders are opened one from the
other. (The path of the store's own folder may have links.)

What survives: a kill -9 leaves nothing, or at most a temporary file, which no method shows, and
which goes with its folder. A power cut, with `durable` (the default): file and folder are synced
before `create` answers, so a chunk that was reported completed has its whole output. Measured on
ext4 on a cloud disk, 10 KB objects, the system calls alone: 0.13 ms each without syncing, 0.41 ms
with the file synced, 0.59 ms with file and folder; by 16 threads 0.13, 0.21 and 0.24 ms (by
`create_many` at 16 at once 0.16 ms without syncing, 0.39 ms with). With a temporary name each takes
1.3 to 1.8 times as long. Syncing the file alone would keep half-written objects away, but a
completed chunk could lose its output: hence both. For `?durable=false` a power cut may leave empty
or missing objects: for tests, and for folders in memory.
"""

# ruff: noqa: PTH102, PTH112, PTH114, PTH120, PTH123, PTH208
# Texts and system calls, not Path objects: thousands of small files a second go through here.

from __future__ import annotations

import errno
import os
import stat
import uuid
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, BinaryIO

from opsqueue.exceptions import (
    InvalidArgumentError,
    NewObjectStoreClientError,
    ObjectNotFoundError,
    ObjectUnusableError,
    StoreUnavailableError,
)
from opsqueue.store.base import (
    STORE_ID_KEY,
    TEMPORARY_PREFIX,
    StoredObject,
    check_conditional_create,
    check_key,
    check_store_id,
    deletable_folder_of,
    folder_of,
    is_only_one_object,
    is_own_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opsqueue.exceptions import (
        OpsqueueError,
    )
    from opsqueue.store.base import StoreUrl

_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC
# On Linux a descriptor can name a folder only, which is faster and needs no right to read.
_PATH = getattr(os, "O_PATH", os.O_RDONLY)
_UNNAMED = getattr(os, "O_TMPFILE", 0) if os.path.isdir("/proc/self/fd") else 0

_OF_ONE_OBJECT = frozenset({errno.EACCES, errno.EPERM, errno.EIO})

# A folder may be deleted between making it and using it, by a clean-up: that many times.
_MAX_FOLDER_TRIES = 20


def open_local_store(url: StoreUrl) -> LocalStore:
    """Open the folder of a `file:///abs/dir` URL; it is made when the first object is.

    Raises:
        NewObjectStoreClientError: `durable` is neither true nor false.

    """
    durable = url.options.get("durable", "true")
    if durable not in ("true", "false"):
        message = f'no object store for "{url}": durable is true or false, not {durable!r}'
        raise NewObjectStoreClientError(message)
    return LocalStore(url.path, durable=durable == "true")


class LocalStore:
    """Objects as files below a folder; a key's slashes are folders."""

    def __init__(self, root: str, *, durable: bool = True) -> None:
        """Name the folder by its absolute path.

        Args:
            root: need not be there yet.
            durable: sync each object to the disk before `create` answers.

        """
        self.url = f"file://{root}"
        self.store_id = ""
        self._root = root
        self._durable = durable
        self.writes_unnamed = bool(_UNNAMED)
        """Until the file system says that it can't."""

    def get(self, key: str) -> bytes:
        """Return an object's content; see `ObjectStore.get`."""
        with self._opened(key) as file:
            return file.read()

    def get_range(self, key: str, start: int, size_bytes: int) -> bytes:
        """Return a part of an object's content; see `ObjectStore.get_range`."""
        with self._opened(key) as file:
            file.seek(start)
            return file.read(size_bytes)

    def create(self, key: str, data: bytes) -> bool:
        """Store an object unless the key is taken; see `ObjectStore.create`."""
        folder, _, name = check_key(key).rpartition("/")
        with self._border(key):
            # No look whether the folder is there: it nearly always is, and may go at any time.
            for _ in range(_MAX_FOLDER_TRIES):
                try:
                    return self._create_in(folder, name, data)
                except FileNotFoundError:
                    self._check_root()
                    with suppress(FileNotFoundError):
                        self._make_folder(folder)
            return self._create_in(folder, name, data)

    def exists(self, key: str) -> bool:
        """Tell whether there is an object of this key."""
        folder, _, name = check_key(key).rpartition("/")
        with self._border():
            try:
                within = self._open_folder(folder)
            except (FileNotFoundError, NotADirectoryError):
                self._check_root()
                return False
            try:
                return self._is_object(within, folder, name)
            finally:
                os.close(within)

    def delete_prefix(self, prefix: str) -> int:
        """Delete a submission's objects; see `ObjectStore.delete_prefix`.

        Temporary files that a killed writer left there go, too, and the folder if it is empty then,
        with those above it that held nothing else.
        """
        folder = deletable_folder_of(prefix).rstrip("/")
        with self._border(), suppress(FileNotFoundError, NotADirectoryError):
            within = self._open_folder(folder, os.O_RDONLY)
            try:
                count = _delete_own(within)
            finally:
                os.close(within)
            self._remove_empty(folder)
            return count
        self._check_root()
        return 0

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """Yield the keys of a folder; see `ObjectStore.list_prefix`."""
        with self._border():
            for key, _ in self._files_below(folder_of(prefix)):
                yield key

    def delete_objects(self, keys: Iterable[str]) -> None:
        """Delete objects; see `ObjectStore.delete_objects`."""
        # Most keys of a call are of one folder: it is opened once.
        for folder, of_folder in groupby(map(check_key, keys), key=_folder_of_key):
            with self._border():
                try:
                    within = self._open_folder(folder)
                except (FileNotFoundError, NotADirectoryError):
                    self._check_root()
                    continue
                try:
                    for key in of_folder:
                        with suppress(FileNotFoundError):
                            os.unlink(key.rpartition("/")[2], dir_fd=within)
                finally:
                    os.close(within)
                self._remove_empty(folder)

    def list_folders(self, prefix: str) -> Iterator[str]:
        """Yield the folders of a folder; see `ObjectStore.list_folders`."""
        folder = folder_of(prefix)
        with self._border():
            for entry in self._entries(folder):
                if entry.is_dir(follow_symlinks=False):
                    yield folder + entry.name

    def list_objects(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects of a folder; see `ObjectStore.list_objects`."""
        with self._border():
            for key, entry in self._files_below(folder_of(prefix)):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    found = entry.stat(follow_symlinks=False)
                    stored_at = datetime.fromtimestamp(found.st_mtime, tz=UTC)
                    yield StoredObject(key, found.st_size, stored_at)

    def check(self) -> None:
        """Find out whether the folder can be written and links can be made."""
        check_conditional_create(self)

    def close(self) -> None:
        """Nothing to give back."""

    def _remove_empty(self, folder: str) -> None:
        """Remove a folder if it is empty, and then those above it; the root stays."""
        while folder:
            parent, _, name = folder.rpartition("/")
            above = self._open_folder(parent)
            try:
                if not _remove_if_empty(name, above):
                    return
            finally:
                os.close(above)
            folder = parent

    def _open_folder(self, folder: str, flags: int = _PATH) -> int:
        """Open a folder of the store, "" for its root, without following a link below the root.

        Segment by segment from one descriptor to the next, so that nobody can put a link in
        between. The root's own path may have links: it is the operator's.

        Raises:
            FileNotFoundError, NotADirectoryError: there is none.
            StoreUnavailableError: a segment is a symbolic link.

        """
        if not folder:
            return os.open(self._root, os.O_DIRECTORY | flags)
        segments = folder.split("/")
        last = len(segments) - 1
        within: int | None = None
        for number, segment in enumerate(segments):
            # The first one together with the root: O_NOFOLLOW holds for the last segment alone.
            name = f"{self._root}/{segment}" if within is None else segment
            how = _NO_LINK | os.O_DIRECTORY | (flags if number == last else _PATH)
            try:
                opened = os.open(name, how, dir_fd=within)
            except OSError as exc:
                path = "/".join((self._root, *segments[: number + 1]))
                # Some systems have one of these errors for a link, some another.
                if exc.errno in (errno.ELOOP, errno.ENOTDIR) and os.path.islink(path):
                    raise self._refused(path, "a symbolic link") from exc
                raise
            finally:
                if within is not None:
                    os.close(within)
            within = opened
        assert within is not None  # noqa: S101 a split has one segment at least
        return within

    def _check_root(self) -> None:
        """Find out, where something is missing, whether all is: an unmounted disk leaves a folder.

        Raises:
            StoreUnavailableError: see `check_store_id`.
        """
        check_store_id(self, self.store_id)

    @contextmanager
    def _opened(self, key: str) -> Iterator[BinaryIO]:
        with self._border(key):
            try:
                descriptor = self._open_object(key)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                if key != STORE_ID_KEY:
                    self._check_root()
                raise ObjectNotFoundError(key, self.url) from None
            with open(descriptor, "rb") as file:
                yield file

    def _open_object(self, key: str) -> int:
        """Open an object's file to be read.

        Raises:
            FileNotFoundError, NotADirectoryError, IsADirectoryError: there is none.
            StoreUnavailableError: it, or a folder of it, is something else than a file or a folder.

        """
        folder, _, name = check_key(key).rpartition("/")
        within = self._open_folder(folder)
        try:
            # Without O_NONBLOCK, opening a named pipe would wait for somebody who writes to it.
            descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _NO_LINK, dir_fd=within)
        except OSError as exc:
            if isinstance(exc, FileNotFoundError | NotADirectoryError):
                raise
            self._is_object(within, folder, name)  # raises if it is no file
            raise
        finally:
            os.close(within)
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return descriptor
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        raise self._no_file(folder, name, mode)

    def _is_object(self, within: int, folder: str, name: str) -> bool:
        """Return whether a folder has a file of this name.

        Raises:
            StoreUnavailableError: it has something else of this name that is no folder either.

        """
        try:
            mode = os.stat(name, dir_fd=within, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return False
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            return stat.S_ISREG(mode)
        raise self._no_file(folder, name, mode)

    def _check_file(self, within: int, folder: str, name: str) -> None:
        """Raise StoreUnavailableError if what has this name is no file: it keeps no output."""
        with suppress(FileNotFoundError):
            mode = os.stat(name, dir_fd=within, follow_symlinks=False).st_mode
            if not stat.S_ISREG(mode):
                raise self._no_file(folder, name, mode)

    def _no_file(self, folder: str, name: str, mode: int) -> ObjectUnusableError:
        if stat.S_ISDIR(mode):
            what = "a folder in an object's place"
        else:
            what = "a symbolic link" if stat.S_ISLNK(mode) else "a pipe, a socket or a device"
        return self._refused("/".join(filter(None, (self._root, folder, name))), what)

    def _refused(self, path: str, what: str) -> ObjectUnusableError:
        return ObjectUnusableError(
            f"{self.url} can't be used: {path} is {what}, and below the store's folder only files "
            "and folders are used, so that nothing leads to other places or to other queues; "
            "replace it by what it stands for (a bind mount, for a folder on another disk)"
        )

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """Yield what a folder (`a/b/`) holds; nothing of one that is not there."""
        try:
            within = self._open_folder(folder.rstrip("/"), os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            self._check_root()
            return
        try:
            with os.scandir(within) as entries:
                yield from entries
        finally:
            os.close(within)

    def _files_below(self, folder: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        for entry in self._entries(folder):
            if entry.is_dir(follow_symlinks=False):
                yield from self._files_below(f"{folder}{entry.name}/")
            elif entry.is_file(follow_symlinks=False) and not _is_temporary(entry.name):
                yield folder + entry.name, entry

    def _create_in(self, folder: str, name: str, data: bytes) -> bool:
        # What only names a folder (O_PATH) can't be synced.
        within = self._open_folder(folder, os.O_RDONLY if self._durable else _PATH)
        try:
            created = self._write_unnamed(within, name, data)
            if created is None:
                created = self._write_named(within, name, data)
            if not created:
                self._check_file(within, folder, name)
            if self._durable:
                # Also when the key was taken: the other may have linked it but not synced it yet,
                # and our caller reports the chunk completed on our word.
                _sync(within)
        finally:
            os.close(within)
        return created

    def _write_unnamed(self, within: int, name: str, data: bytes) -> bool | None:
        """Write a file that has no name before it has its last one; None where none can be made."""
        if not self.writes_unnamed:
            return None
        try:
            descriptor = os.open(".", os.O_WRONLY | _UNNAMED, 0o666, dir_fd=within)
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            self.writes_unnamed = False
            return None
        with open(descriptor, "wb") as file:
            self._fill(file, data)
            return _link(f"/proc/self/fd/{descriptor}", name, within)

    def _write_named(self, within: int, name: str, data: bytes) -> bool:
        temporary = f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        # Not tempfile: the umask alone decides who may read, as for any file.
        how = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(temporary, how, 0o666, dir_fd=within), "wb") as file:
            try:
                self._fill(file, data)
                return _link(temporary, name, within)
            finally:
                with suppress(FileNotFoundError):  # a clean-up of the folder was faster
                    os.unlink(temporary, dir_fd=within)

    def _fill(self, file: BinaryIO, data: bytes) -> None:
        file.write(data)
        file.flush()
        if self._durable:
            os.fsync(file.fileno())

    def _make_folder(self, folder: str) -> None:
        """Make a folder, with those above it; a clean-up may remove any of them meanwhile."""
        if not folder:
            self._make_root(self._root)
            return
        parent, _, name = folder.rpartition("/")
        flags = os.O_RDONLY if self._durable else _PATH
        try:
            within = self._open_folder(parent, flags)
        except FileNotFoundError:
            self._make_folder(parent)
            within = self._open_folder(parent, flags)
        try:
            if parent:
                self._check_letters(parent)
            with suppress(FileExistsError):  # another thread or process made it
                os.mkdir(name, dir_fd=within)
            if self._durable:
                _sync(within)
        finally:
            os.close(within)

    def _check_letters(self, folder: str) -> None:
        """Refuse to fill a folder that is there, but by a name in other letters: `Jobs` for `jobs`.

        A disk that takes both for one would mix the submissions of two queues, and whatever lists
        a queue's folder would meet the other's. Asked before a folder is made in it, once a
        submission; what is there already goes on to be read, written and deleted.

        Raises:
            InvalidArgumentError: it is.
        """
        above, _, name = folder.rpartition("/")
        within = self._open_folder(above, os.O_RDONLY)
        try:
            with suppress(FileNotFoundError):
                swapped = os.stat(name.swapcase(), dir_fd=within, follow_symlinks=False)
                own = os.stat(name, dir_fd=within, follow_symlinks=False)
                if not os.path.samestat(swapped, own):
                    return  # two folders, as elsewhere
                alike = [found for found in os.listdir(within) if found.lower() == name.lower()]
                # Nothing alike: it was removed meanwhile.
                if alike and name not in alike:
                    message = (
                        f"{self.url} can't hold {name!r} beside {alike[0]!r}: its disk does not "
                        "tell capital letters from small ones; give one of the two queues another "
                        "name, or use a store that tells them apart"
                    )
                    raise InvalidArgumentError(message)
        finally:
            os.close(within)

    def _make_root(self, path: str) -> None:
        if os.path.isdir(path):
            return
        parent = os.path.dirname(path)
        self._make_root(parent)
        with suppress(FileExistsError):
            os.mkdir(path)
        if self._durable:
            descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                _sync(descriptor)
            finally:
                os.close(descriptor)

    @contextmanager
    def _border(self, key: str = STORE_ID_KEY) -> Iterator[None]:
        """Translate the system's errors; `key` is of the one object that is used."""
        try:
            yield
        except OSError as exc:
            may_be_object = exc.errno in _OF_ONE_OBJECT and key != STORE_ID_KEY
            if may_be_object and is_only_one_object(self):
                message = (
                    f"{self.url}: the object {key!r} can't be used ({exc.strerror}), though others "
                    "can: give the user that runs this program the right to it (programs of "
                    "several users need a common group and umask 002), or repair the disk"
                )
                raise ObjectUnusableError(message) from exc
            raise _translated(exc, self.url) from exc


def _link(written: str, name: str, within: int) -> bool:
    try:
        # pathlib's hardlink_to has its arguments the other way round. With a descriptor for what is
        # linked, os.link follows the link in /proc; without one it would not.
        os.link(written, name, src_dir_fd=within, dst_dir_fd=within)
    except FileExistsError:
        return False
    return True


def _sync(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # a file system that can't sync folders: nothing to do
            raise


def _delete_own(within: int) -> int:
    count = 0
    # Entries are deleted while they are read: what Linux leaves out then, if anything, are names
    # made meanwhile. Reading all of them first would take memory for a million.
    with os.scandir(within) as entries:
        for entry in entries:
            is_own = is_own_name(entry.name)
            if not (is_own or _is_temporary(entry.name)) or entry.is_dir(follow_symlinks=False):
                continue
            with suppress(FileNotFoundError):
                os.unlink(entry.name, dir_fd=within)
                count += is_own
    return count


def _remove_if_empty(name: str, within: int) -> bool:
    """Remove a folder if it is empty; return whether it is gone."""
    try:
        os.rmdir(name, dir_fd=within)
    except FileNotFoundError:
        return True
    except OSError as exc:
        # Somebody creates objects here right now, or other things lie here: they stay. So does a
        # folder that another disk is mounted at.
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EBUSY):
            raise
        return False
    return True


def _is_temporary(name: str) -> bool:
    return name.startswith(TEMPORARY_PREFIX)


def _folder_of_key(key: str) -> str:
    return key.rpartition("/")[0]


def _translated(exc: OSError, url: str) -> OpsqueueError:
    reason = exc.strerror or str(exc)
    match exc.errno:
        case errno.ENAMETOOLONG:
            return InvalidArgumentError(f"{url} can't hold a key this long: {reason}")
        case errno.EACCES | errno.EROFS:
            helps = "give the user that runs this program the right to write there"
        case errno.ENOTDIR | errno.EEXIST | errno.EISDIR:
            helps = "a file lies where a folder must be: remove it, or name another folder"
        case errno.ENOSPC | errno.EDQUOT:
            helps = "make room on the disk"
        case errno.EPERM | errno.EOPNOTSUPP | errno.EMLINK | errno.EXDEV:
            helps = "its file system must have hard links, which keep the first object of a key"
        case errno.EMFILE | errno.ENFILE:
            helps = "raise the limit of open files (ulimit -n)"
        case _:
            helps = "check the disk or the mount"
    return StoreUnavailableError(f"{url} can't be used ({reason}): {helps}")
